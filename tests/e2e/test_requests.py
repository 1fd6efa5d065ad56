"""What becomes of a request on its way to a Bento and back: bytes in, bytes out, and every way in which it can fail."""

import hashlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import websockets
import yaml
from websockets.sync.client import connect

from tests.e2e.deployments import HTTP_PORT, probe
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.test_changes_under_load import key_of, split

MAX_BODY = 30_000_000
#: `a`'s seconds to the first byte of a response.
TIMEOUT_S = 4
SECOND = "/second/deep"
#: How long a request to `second` may wait for a replica, and how many requests a replica there takes at once.
WAIT_S, PLACES = 0.7, 2
#: What the shared machine may add to a time that is measured.
SLACK_S = 1.0

HEADER = "X-User-ID"
MAIN, A = ({HEADER: key_of(split({"a": 30}), version)} for version in ("main", "a"))


@pytest.fixture(scope="module")
def cluster(either: RealCluster) -> RealCluster:
    """Two Deployments: `probe`, whose `a` has little time, and under another prefix `second`, which has little room."""
    first = probe({"a": 30}, route_type="header", route_by=HEADER)
    first["ray"]["ingress"]["max_body_bytes"] = MAX_BODY
    first["canary"]["versions"]["a"]["services"] = {
        "Probe": {"config_overrides": {"traffic": {"timeout": TIMEOUT_S, "max_concurrency": PLACES}}}
    }
    second = probe({}, name="second", route_prefix=SECOND, ingress_replicas=1)
    second["ray"]["ingress"]["target_wait_s"] = WAIT_S
    second["ray"]["hosts"] = {"max_ongoing_requests": PLACES}
    configs = [yaml.safe_load(Path(either.build(file)).read_text()) for file in (first, second)]
    applications = [application for config in configs for application in config["applications"]]
    either.serve_deploy(either.write("both.yaml", {**configs[0], "applications": applications}))
    either.until_ready("probe")
    either.until_ready("second")
    return either


@pytest.fixture
def client(cluster: RealCluster) -> Iterator[httpx.Client]:
    """A client whose requests go to main."""
    with httpx.Client(base_url=cluster.url, headers=MAIN, timeout=30) as client:
        yield client


class Raw:
    """A connection on which a test writes and reads every byte itself."""

    def __init__(self, *lines: str, body: bytes = b"") -> None:
        self._socket = socket.create_connection(("127.0.0.1", HTTP_PORT), timeout=30)
        self.received = b""
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read(self) -> bool:
        """Wait for more; return False when the other side has closed the connection."""
        try:
            more = self._socket.recv(65536)
        except ConnectionResetError:
            return False
        self.received += more
        return bool(more)

    def until(self, expected: bytes, count: int = 1) -> bytes:
        """Read until `expected` has come; return all that has."""
        while self.received.count(expected) < count:
            assert self.read(), f"closed before {expected!r} came: {self.received!r}"
        return self.received

    def until_closed(self) -> bytes:
        while self.read():
            pass
        return self.received

    def close(self) -> None:
        self._socket.close()


def raw(method: str, path: str, *headers: str, body: bytes = b"") -> "closing[Raw]":
    """Send a request as it stands; Content-Length is for the caller to give."""
    return closing(Raw(f"{method} {path} HTTP/1.1", "Host: test", *headers, body=body))


@contextmanager
def under_way(count: int, path: str, body: dict[str, Any], *headers: str) -> Iterator[list[Raw]]:
    """Have `count` calls of an API under way, and leave them at the end."""
    content = json.dumps(body).encode()
    lines = ["Host: test", *headers, "Content-Type: application/json", f"Content-Length: {len(content)}"]
    connections = [Raw(f"POST {path} HTTP/1.1", *lines, body=content) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def as_lines(headers: dict[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


def seen(response: httpx.Response) -> list[str]:
    """Return the request's headers as the Bento saw them, as `name=value`."""
    return response.headers.get_list("seen-header")


def busy(client: httpx.Client, headers: dict[str, str] | None = None) -> int:
    """How many calls of `sleep` and `ticks` are under way in a version's only replica."""
    return int(client.post("/busy", json={}, headers=headers).raise_for_status().json()["now"])


# What passes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
def test_any_method_passes(client: httpx.Client, method: str) -> None:
    response = client.request(method, "/web/echo", content=b"" if method == "HEAD" else b"body")
    assert (response.status_code, response.headers["seen-method"]) == (200, method)
    assert response.content == (b"" if method == "HEAD" else b"body")


def test_a_response_says_which_version_answered_which_bento_it_was_and_why(client: httpx.Client) -> None:
    said = [
        [response.headers[f"x-bento-{name}"] for name in ("version", "tag", "split")]
        for response in (client.get("/livez"), client.get("/livez", headers=A))
    ]
    assert said == [["main", "probe:v1", "keyed"], ["a", "probe:v2", "keyed"]]


def test_a_bento_cannot_forge_what_the_ingress_says(client: httpx.Client) -> None:
    headers = client.get("/web/echo").headers
    assert headers.get_list("x-bento-version") == ["main"]
    assert headers.get_list("x-bento-tag") == ["probe:v1"]
    assert headers.get_list("x-bento-split") == ["keyed"]


def test_repeated_headers_stay_repeated_in_their_order_both_ways(client: httpx.Client) -> None:
    response = client.get("/web/echo", headers=[("X-Twice", "2"), ("X-Other", ""), ("X-Twice", "1")])
    assert [line for line in seen(response) if line.startswith("x-twice")] == ["x-twice=2", "x-twice=1"]
    assert "x-other=" in seen(response)
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]


def test_headers_that_concern_one_connection_do_not_travel_on(client: httpx.Client) -> None:
    hop_by_hop = {
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
        "Keep-Alive": "timeout=5",
        "TE": "trailers",
        "Trailer": "X-Checksum",
        "Proxy-Connection": "keep-alive",
        "Proxy-Authorization": "Basic eA==",
    }
    response = client.get("/web/echo", headers={**hop_by_hop, "X-End": "1"})
    names = {line.partition("=")[0] for line in seen(response)}
    assert "x-end" in names
    assert not names & {name.lower() for name in hop_by_hop}
    assert "x-private" not in response.headers
    assert "x-private" not in response.headers.get("connection", "")


@pytest.mark.parametrize(
    "target",
    [
        "/web/echo/a%2Fb%20c/%C3%A9/%FF/%25",
        "/web/%65cho/x;y=1/~user/(a)/+/:@!$'*,",
        "/web/echo//double//",
        "/web/echo/%2e%2e/x",
        "/web/echo?a=%20b&&c&=d&a=+%zz%FF&e=?/#".removesuffix("#"),
        "/web/echo?",
    ],
)
def test_path_and_query_arrive_byte_for_byte(cluster: RealCluster, target: str) -> None:
    path, _, query = target.partition("?")
    with closing(http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=30)) as connection:
        connection.request("GET", target, headers=MAIN)
        response = connection.getresponse()
        assert response.status == 200
        assert (response.getheader("seen-path"), response.getheader("seen-query")) == (path, query)


def test_any_bytes_of_a_body_pass_both_ways(client: httpx.Client) -> None:
    body = bytes(range(256)) * 4
    assert client.post("/web/echo", content=body).content == body


def test_a_chunked_body_reaches_an_api(client: httpx.Client) -> None:
    response = client.post(
        "/count", content=iter([b'{"te', b'xt": "four"}']), headers={"Content-Type": "application/json"}
    )
    assert (response.status_code, response.text) == (200, "4")


def test_large_bodies_arrive_whole_both_ways(client: httpx.Client) -> None:
    body = os.urandom(1 << 16) * 320
    assert 20_000_000 < len(body) < MAX_BODY
    echoed = client.post("/web/echo", content=body).content
    assert hashlib.sha256(echoed).hexdigest() == hashlib.sha256(body).hexdigest()


def test_a_large_answer_arrives_whole(client: httpx.Client) -> None:
    count = 20_000_000
    answered = client.get("/web/bytes", params={"count": count}).content
    expected = bytes(range(251)) * (count // 251 + 1)
    assert hashlib.sha256(answered).hexdigest() == hashlib.sha256(expected).hexdigest()


def test_headers_of_14_kb_pass(client: httpx.Client) -> None:
    """HAProxy answers 400 itself where request line and headers are above 15 kB together; Serve's proxy takes more."""
    value = "x" * 14_000
    assert f"x-large={value}" in seen(client.get("/web/echo", headers={"X-Large": value}))


def test_one_connection_carries_many_requests_even_all_sent_at_once(cluster: RealCluster) -> None:
    request = "\r\n".join(["GET /web/echo/{} HTTP/1.1", "Host: test", *as_lines(MAIN), "", ""])
    with closing(Raw(request.format("first") + request.format("second").rstrip())) as connection:
        answered = connection.until(b"seen-path: /web/echo/second")
        assert answered.count(b"HTTP/1.1 200 OK") == 2
        assert answered.index(b"/web/echo/first") < answered.index(b"/web/echo/second")


def test_a_client_that_expects_100_continue_gets_it_before_it_sends_the_body(cluster: RealCluster) -> None:
    headers = [*as_lines(MAIN), "Content-Length: 4", "Expect: 100-continue"]
    with raw("POST", "/web/echo", *headers) as connection:
        connection.until(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.send(b"body")
        assert connection.until(b"\r\n\r\nbody").count(b"HTTP/1.1 200 OK") == 1


# Streaming ------------------------------------------------------------------------------------------------------------


def test_each_piece_of_a_stream_arrives_when_it_is_sent(client: httpx.Client) -> None:
    arrived: list[float] = []
    sent: list[float] = []
    with client.stream("GET", "/web/stamps", params={"count": 6, "every_s": 0.3}) as response:
        for line in response.iter_lines():
            arrived.append(time.monotonic())
            sent.append(float(line))
    assert len(sent) == 6
    assert arrived[0] < sent[-1], "the first piece came only when the Bento was done"
    late = [there - here for here, there in zip(sent, arrived, strict=True)]
    assert max(late) < 0.25


def test_an_api_streams_too(client: httpx.Client) -> None:
    with httpx.Client(base_url=str(client.base_url), headers=MAIN, timeout=30) as other:
        assert busy(other) == 0
        with client.stream("POST", "/ticks", json={"count": 3, "every_s": 1}) as response:
            lines = response.iter_lines()
            assert next(lines) == "0"
            assert busy(other) == 1, "the Bento was done when the first piece came"
            assert list(lines) == ["1", "2"]


# A client that leaves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["X-Request-Disconnect-Disabled: ?1"]], ids=["plain", "disconnect-disabled"])
@pytest.mark.parametrize(("path", "body"), [("/sleep", {"seconds": 50}), ("/ticks", {"count": 500, "every_s": 0.1})])
def test_a_client_that_leaves_ends_the_work_in_the_bento(
    client: httpx.Client, path: str, body: dict[str, Any], more: list[str]
) -> None:
    with under_way(1, path, body, *as_lines(MAIN), *more) as (connection,):
        wait_for(lambda: busy(client) == 1, "the Bento works on it", 10)
        if path == "/ticks":
            connection.until(b"3\n")
    wait_for(lambda: busy(client) == 0, "the Bento has stopped", 10)


# What is refused ------------------------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(cluster: RealCluster) -> None:
    with raw("POST", "/web/echo", f"Content-Length: {MAX_BODY + 1}") as connection:
        answered = connection.until(b"}")
    assert answered.startswith(b"HTTP/1.1 413 ")
    assert answered.endswith(b'\r\n\r\n{"error": "Request body is larger than %d bytes"}' % MAX_BODY)


def test_a_body_that_turns_out_too_large_is_refused(client: httpx.Client) -> None:
    response = client.post("/web/echo", content=(b"x" * 1_000_000 for _ in range(MAX_BODY // 1_000_000 + 1)))
    assert response.status_code == 413
    assert response.json() == {"error": f"Request body is larger than {MAX_BODY} bytes"}


def test_asking_for_a_version_takes_a_token(client: httpx.Client) -> None:
    response = client.get("/livez", headers={"X-Bento-Version": "a"})
    assert response.status_code == 401
    assert "needs an access token" in response.json()["error"]


def test_headers_that_steer_serve_do_not_reach_the_bento(client: httpx.Client) -> None:
    steering = {
        "x-request-timeout-seconds": "20",
        "x-request-disconnect-disabled": "?1",
        "serve_multiplexed_model_id": "m",
        "serve-multiplexed-model-id": "m",
        "x-session-id": "s",
        "x_session_id": "s",
    }
    names = {line.partition("=")[0] for line in seen(client.get("/web/echo", headers=steering))}
    assert not names & set(steering)


def test_a_request_id_of_the_client_reaches_the_bento_and_comes_back(client: httpx.Client) -> None:
    response = client.get("/web/echo", headers={"X-Request-ID": "my-own-1"})
    assert [line for line in seen(response) if line.startswith("x-request-id")] == ["x-request-id=my-own-1"]
    assert response.headers.get_list("x-request-id") == ["my-own-1"]


def test_a_request_without_an_id_gets_one(client: httpx.Client) -> None:
    response = client.get("/web/echo")
    assert f"x-request-id={response.headers['x-request-id']}" in seen(response)


def test_a_websocket_that_no_app_takes_is_refused_at_once(cluster: RealCluster, client: httpx.Client) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{HTTP_PORT}/web/echo", open_timeout=10).close()
    assert refused.value.response.status_code == 403
    assert client.get("/livez").status_code == 200


# What a Bento offers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/metrics", "/schema.json", "/docs.json", "/"])
def test_the_pages_that_every_bento_has_answer(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    if path.endswith(".json"):
        assert "Probe" in response.text
        response.json()


def test_an_inner_service_is_reached_through_the_entry_service_only(cluster: RealCluster, client: httpx.Client) -> None:
    assert client.post("/count", json={"text": "letters"}).json() == 7
    inner = cluster.pids("probe-main", "Letters")
    assert {client.post("/inner_pid", json={}).json()} == inner
    assert client.post("/who", json={}).json()["pid"] not in inner
    for path in ("/pid", "/Letters/pid", "/letters/pid"):
        assert client.post(path, json={}).status_code == 404


def test_no_port_of_a_replica_leads_past_the_split(cluster: RealCluster) -> None:
    """In HAProxy mode Serve gives the replicas of every application's entry deployment an HTTP port of their own."""
    for pid in cluster.pids("probe-main") | cluster.pids("probe-canary-a"):
        listening = [one for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        for port in (one.laddr.port for one in listening):
            assert not answers(port, "/who"), f"the Bento answers at port {port}"
            assert not answers(port, "/pid"), f"the inner service answers at port {port}"


def answers(port: int, path: str) -> bool:
    try:
        return httpx.post(f"http://127.0.0.1:{port}{path}", json={}, timeout=5).is_success
    except httpx.HTTPError:
        return False


def test_tasks_are_submitted_and_fetched(client: httpx.Client) -> None:
    task = {"task_id": client.post("/job/submit", json={"text": "quiet"}).raise_for_status().json()["task_id"]}
    done = lambda: client.get("/job/status", params=task).raise_for_status().json()["status"] == "completed"  # noqa: E731
    wait_for(done, "the task is done", 10)
    assert client.get("/job/get", params=task).text == "QUIET"


# A Deployment under a prefix ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/web/echo", "/web/echo/second/deep/a%2Fb", "/web/%65cho/second"])
def test_a_bento_does_not_see_the_route_prefix(client: httpx.Client, path: str) -> None:
    response = client.get(f"{SECOND}{path}?q=%20")
    assert (response.status_code, response.headers["seen-path"]) == (200, path)
    assert response.headers["seen-query"] == "q=%20"


def test_the_page_at_the_prefix_itself_is_the_bentos_first(client: httpx.Client) -> None:
    for path in (SECOND, f"{SECOND}/"):
        assert client.get(path).status_code == 200


def test_a_path_that_only_begins_like_the_prefix_belongs_to_the_other_deployment(client: httpx.Client) -> None:
    assert client.get(f"{SECOND}er/web/echo").headers["x-bento-version"] == "main"
    assert client.get(f"{SECOND}er/web/echo").status_code == 404
    assert client.post("/inner_pid", json={}).json() != client.post(f"{SECOND}/inner_pid", json={}).json()


def test_a_key_of_10_kb_in_the_query_passes(client: httpx.Client) -> None:
    key = "k" * 10_000
    response = client.get(f"{SECOND}/web/echo", params={"feature": key})
    assert response.headers["seen-query"] == f"feature={key}"
    assert response.headers["x-bento-split"] == "keyed"


def test_a_request_to_a_target_whose_replicas_are_all_busy_waits_for_its_turn(client: httpx.Client) -> None:
    """It is neither turned away nor answered by another version, though it waits longer than `target_wait_s`."""

    def waited() -> bool:
        response = client.get(f"{SECOND}/web/counts")
        assert (response.status_code, response.headers["x-bento-version"]) == (200, "main")
        return response.elapsed.total_seconds() > WAIT_S

    with under_way(PLACES, f"{SECOND}/sleep", {"seconds": 6 * WAIT_S}):
        wait_for(waited, "a request has waited for busy replicas", 6 * WAIT_S)


# What goes wrong in a Bento -------------------------------------------------------------------------------------------


def test_an_exception_of_a_bento_is_answered_500_at_once(client: httpx.Client) -> None:
    response = client.get("/web/raise")
    assert response.status_code == 500
    assert response.elapsed.total_seconds() < SLACK_S
    assert response.headers["x-bento-version"] == "main"


@pytest.mark.parametrize("version", [MAIN, {}], ids=["main", "second"])
def test_a_response_that_breaks_in_the_middle_has_no_proper_end(client: httpx.Client, version: dict[str, str]) -> None:
    path = "/web/break" if version else f"{SECOND}/web/break"
    with raw("GET", path, *as_lines(MAIN)) as connection:
        answered = connection.until_closed()
    assert b"the beginning" in answered
    assert not answered.endswith(b"0\r\n\r\n"), "the client can't tell that something is missing"
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(path)


def test_a_request_that_takes_too_long_is_answered_504_and_its_work_ends(client: httpx.Client) -> None:
    """`a` takes two requests at once, and BentoML answers a third with 429: the two that were too slow are over."""
    slow: list[httpx.Response] = []

    def one() -> None:
        slow.append(client.post("/sleep", json={"seconds": 20}, headers=A))

    threads = [threading.Thread(target=one) for _ in range(PLACES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for response in slow:
        assert response.status_code == 504
        assert response.json() == {"error": f"Not able to process the request in {TIMEOUT_S} seconds"}
        assert response.headers["x-bento-version"] == "a"
        assert TIMEOUT_S <= response.elapsed.total_seconds() < TIMEOUT_S + SLACK_S
    quick = lambda: client.post("/sleep", json={"seconds": 0.0}, headers=A).status_code == 200  # noqa: E731
    wait_for(quick, "there is room for others", 5)
    wait_for(lambda: busy(client, A) == 0, "the Bento has stopped", 5)


def test_a_response_that_began_in_time_may_take_longer_than_the_timeout(client: httpx.Client) -> None:
    response = client.post("/ticks", json={"count": 5, "every_s": 1.1}, headers=A)
    assert response.text.split() == ["0", "1", "2", "3", "4"]
    assert response.elapsed.total_seconds() > TIMEOUT_S


def until_a_answers(client: httpx.Client) -> None:
    def back() -> bool:
        response = client.get("/livez", headers=A)
        answered.append((response.status_code, response.headers["x-bento-version"]))
        return answered[-1] == (200, "a")

    answered: list[tuple[int, str]] = []
    wait_for(back, "a answers again", 60)
    assert {status for status, _ in answered} <= {200, 502, 503}, answered
    assert [version for status, version in answered[:-1] if status == 200] == ["main"] * sum(
        status == 200 for status, _ in answered[:-1]
    )


def test_a_request_whose_replica_dies_is_answered_502_and_the_version_recovers(
    cluster: RealCluster, client: httpx.Client
) -> None:
    """Its users are main's meanwhile; those whose requests reach the dead replica get a 502 soon, and no 504 late."""
    before = cluster.pids("probe-canary-a", "Probe")
    response = client.post("/exit", json={}, headers=A)
    assert response.status_code == 502
    assert response.json()["error"].startswith("Bad Gateway: a broke")
    assert response.headers["x-bento-version"] == "a"
    until_a_answers(client)
    assert cluster.pids("probe-canary-a", "Probe").isdisjoint(before)


def test_a_stream_whose_replica_is_killed_has_no_proper_end(cluster: RealCluster, client: httpx.Client) -> None:
    pid = client.post("/who", json={}, headers=A).raise_for_status().json()["pid"]
    with under_way(1, "/ticks", {"count": 500, "every_s": 0.1}, *as_lines(A)) as (connection,):
        connection.until(b"3\n")
        os.kill(pid, signal.SIGKILL)
        assert not connection.until_closed().endswith(b"0\r\n\r\n"), "the client can't tell that something is missing"
