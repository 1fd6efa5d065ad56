"""Nobody gets in without a token, by no way there is, and no token is found where it doesn't belong."""

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from ray_canary import access
from ray_canary.serving import local
from ray_canary.serving.access import PREFIX
from ray_canary.serving.cluster import Cluster
from tests.e2e.deployments import HTTP_PORT, OFFSET, probe
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.test_changes_under_load import key_of, split

OPEN = "/open"
#: Within so many seconds a token that was revoked is of no use any more, on any ingress replica.
REVOKED_WITHIN_S = 1.0
#: Requests that surely meet both ingress replicas.
MANY = 40
#: Every text that must not be found in any log or API: those who use another one add it here.
SECRETS: set[str] = set()

HEADER = "X-User-ID"
TO_A = {HEADER: key_of(split({"a": 30}), "a")}
SYSTEM_PATHS = ("/", "/livez", "/readyz", "/healthz", "/metrics", "/schema.json", "/docs.json")


@pytest.fixture(scope="module")
def cluster(either: RealCluster) -> RealCluster:
    """`shut` needs a token for every request, and has `a` at weight 0; `open` needs none, and splits by query."""
    shut = probe({"a": 0}, name="shut", route_type="header", route_by=HEADER)
    shut["access_authorization"] = True
    other = probe({}, name="open", route_prefix=OPEN, ingress_replicas=1)
    configs = [yaml.safe_load(Path(either.build(file)).read_text()) for file in (shut, other)]
    applications = [application for config in configs for application in config["applications"]]
    either.serve_deploy(either.write("both.yaml", {**configs[0], "applications": applications}))
    either.until_ready("shut", timeout_s=240)
    either.until_ready("open", timeout_s=240)
    return either


def new_token(cluster: RealCluster, *arguments: str) -> str:
    """Create a token as a shell does; it counts on every ingress replica when the command ends."""
    token = cluster.canary("token", "create", *arguments).stdout.strip()
    assert re.fullmatch(r"rct_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", token)
    SECRETS.add(token.split("_", 2)[2])
    return token


@pytest.fixture(scope="module")
def token(cluster: RealCluster) -> str:
    """A token for `shut`."""
    return new_token(cluster, "--name", "for shut", "--deployment", "shut")


@pytest.fixture(scope="module")
def others(cluster: RealCluster) -> str:
    """A token for `open`."""
    return new_token(cluster, "--name", "for open", "--deployment", "open")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def get(cluster: RealCluster, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.get(f"{cluster.url}{path}", headers=headers, timeout=30)


def replicas(cluster: RealCluster) -> dict[str, set[int]]:
    return {name: cluster.pids(name) for name in cluster.state().applications}


def assert_refused(response: httpx.Response, status: int, told: str) -> None:
    assert response.status_code == status, response.text
    assert told in response.json()["error"]
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert "x-bento-version" not in response.headers
    assert not any(secret in f"{response.headers}{response.text}" for secret in SECRETS)


# Tokens ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*SYSTEM_PATHS, "/who", "/web/echo", "/static_content/x", "/no/such/path"])
def test_without_a_token_no_path_is_answered(cluster: RealCluster, path: str) -> None:
    assert_refused(get(cluster, path), 401, "needs an access token")
    assert_refused(httpx.post(f"{cluster.url}{path}", json={}, timeout=30), 401, "needs an access token")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
def test_without_a_token_no_method_is_answered(cluster: RealCluster, method: str) -> None:
    assert httpx.request(method, f"{cluster.url}/web/echo", timeout=30).status_code in (401, 405)


@pytest.mark.parametrize("path", SYSTEM_PATHS[1:])
def test_with_a_token_every_path_is_as_ever(cluster: RealCluster, token: str, path: str) -> None:
    assert get(cluster, path, bearer(token)).status_code == get(cluster, f"{OPEN}{path}").status_code


def test_a_wrong_token_is_refused(cluster: RealCluster, token: str) -> None:
    changed = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    for wrong in (changed, f"rct_00000000_{token.split('_', 2)[2]}"):
        assert_refused(get(cluster, "/livez", bearer(wrong)), 401, "unknown, or revoked")
    assert_refused(get(cluster, "/livez", {"Authorization": f"Basic {token}"}), 401, "is not Bearer")
    assert_refused(get(cluster, "/livez", {"Authorization": token}), 401, "is not Bearer")


def test_two_authorization_headers_are_refused_even_if_one_is_right(cluster: RealCluster, token: str) -> None:
    twice = [("Authorization", f"Bearer {token}"), ("Authorization", "Bearer x")]
    for headers in (twice, twice[::-1]):
        response = httpx.get(f"{cluster.url}/livez", headers=headers, timeout=30)
        assert response.status_code == 401, response.text


def test_another_deployments_token_is_refused_and_one_for_all_is_not(
    cluster: RealCluster, token: str, others: str
) -> None:
    assert_refused(get(cluster, "/livez", bearer(others)), 403, "for another Deployment")
    assert get(cluster, "/livez", bearer(token)).status_code == 200
    assert get(cluster, "/livez", bearer(new_token(cluster))).status_code == 200


def test_an_expired_token_is_refused_from_that_moment_on(cluster: RealCluster) -> None:
    issued = access.create_token(expires_in=8, address=cluster.local.address)
    SECRETS.add(issued.text.split("_", 2)[2])
    wait_for(lambda: get(cluster, "/livez", bearer(issued.text)).status_code == 200, "it counts", 2)
    end = issued.token.expires_at
    assert end is not None
    wait_for(lambda: time.time() > end, "its time is over", 10, every_s=0.01)
    for _ in range(MANY):
        assert_refused(get(cluster, "/livez", bearer(issued.text)), 401, "has expired")


def test_a_revoked_token_is_refused_within_a_second_on_every_replica_and_nothing_restarts(
    cluster: RealCluster,
) -> None:
    before = replicas(cluster)
    token = new_token(cluster, "--name", "leaked")
    assert all(get(cluster, "/livez", bearer(token)).status_code == 200 for _ in range(MANY))
    access.revoke_token(token, address=cluster.local.address)
    revoked = time.monotonic()
    with (
        ThreadPoolExecutor(4) as clients,
        httpx.Client(base_url=cluster.url, headers=bearer(token), timeout=30) as http,
    ):

        def ask(_: int) -> tuple[float, int]:
            sent = time.monotonic()
            return sent, http.get("/livez").status_code

        answers: list[tuple[float, int]] = []
        while not answers or answers[-1][0] < revoked + REVOKED_WITHIN_S + 0.5:
            answers += clients.map(ask, range(8))
    last = max((sent - revoked for sent, status in answers if status == 200), default=0.0)
    print(f"the last request with a revoked token got in {last:.2f} s after it, of {len(answers)}")
    late = {status for sent, status in answers if sent > revoked + REVOKED_WITHIN_S}
    assert {status for _, status in answers} <= {200, 401}
    assert late == {401}
    assert replicas(cluster) == before


def test_the_bento_never_sees_a_token_but_its_own_authorization(cluster: RealCluster, token: str) -> None:
    def seen(path: str, headers: dict[str, str]) -> list[str]:
        response = get(cluster, path, headers)
        assert response.status_code == 200
        return [line for line in response.headers.get_list("seen-header") if line.startswith("authorization=")]

    assert seen("/web/echo", bearer(token)) == []
    assert seen(f"{OPEN}/web/echo", bearer(token)) == []
    assert seen(f"{OPEN}/web/echo", {"Authorization": "Basic eDp5"}) == ["authorization=Basic eDp5"]


def test_bentomls_own_client_takes_a_token(cluster: RealCluster, token: str) -> None:
    script = (
        "import sys, bentoml\n"
        "url, token, wait_s = sys.argv[1:]\n"
        "with bentoml.SyncHTTPClient(url, token=token, server_ready_timeout=int(wait_s)) as client:\n"
        "    print(client.env(name='PROBE_NAME'))\n"
    )
    assert cluster.run(sys.executable, "-c", script, cluster.url, token, "60").stdout.strip() == "main"
    done = cluster.run(sys.executable, "-c", script, cluster.url, token[:-2], "2", code=1)
    assert "Server is not ready after 2 seconds" in done.stderr  # whatever /readyz answers, 401 here


def test_access_is_switched_on_and_off_live_and_nothing_restarts(cluster: RealCluster, others: str) -> None:
    before = replicas(cluster)
    config = yaml.safe_load((cluster.work / "both.yaml").read_text())
    (ingress,) = [one["deployments"][0] for one in config["applications"] if one["name"] == "open"]
    for needed, status in ((True, 401), (False, 200)):
        ingress["user_config"]["access_authorization"] = needed
        cluster.serve_deploy(cluster.write("switched.yaml", config))
        wait_for(lambda: get(cluster, f"{OPEN}/livez").status_code == status, f"access is {needed}", 20)  # noqa: B023
        assert get(cluster, f"{OPEN}/livez", bearer(others)).status_code == 200
    wait_for(lambda: replicas(cluster) == before, "the same replicas run", 20)


def test_an_ingress_replica_knows_the_tokens_from_its_first_request_on(cluster: RealCluster, token: str) -> None:
    before = cluster.pids("shut")
    os.kill(min(before), signal.SIGKILL)
    answers: list[tuple[int, str]] = []

    def replaced() -> bool:
        response = get(cluster, "/livez", bearer(token))
        answers.append((response.status_code, response.text))
        now = cluster.pids("shut")
        return len(now) == 2 and now != before

    wait_for(replaced, "a new ingress replica runs", 90)
    answers += [(one.status_code, one.text) for one in (get(cluster, "/livez", bearer(token)) for _ in range(MANY))]
    # Some may have been on their way to the replica that died; nobody was turned away.
    assert not [answer for answer in answers if answer[0] in (401, 403) or "have not been read" in answer[1]]
    assert [status for status, _ in answers[-MANY:]] == [200] * MANY


# Pinning --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", OPEN])
@pytest.mark.parametrize("version", ["main", "a", "nowhere"])
def test_without_a_right_token_no_version_can_be_asked_for(
    cluster: RealCluster, token: str, others: str, prefix: str, version: str
) -> None:
    pin = {"X-Bento-Version": version}
    assert_refused(get(cluster, f"{prefix}/livez", pin), 401, "needs an access token")
    wrong = others if prefix == "" else token
    assert_refused(get(cluster, f"{prefix}/livez", {**pin, **bearer(wrong)}), 403, "for another Deployment")


@pytest.mark.parametrize("version", ["main", "a"])
def test_with_a_token_any_version_can_be_asked_for_also_at_weight_0(
    cluster: RealCluster, token: str, version: str
) -> None:
    for headers in ({}, TO_A):
        response = get(cluster, "/web/echo", {"X-Bento-Version": version, **bearer(token), **headers})
        assert response.status_code == 200
        assert (response.headers["x-bento-version"], response.headers["x-bento-split"]) == (version, "pinned")
        assert not any(line.startswith("x-bento-version=") for line in response.headers.get_list("seen-header"))


def test_a_version_that_is_not_there_is_named_with_those_that_are(cluster: RealCluster, token: str) -> None:
    response = get(cluster, "/livez", {"X-Bento-Version": "b", **bearer(token)})
    assert response.status_code == 404
    expected = 'Not Found: "b" is not a version of Deployment shut; there are main, a'
    assert response.json() == {"error": expected}


# The command line -----------------------------------------------------------------------------------------------------


def test_tokens_are_listed_without_their_secrets_and_revoked_by_id(cluster: RealCluster) -> None:
    made = json.loads(cluster.canary("token", "create", "--name", "ci", "--expires", "30d", "-o", "json").stdout)
    SECRETS.add(made["token"].split("_", 2)[2])
    rows = json.loads(cluster.canary("token", "list", "-o", "json").stdout)
    (row,) = [row for row in rows if row["id"] == made["id"]]
    assert row == {key: value for key, value in made.items() if key != "token"}
    assert (row["name"], row["deployments"], row["expired"]) == ("ci", None, False)
    told = "".join(cluster.canary("token", "list", "-o", output).stdout for output in ("table", "yaml", "json"))
    kept = Cluster(cluster.local.address).store().items(PREFIX)
    assert not any(secret in told for secret in SECRETS)
    assert not any(record["digest"] in told for record in kept.values())
    assert f"Revoked token {made['id']} (ci)." in cluster.canary("token", "revoke", made["id"]).stdout
    near = made["id"][:-1] + ("0" if made["id"][-1] != "0" else "1")
    assert f"The cluster has no token '{near}'" in cluster.canary("token", "revoke", near, code=1).stderr
    assert made["id"] not in cluster.canary("token", "list").stdout


def test_a_token_for_a_deployment_that_is_not_there_is_made_with_a_warning(cluster: RealCluster) -> None:
    done = cluster.canary("token", "create", "--deployment", "shutt")
    assert "Warning: the cluster has no Deployment 'shutt'; did you mean 'shut'?" in done.stderr
    cluster.canary("token", "revoke", done.stdout.strip())


# Ports ----------------------------------------------------------------------------------------------------------------


def ports_of(pids: set[int]) -> set[int]:
    """Return the TCP ports on which processes listen."""
    found = (one for pid in pids for one in psutil.Process(pid).net_connections("tcp"))
    return {one.laddr.port for one in found if one.status == psutil.CONN_LISTEN}


def speaks_http(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/-/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def counts(cluster: RealCluster, token: str, prefix: str = "") -> dict[str, int]:
    """Return how often each name was counted by main's and by a's Bento, together."""
    found: dict[str, int] = {}
    for version in ("main", "a") if not prefix else ("main",):
        headers = {"X-Bento-Version": version, **bearer(token)}
        for name, count in get(cluster, f"{prefix}/web/counts", headers).raise_for_status().json().items():
            found[name] = found.get(name, 0) + count
    return found


def test_no_port_of_a_replica_or_a_proxy_leads_past_the_token(cluster: RealCluster, token: str) -> None:
    behind_haproxy = cluster.local.haproxy
    mine = {name: ports_of(pids) for name, pids in replicas(cluster).items() if name.startswith("shut")}
    speaking = {name: {port for port in ports if speaks_http(port)} for name, ports in mine.items()}
    # Else this test would have looked at nothing.
    assert all(bool(ports) == behind_haproxy for ports in speaking.values()), speaking
    assert len(speaking["shut"]) == (2 if behind_haproxy else 0)
    every = {port for ports in mine.values() for port in ports} | {HTTP_PORT, 8700 + OFFSET}
    listening = {port for port in every if local._listens(port)}
    answered: list[tuple[int, str, int]] = []
    for port in sorted(listening):
        for headers in ({}, {"X-Bento-Version": "a"}):
            for path in ("/web/counted/past", "/answer", "/livez"):
                try:
                    status = httpx.post(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=5).status_code
                except httpx.HTTPError:
                    continue
                answered.append((port, path, status))
    assert answered
    assert [one for one in answered if one[2] < 400] == []
    # A version's own port answers nothing at all; the ingress's answers 401.
    refusing = {port for port, _, status in answered if status == 401}
    assert refusing == {HTTP_PORT} | speaking["shut"] | ({8700 + OFFSET} & listening)
    assert "past" not in counts(cluster, token)
    for port in speaking["shut"]:
        assert httpx.get(f"http://127.0.0.1:{port}/livez", headers=bearer(token)).status_code == 200


# Shapes of requests ---------------------------------------------------------------------------------------------------

OUTER, INNER = "/web/counted/outer", "/web/counted/inner"
SMUGGLED = f"GET {INNER} HTTP/1.1\r\nHost: test\r\nX-Ignore: "
WHOLE = f"GET {INNER} HTTP/1.1\r\nHost: test\r\n\r\n"
CHUNKED = f"{len(WHOLE):x}\r\n{WHOLE}\r\n0\r\n\r\n"

#: Header lines, and what follows the empty line. Each hides a second request from one reading or the other.
SHAPES: dict[str, tuple[list[str], str]] = {
    "CL and TE, the second after the last chunk": (
        [f"Content-Length: {5 + len(WHOLE)}", "Transfer-Encoding: chunked"],
        f"0\r\n\r\n{WHOLE}",
    ),
    "TE and CL, the second after the length": (
        [f"Content-Length: {len(f'{len(WHOLE):x}') + 2}", "Transfer-Encoding: chunked"],
        CHUNKED,
    ),
    "TE twice": (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], CHUNKED),
    "TE with something before": ([f"Content-Length: {len(WHOLE)}", "Transfer-Encoding: xchunked"], WHOLE),
    "TE with a list": (["Transfer-Encoding: chunked, identity", "Content-Length: 4"], CHUNKED),
    "TE with a space before the colon": ([f"Content-Length: {len(WHOLE)}", "Transfer-Encoding : chunked"], WHOLE),
    "TE with a control character": ([f"Content-Length: {len(WHOLE)}", "Transfer-Encoding: \x0bchunked"], WHOLE),
    "TE in a folded line": (
        [f"Content-Length: {5 + len(WHOLE)}", "Transfer-Encoding:", " chunked"],
        f"0\r\n\r\n{WHOLE}",
    ),
    "two lengths that differ": (["Content-Length: 0", f"Content-Length: {len(WHOLE)}"], WHOLE),
    "two lengths in a list": ([f"Content-Length: 0, {len(WHOLE)}"], WHOLE),
    "a length with a sign": ([f"Content-Length: +{len(WHOLE)}"], WHOLE),
    "a negative length": (["Content-Length: -1"], WHOLE),
    "a hexadecimal length": (["Content-Length: 0x10"], WHOLE),
    "a huge length": ([f"Content-Length: {'9' * 40}"], WHOLE),
    "a length with a space in it": (["Content-Length: 1 0"], WHOLE),
    "a folded header": (["X-Folded: 1", " Content-Length: 0", f"Content-Length: {len(WHOLE)}"], WHOLE),
    "a line that ends in LF only": ([f"X-Line: 1\nContent-Length: 0\nX-Next: {'x' * 8}"], WHOLE),
    "a line that ends in CR only": ([f"X-Line: 1\rContent-Length: {len(WHOLE)}"], ""),
    "an empty line of LF only": (["X-Line: 1\n\nGET /web/counted/inner HTTP/1.1", "X-Next: 1"], ""),
    "a name with a space": (["X Spaced: 1", f"Content-Length: {len(WHOLE)}"], WHOLE),
    "a name that is empty": ([": nothing"], ""),
    "a line without a colon": (["nothing"], ""),
    "a NUL in a value": (["X-Nul: a\x00b"], ""),
    "a NUL in a name": (["X-\x00Nul: a"], ""),
    "a chunk size that is none": (["Transfer-Encoding: chunked"], f"zz\r\n{WHOLE}\r\n0\r\n\r\n"),
    "a negative chunk": (["Transfer-Encoding: chunked"], f"-1\r\n{WHOLE}\r\n0\r\n\r\n"),
    "a chunk size that overflows": (["Transfer-Encoding: chunked"], f"fffffffffffffffff\r\n{WHOLE}"),
    "a chunk that is longer than it says": (["Transfer-Encoding: chunked"], f"1\r\n{WHOLE}\r\n0\r\n\r\n"),
    "a chunk with an extension": (["Transfer-Encoding: chunked"], f"1;{'x' * 50}\nab\r\nx\r\n0\r\n\r\n{SMUGGLED}"),
    "a trailer that is a header": (
        ["Transfer-Encoding: chunked", "Trailer: Authorization"],
        "1\r\nx\r\n0\r\nAuthorization: Bearer x\r\nContent-Length: 99\r\n\r\n",
    ),
    "half a second request": (["Content-Length: 0"], SMUGGLED),
}


def exchange(shape: list[str], body: str, *, path: str, first: str | None = None, token: str = "") -> list[int]:
    """Send bytes as they stand; return the status of every response, until the other side has no more to say."""
    lines = [first or f"POST {path} HTTP/1.1", "Host: test"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    data = "\r\n".join([*lines, *shape, "", ""]).encode("latin-1") + body.encode("latin-1")
    received = b""
    with socket.create_connection(("127.0.0.1", HTTP_PORT), timeout=2) as connection:
        try:
            connection.sendall(data)
            while more := connection.recv(65536):
                received += more
                connection.settimeout(0.3)  # one answer has begun: will there be another?
        except (TimeoutError, ConnectionError):
            pass
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", received)]


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_of_a_request_hides_another_or_breaks_anything(cluster: RealCluster, token: str, shape: str) -> None:
    headers, body = SHAPES[shape]
    before = counts(cluster, token)
    statuses = exchange(headers, body, path=OUTER, token=token)
    after = counts(cluster, token)
    print(shape, statuses)
    assert after.get("inner", 0) == before.get("inner", 0) == 0, statuses
    assert after.get("outer", 0) - before.get("outer", 0) == statuses.count(200) <= 1
    assert not {500, 502, 503, 504} & set(statuses)


def test_no_shape_of_a_request_gets_past_the_token(cluster: RealCluster, token: str) -> None:
    before = counts(cluster, token)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda shape: exchange(*shape, path=OUTER), SHAPES.values()))
    told = dict(zip(SHAPES, answers, strict=True))
    assert {name: statuses for name, statuses in told.items() if not set(statuses) <= {400, 401}} == {}
    assert counts(cluster, token) == before


@pytest.mark.parametrize(
    "line",
    [
        f"GET {INNER}",
        f"GET {INNER} HTTP/0.9",
        f"GET {INNER} HTTP/3.0",
        f"GET {INNER} HTTP/1.1 HTTP/1.1",
        f"GET http://other{INNER} HTTP/1.1",
        f"GET //other{INNER} HTTP/1.1",
        f"GET /..{INNER} HTTP/1.1",
        f"GET {INNER}\x00 HTTP/1.1",
        f"GET {INNER}#x HTTP/1.1",
        "CONNECT test:80 HTTP/1.1",
        "PRI * HTTP/2.0",
        "OPTIONS * HTTP/1.1",
        f"G\x00T {INNER} HTTP/1.1",
        f"GET /-/{INNER} HTTP/1.1",
    ],
)
def test_no_request_line_gets_past_the_token(cluster: RealCluster, token: str, line: str) -> None:
    statuses = exchange([], "", path="", first=line)
    assert not {200, 500, 502, 503, 504} & set(statuses), statuses
    assert "inner" not in counts(cluster, token)


# Headers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [f"X-Large: {'x' * 20_000}"],
        [f"X-Large: {'x' * 1_000_000}"],
        [f"X-{number}: {'x' * 30}" for number in range(2_000)],
        [f"{'X' * 70_000}: 1"],
        [f"Authorization: Bearer rct_{'a' * 70_000}"],
        [f"X-Bento-Version: {'a' * 70_000}"],
        [f"Cookie: {'a=b; ' * 20_000}"],
    ],
    ids=[
        "20 kB",
        "1 MB",
        "2000 headers",
        "a name of 70 kB",
        "a token of 70 kB",
        "a version of 70 kB",
        "100 kB of cookies",
    ],
)
@pytest.mark.parametrize("with_token", [True, False])
def test_oversized_headers_are_refused_or_passed_and_break_nothing(
    cluster: RealCluster, token: str, headers: list[str], with_token: bool
) -> None:
    before = replicas(cluster)
    statuses = exchange(headers, "", path="", first="GET /web/echo HTTP/1.1", token=token if with_token else "")
    print(statuses)
    assert all(status == 200 or 400 <= status < 500 for status in statuses), statuses
    assert with_token or 200 not in statuses
    assert get(cluster, "/livez", bearer(token)).status_code == 200
    assert replicas(cluster) == before


KEYS = {
    "CR LF": b"u1%0d%0aX-Injected:%20yes%0d%0a%0d%0aHTTP/1.1%20200%20OK",
    "NUL": b"u1%00u2",
    "LF": b"%0aX-Injected: yes".replace(b" ", b"%20"),
    "not UTF-8": b"%ff%fe%c0%80",
    "raw bytes": b"\xff\xfe\xc3",
    "half an escape": b"%",
    "non-ASCII": "Jürgen 🐦".encode().replace(b" ", b"+"),
    "10 kB": b"x" * 10_000,
}


@pytest.mark.parametrize("name", KEYS)
def test_no_key_in_the_query_becomes_a_header(cluster: RealCluster, name: str) -> None:
    line = b"GET /open/livez?feature=" + KEYS[name] + b" HTTP/1.1"
    check_key(exchange_head(line))


@pytest.mark.parametrize(
    "value",
    [b"a\rX-Injected: yes", b"a\x00b", b"\xff\xfe", "Jürgen 🐦".encode(), b"x" * 10_000, b"", b"a\x0bb", b'"; drop'],
    ids=["CR", "NUL", "not UTF-8", "UTF-8", "10 kB", "empty", "VT", "quote"],
)
def test_no_key_in_a_header_becomes_another_header(cluster: RealCluster, token: str, value: bytes) -> None:
    lines = [b"X-User-ID: " + value, f"Authorization: Bearer {token}".encode()]
    check_key(exchange_head(b"GET /livez HTTP/1.1", *lines))


def exchange_head(*lines: bytes) -> bytes:
    """Send a request, and return the response's head, or nothing."""
    received = b""
    with socket.create_connection(("127.0.0.1", HTTP_PORT), timeout=5) as connection:
        connection.sendall(b"\r\n".join([lines[0], b"Host: test", *lines[1:], b"", b""]))
        try:
            while b"\r\n\r\n" not in received and (more := connection.recv(65536)):
                received += more
        except ConnectionError:
            pass
    return received.partition(b"\r\n\r\n")[0]


def check_key(head: bytes) -> None:
    """Assert that a response is a right one, or a refusal, with no header that came from the key."""
    assert not head or re.match(rb"HTTP/1\.[01] (200|4\d\d) ", head), head
    assert b"injected" not in head.lower()
    assert head.count(b"HTTP/1.") <= 1


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Request-Timeout-Seconds": "-1"},
        {"X-Request-Timeout-Seconds": "0"},
        {"X_Request_Timeout_Seconds": "0.000001"},
        {"X-Request-Disconnect-Disabled": "?1"},
        {"X_Request_Disconnect_Disabled": "?1"},
        {"serve_multiplexed_model_id": "x"},
        {"Serve-Multiplexed-Model-Id": "x"},
        {"X-Session-Id": "x"},
        {"x_session_id": "x"},
    ],
    ids=str,
)
def test_serves_own_headers_open_nothing_and_break_nothing(
    cluster: RealCluster, token: str, headers: dict[str, str]
) -> None:
    assert_refused(get(cluster, "/web/echo", headers), 401, "needs an access token")
    assert get(cluster, "/web/echo", {**headers, **bearer(token)}).status_code == 200


# What is left behind --------------------------------------------------------------------------------------------------


def logs(cluster: RealCluster) -> Iterator[Path]:
    """Yield every file of the cluster's Ray session: logs, configurations, HAProxy's own."""
    (session,) = {
        argument.removeprefix("--session-dir=")
        for process in local.processes_of(cluster.local.name)
        for argument in process.cmdline()
        if argument.startswith("--session-dir=")
    }
    return (path for path in Path(session).rglob("*") if path.is_file() and not path.is_symlink())


def test_no_secret_is_in_any_log_or_api_of_the_cluster(cluster: RealCluster, token: str) -> None:
    """Runs last: everything above has left its traces."""
    digests = {record["digest"] for record in Cluster(cluster.local.address).store().items(PREFIX).values()}
    assert token.split("_", 2)[2] in SECRETS
    assert digests
    hidden = [text.encode() for text in (*SECRETS, *digests)]
    read = 0
    for path in logs(cluster):
        content = path.read_bytes()
        read += len(content)
        assert not [text for text in hidden if text in content], path
    assert read > 10_000
    told = [
        httpx.get(f"{cluster.local.address}{path}", timeout=30).raise_for_status().content
        for path in ("/api/serve/applications/", "/api/v0/actors?limit=10000&detail=true", "/nodes?view=summary")
    ]
    told.append(cluster.run("serve", "config").stdout.encode())
    told += [cluster.canary("get", name, "-o", "json").stdout.encode() for name in ("shut", "open")]
    assert b"access_authorization" in told[0]
    assert not [text for text in hidden for page in told if text in page]
