"""Who gets into the console."""

import asyncio
import socket
from collections.abc import MutableMapping
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ray_canary.cli import cli
from ray_canary.console import guard
from ray_canary.console.guard import Guard

TOKEN = "correct-horse-battery"
HTML = {"accept": "text/html"}


async def page(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def asked(
    app: Guard,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    base: str = "http://127.0.0.1:8300",
    data: dict[str, str] | None = None,
) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
            return await client.request(method, path, headers=headers, data=data)

    return asyncio.run(ask())


def connected(app: Guard, headers: dict[str, str]) -> str:
    """Return the type of the first answer to a websocket."""
    sent: list[str] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "websocket", "path": "/_nicegui_ws/socket.io/", "query_string": b"", "headers": raw}
    asyncio.run(app(scope, receive, send))
    return sent[0]


@pytest.mark.parametrize("name", ["127.0.0.1:8300", "localhost:8300", "[::1]:8300", "localhost"])
def test_this_machine_gets_in_by_any_name_of_loopback(name: str) -> None:
    answer = asked(Guard(page), "GET", "/", base=f"http://{name}")
    assert (answer.status_code, answer.text) == (200, "the page")


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example:8300", "10.0.0.1", "localhost.evil.example"])
def test_another_name_that_leads_here_does_not_get_in(name: str) -> None:
    assert asked(Guard(page), "GET", "/", base=f"http://{name}").status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_what_another_sites_page_makes_a_browser_do_is_refused(headers: dict[str, str]) -> None:
    assert asked(Guard(page), "POST", "/", headers).status_code == 403
    assert asked(Guard(page), "GET", "/_nicegui_ws/socket.io/", headers).status_code == 403
    assert connected(Guard(page), {"host": "127.0.0.1:8300", **headers}) == "websocket.close"


@pytest.mark.parametrize("headers", [{"host": "[::1"}, {"origin": "http://[bad"}])
def test_a_header_that_is_no_url_is_refused(headers: dict[str, str]) -> None:
    assert asked(Guard(page), "GET", "/", headers).status_code in (400, 403)


def test_a_link_on_another_site_may_lead_to_the_console() -> None:
    assert asked(Guard(page), "GET", "/deployments/x", {"sec-fetch-site": "cross-site"}).status_code == 200


def test_the_consoles_own_page_may_connect() -> None:
    own = {"host": "127.0.0.1:8300", "origin": "http://127.0.0.1:8300", "sec-fetch-site": "same-origin"}
    assert connected(Guard(page), own) == "websocket.accept"


def test_no_other_site_can_show_it_in_a_frame() -> None:
    headers = asked(Guard(page), "GET", "/").headers
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_with_a_token_nobody_gets_in_without_it() -> None:
    app = Guard(page, TOKEN)
    assert asked(app, "GET", "/").status_code == 401
    assert asked(app, "GET", "/", {"authorization": f"Bearer {TOKEN}x"}).status_code == 401
    assert asked(app, "GET", "/", {"cookie": f"{guard.COOKIE}="}).status_code == 401
    assert asked(app, "GET", "/", {"authorization": f"Bearer {TOKEN}"}).text == "the page"
    assert connected(app, {"host": "127.0.0.1:8300"}) == "websocket.close"


def test_a_browser_is_asked_for_the_token_and_gets_a_session() -> None:
    now = [0.0]
    app = Guard(page, TOKEN, lambda: now[0])
    sent = asked(app, "GET", "/deployments/x/status?a=1&b=2", HTML)
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=/deployments/x/status%3Fa%3D1%26b%3D2")
    assert 'name="token"' in asked(app, "GET", sent.headers["location"]).text
    wrong = asked(app, "POST", sent.headers["location"], data={"token": "wrong"})
    assert (wrong.status_code, "not this console" in wrong.text, "set-cookie" in wrong.headers) == (401, True, False)
    right = asked(app, "POST", sent.headers["location"], data={"token": TOKEN})
    assert (right.status_code, right.headers["location"]) == (303, "/deployments/x/status?a=1&b=2")
    set_cookie = right.headers["set-cookie"]
    assert "HttpOnly" in set_cookie
    assert "SameSite=strict" in set_cookie
    cookie = set_cookie.partition(";")[0]
    assert asked(app, "GET", "/", {"cookie": cookie}).text == "the page"
    assert connected(app, {"host": "127.0.0.1:8300", "cookie": cookie}) == "websocket.accept"
    now[0] = guard.SESSION_S + 1
    assert asked(app, "GET", "/", {"cookie": cookie}).status_code == 401


@given(st.text(st.characters(codec="latin-1"), max_size=30))
def test_nobody_is_sent_to_another_site_after_the_login(path: str) -> None:
    there = guard._within(path)
    assert there == "/" or (there == path and httpx.URL("http://console").join(there).host == "console")


def test_sessions_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SESSIONS", 2)
    app = Guard(page, TOKEN)
    cookies = [
        asked(app, "POST", "/login", data={"token": TOKEN}).headers["set-cookie"].partition(";")[0] for _ in range(3)
    ]
    assert [asked(app, "GET", "/", {"cookie": each}).status_code for each in cookies] == [401, 200, 200]


def test_a_login_that_is_too_large_is_not_read() -> None:
    assert asked(Guard(page, TOKEN), "POST", "/login", data={"token": "x" * 5000}).status_code == 413


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "gpu-box"])
def test_another_address_is_refused_without_a_token(host: str) -> None:
    done = CliRunner().invoke(cli, ["console", "--host", host], env={"RAY_CANARY_CONSOLE_TOKEN": None})
    assert done.exit_code == 2
    assert f"--host: '{host}' lets in others than this machine" in done.stderr


@pytest.mark.parametrize("token", ["", "short", "a\nb" * 10, "é" * 20])
def test_a_token_that_is_too_easy_or_no_text_is_refused(token: str) -> None:
    done = CliRunner().invoke(cli, ["console", "--host", "0.0.0.0"], env={"RAY_CANARY_CONSOLE_TOKEN": token})
    assert done.exit_code == 2
    assert "is not a token of 16 or more printable ASCII characters" in " ".join(done.stderr.split())


def test_a_prometheus_that_is_no_url_is_refused() -> None:
    done = CliRunner().invoke(cli, ["console", "--prometheus", "nonsense"])
    assert done.exit_code == 2
    assert "--prometheus: 'nonsense' is not a URL like http://127.0.0.1:9090" in " ".join(done.stderr.split())


def test_a_port_that_somebody_else_has_is_refused_before_anything_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = CliRunner().invoke(cli, ["console", "--port", str(port), "--no-open"])
    assert done.exit_code == 2, done.output
    assert f"--port: {port} is taken on 127.0.0.1; another console may run already" in done.output
    assert "The console:" not in done.output


@pytest.mark.parametrize(
    ("host", "why"),
    [("192.0.2.1", "can't listen on '192.0.2.1', port 8300: Cannot assign"), ("no.such.invalid", "is no address")],
)
def test_an_address_that_this_machine_has_not_is_refused(host: str, why: str) -> None:
    done = CliRunner().invoke(cli, ["console", "--host", host], env={"RAY_CANARY_CONSOLE_TOKEN": "x" * 16})
    assert done.exit_code == 2, done.output
    assert "--host: " in done.output
    assert why in done.output
