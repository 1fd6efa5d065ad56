"""BentoML's own clients, tasks and websockets against a Deployment with three versions."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bentoml
import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ray_canary.serving.tasks import Place
from ray_canary.splitter import Splitter
from tests.e2e.deployments import HTTP_PORT, probe
from tests.e2e.harness import RealCluster, build_bento, wait_for
from tests.e2e.test_changes_under_load import key_of

#: bentoml's own imports use what pathspec has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

WEIGHTS = {"a": 30, "b": 30}
SPLITTER = Splitter({"main": 40, **WEIGHTS}, "clients")
HEADER = "X-User-ID"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


def deployment(weights: dict[str, int], route_type: str, route_by: str | None) -> dict[str, Any]:
    """Three versions of `clients`; main has two replicas."""
    bentos = {key: "clients:v1" for key in ("main", "a", "b")}
    found = probe(weights, name="clients", route_type=route_type, route_by=route_by, bentos=bentos)
    service = {"config_overrides": {"resources": {"cpu": "100m"}}, "scaling": {"min_replicas": 2, "max_replicas": 2}}
    found["services"] = {"Clients": service}
    one = {"Clients": {"scaling": {"min_replicas": 1, "max_replicas": 1}}}
    for version in found["canary"]["versions"].values():
        version["services"] = one
    return found


def put(cluster: RealCluster, weights: dict[str, int], route_type: str, route_by: str | None) -> None:
    """Bring a split into force: only the ingress's `user_config` changes."""
    cluster.serve_deploy(cluster.build(deployment(weights, route_type, route_by)))
    wanted = {"main": 100 - sum(weights.values()), **weights}

    def there() -> bool:
        found = cluster.state().live()["clients"].settings.split
        return (found.route_type, found.route_by) == (route_type, route_by) and cluster.in_force("clients", wanted)

    wait_for(there, "the split is in force", 30)


@pytest.fixture(scope="module")
def cluster(shared: RealCluster) -> RealCluster:
    """The Deployment, at random to begin with."""
    if not (shared.home / "bentos" / "clients").exists():
        build_bento(shared.home, "clients", "v1")
    shared.serve_deploy(shared.build(deployment(WEIGHTS, "random", None)))
    shared.until_ready("clients")
    wait_for(lambda: len(shared.pids("clients-main")) == 2, "main has two replicas", 60)
    return shared


@pytest.fixture(scope="module", params=["random", "header", "query"])
def routed(cluster: RealCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """Every route type; at last random again."""
    put(cluster, WEIGHTS, request.param, {"header": HEADER, "query": "feature"}.get(request.param))
    yield request.param
    put(cluster, WEIGHTS, "random", None)


def with_key(client: Any, route_type: str, version: str) -> None:
    """Make BentoML's own client send a key of `version`."""
    key = key_of(SPLITTER, version)
    if route_type == "header":
        client.client.headers[HEADER] = key
    elif route_type == "query":
        client.client.params = httpx.QueryParams({"feature": key})


@pytest.mark.parametrize("version", ["main", "a", "b"])
def test_the_sync_client_calls_every_kind_of_api(
    cluster: RealCluster, routed: str, version: str, tmp_path: Path
) -> None:
    (tmp_path / "picture.png").write_bytes(PNG)
    with bentoml.SyncHTTPClient(cluster.url) as client:
        with_key(client, routed, version)
        assert client.is_ready()
        if routed != "random":
            assert client.who()["name"] == version
        assert client.shout(text="abc", times=2) == "ABCABC"
        assert client.mirror(point={"x": 1, "y": 2}) == {"x": 2, "y": 1}
        assert np.array_equal(client.double(values=np.arange(3.0)), np.array([0.0, 2.0, 4.0]))
        assert list(client.words(text="one two three")) == ["one", "two", "three"]
        assert client.size(file=tmp_path / "picture.png") == len(PNG)
        assert client.picture_size(file=tmp_path / "picture.png") == len(PNG)
        # bentoml 1.4.39 forgets to make this list, and `submit` of its synchronous client fails on it everywhere.
        client._opened_files = []
        task = client.job.submit(text="sync")
        wait_for(lambda: task.get_status().value == "completed", "the task is done", 15)
        assert task.get().endswith("sync")
    # Left to the garbage collector otherwise.
    client._temp_dir.cleanup()


def test_the_async_client_calls_every_kind_of_api(cluster: RealCluster, routed: str, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(PNG)

    async def calls() -> None:
        async with bentoml.AsyncHTTPClient(cluster.url) as client:
            assert await client.shout(text="abc", times=2) == "ABCABC"
            assert [word async for word in client.words(text="one two three")] == ["one", "two", "three"]
            assert await client.size(file=tmp_path / "picture.png") == len(PNG)
            task = await client.job.submit(text="async")
            async with asyncio.timeout(60):
                while (await task.get_status()).value != "completed":
                    await asyncio.sleep(0.05)
            assert (await task.get()).endswith("async")
        client._temp_dir.cleanup()

    asyncio.run(calls())


def test_an_image_goes_there_and_back(cluster: RealCluster) -> None:
    answer = httpx.post(f"{cluster.url}/picture", files={"file": ("picture.png", PNG, "image/png")}, timeout=30)
    assert (answer.headers["content-type"], answer.content) == ("image/png", PNG)


# Tasks ----------------------------------------------------------------------------------------------------------------


def submit(client: httpx.Client, text: str, seconds: float = 0) -> str:
    """Submit a task and return its id."""
    answer = client.post("/job/submit", json={"text": text, "seconds": seconds}).raise_for_status()
    return str(answer.json()["task_id"])


def ask(client: httpx.Client, what: str, task: str) -> httpx.Response:
    return client.request({"retry": "POST", "cancel": "PUT"}.get(what, "GET"), f"/job/{what}", params={"task_id": task})


def result(client: httpx.Client, task: str) -> str:
    """Wait for a task without ever being told that it isn't there; return its result."""

    def done() -> bool:
        answer = ask(client, "status", task).raise_for_status()
        assert answer.headers["x-bento-split"] == "task"
        return bool(answer.json()["status"] == "completed")

    wait_for(done, "the task is done", 15)
    return ask(client, "get", task).raise_for_status().text


@pytest.fixture
def client(cluster: RealCluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, timeout=30) as client:
        yield client


def test_every_task_of_every_replica_is_found_also_after_the_weights_changed(
    cluster: RealCluster, client: httpx.Client
) -> None:
    tasks = {str(number): submit(client, str(number)) for number in range(60)}
    try:
        put(cluster, {"a": 0, "b": 100}, "header", HEADER)
        found = {number: result(client, task) for number, task in tasks.items()}
    finally:
        put(cluster, WEIGHTS, "random", None)
    assert {number: text.rpartition(" ")[2] for number, text in found.items()} == {number: number for number in tasks}
    replicas = Counter(text.rpartition(" ")[0] for text in found.values())
    assert Counter(name.split()[0] for name in replicas) == {"main": 2, "a": 1, "b": 1}, "not every replica had tasks"


def test_a_task_is_run_again_by_the_replica_that_had_it_and_cancelling_says_what_bentoml_says(
    client: httpx.Client,
) -> None:
    task = submit(client, "again")
    first = result(client, task)
    again = ask(client, "retry", task).raise_for_status().json()["task_id"]
    assert again != task
    assert result(client, again) == first
    cancelled = ask(client, "cancel", again)
    assert (cancelled.status_code, cancelled.json()["error"]) == (
        400,
        "task cancellation is not supported in local development server",
    )


def test_a_task_that_is_nowhere_gets_a_sentence(client: httpx.Client) -> None:
    own = "0" * 32
    replica = ask(client, "get", f"{Place('clients-main', 'Clients', 'gone').prefix()}.{own}")
    assert replica.status_code == 404
    assert "replica gone of main had this task and has gone" in replica.json()["error"]
    version = ask(client, "get", f"{Place('clients-canary-z', 'Clients', 'gone').prefix()}.{own}")
    assert version.status_code == 404
    assert "clients-canary-z" in version.json()["error"]


def test_an_id_that_was_made_up_leads_into_no_version(client: httpx.Client) -> None:
    real = submit(client, "real").rpartition(".")[0]
    answer = client.get("/web/status", params={"task_id": f"{real}.{'0' * 32}"})
    assert answer.status_code == 404
    assert "no such task" in answer.json()["error"]


def test_a_mounted_app_has_task_ids_of_its_own(client: httpx.Client) -> None:
    assert client.get("/web/status", params={"task_id": "7"}).json() == "7"


# Websockets -----------------------------------------------------------------------------------------------------------


def open_socket(path: str = "/web/echo", **given: Any) -> ClientConnection:
    given = {"open_timeout": 60, "max_size": None, **given}
    socket: ClientConnection = connect(f"ws://127.0.0.1:{HTTP_PORT}{path}", **given)
    return socket


def test_a_websocket_carries_text_and_bytes_and_its_headers(cluster: RealCluster) -> None:
    with open_socket(subprotocols=["one", "two"]) as socket:
        assert socket.subprotocol == "two"
        assert socket.response is not None
        assert socket.response.headers["x-app"] == "echo"
        assert socket.response.headers["x-bento-split"] == "random"
        socket.send("who")
        assert str(socket.recv(60)).split()[0] == socket.response.headers["x-bento-version"]
        for message in ("text", "", "ü\U0001f40d", b"", b"\x00\xff", "a" * 1_000_000, bytes(3_000_000)):
            socket.send(message)
            assert socket.recv(60) == message


def test_messages_come_in_order(cluster: RealCluster) -> None:
    with open_socket() as socket:
        for number in range(500):
            socket.send(str(number))
        assert [socket.recv(60) for _ in range(500)] == [str(number) for number in range(500)]


@pytest.mark.parametrize("code", [1000, 3000, 4321])
def test_the_apps_close_code_reaches_the_client(cluster: RealCluster, code: int) -> None:
    with open_socket() as socket:
        socket.send(f"close {code}")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(60)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, "as you wish")


def test_the_clients_close_code_reaches_the_app(cluster: RealCluster) -> None:
    put(cluster, {"a": 100, "b": 0}, "random", None)
    try:
        with open_socket() as socket:
            socket.close(4004)
        wait_for(lambda: 4004 in httpx.get(f"{cluster.url}/web/codes", timeout=30).json(), "the app was told", 10)
        with open_socket() as socket:
            socket.socket.close()
        wait_for(lambda: len(httpx.get(f"{cluster.url}/web/codes", timeout=30).json()) >= 2, "the app was told", 10)
    finally:
        put(cluster, WEIGHTS, "random", None)


def test_a_websocket_that_the_app_refuses_is_refused(cluster: RealCluster) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_socket("/web/never").close()
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as missing:
        open_socket("/nowhere").close()
    assert missing.value.response.status_code in (403, 404)


def test_the_split_takes_websockets_by_key_and_a_new_split_cuts_none_off(cluster: RealCluster) -> None:
    put(cluster, WEIGHTS, "header", HEADER)
    try:
        keys = {version: key_of(SPLITTER, version) for version in ("main", "a", "b")}
        sockets = {version: open_socket(additional_headers={HEADER: key}) for version, key in keys.items()}
        put(cluster, {"a": 0, "b": 0}, "header", HEADER)
        for version, socket in sockets.items():
            socket.send("who")
            assert str(socket.recv(60)).split()[0] == version
            socket.close()
    finally:
        put(cluster, WEIGHTS, "random", None)


def test_a_slow_reader_holds_up_the_app_and_loses_nothing(cluster: RealCluster) -> None:
    with open_socket("/web/flood", max_queue=2) as socket:
        time.sleep(0.5)
        numbers = [int.from_bytes(bytes(message[:4]), "big") for message in socket if isinstance(message, bytes)]
    assert numbers == list(range(1000))


def test_a_message_goes_there_and_back_in_milliseconds(cluster: RealCluster) -> None:
    with open_socket() as socket:
        times = []
        for _ in range(300):
            began = time.perf_counter()
            socket.send("ping")
            socket.recv(60)
            times.append(time.perf_counter() - began)
    median = sorted(times)[150]
    print(f"round trip: median {median * 1000:.2f} ms, 95th percentile {sorted(times)[285] * 1000:.2f} ms")
    assert median < 0.1


def test_a_replica_that_dies_ends_its_websocket_with_1011(cluster: RealCluster) -> None:
    with open_socket() as socket:
        socket.send("exit")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011

    def troubles() -> list[str]:
        logs = (cluster.session / "logs" / "serve").glob("replica_clients_Ingress_*.log")
        lines = (line for log in logs for line in log.read_text().splitlines())
        return [line for line in lines if "in the middle of a websocket" in line]

    wait_for(troubles, "the ingress has logged it", 15)
    assert len(troubles()) == 1, "no other websocket of all these tests had trouble: clients have closed them"
