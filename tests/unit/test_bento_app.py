"""The version host, held against real Bentos that the real bentoml built: one test for each trap of bentocloud.md 4.5.

Every host is a process of its own (decision 10), in which `bento_process.py` does what a Serve replica does.
"""

import asyncio
import http.client
import importlib
import inspect
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import pytest

from ray_canary.serving.bento_app import FirstByteTimeout, Lifespan, _remember_media_types
from ray_canary.serving.http import Message, Receive, Scope, Send

BENTO: Final = Path(__file__).parents[1] / "bentos" / "everything"
RUNNER: Final = Path(__file__).with_name("bento_process.py")
#: The environment variables that the Bento requires. An empty value is a value, as it is for BentoML.
REQUIRED: Final = {"REQUIRED": "", "FILE_REQUIRED": "given", "INNER_REQUIRED": "given"}
#: Seconds within which anything that is going to happen does.
SOON_S: Final = 30.0
#: Far less than the Bento's own traffic.timeout of 60 s, and far more than an answer takes.
AT_ONCE_S: Final = 10.0
BROKEN: Final = {"error": "An unexpected error has occurred, please check the server log."}
TOO_MANY: Final = {"error": "Too many requests"}


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class Host:
    """One host process, from its start on."""

    def __init__(self, folder: Path, store: Path, spec: dict[str, Any], env: dict[str, str]) -> None:
        self.temp = folder / "t"
        self.temp.mkdir(parents=True)
        self._errors = folder / "stderr"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(RUNNER), json.dumps({"overrides": {}, "depends": {}, **spec})],
                # The modules of these names that lie where the process starts are not the Bento's.
                cwd=decoys(folder),
                env={**os.environ, **env, "BENTOML_HOME": str(store), "TMPDIR": str(self.temp)},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def said(self) -> dict[str, Any]:
        """Wait for the next thing that the process says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log()
        said: dict[str, Any] = json.loads(line)
        return said

    @cached_property
    def failure(self) -> dict[str, Any]:
        """What it said when it failed to start."""
        return self.said()

    def ready(self) -> "Host":
        """Wait until it serves."""
        said = self.said()
        assert "port" in said, said
        self.port: int = said["port"]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=SOON_S)
        return self

    def log(self) -> str:
        """Return what it has written to stderr."""
        return self._errors.read_text()

    def call(self, api: str, **arguments: Any) -> Any:
        """Call an API that answers JSON."""
        return self.client.post(f"/{api}", json=arguments).raise_for_status().json()

    def folder(self) -> Path:
        """Return the folder that it keeps its own files in."""
        (folder,) = self.temp.glob("ray-canary-*")
        return folder

    def end(self) -> None:
        """Shut it down, if it still runs, and wait."""
        if hasattr(self, "client"):
            self.client.close()
        self.process.terminate()
        self.process.wait(SOON_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


def decoys(folder: Path) -> Path:
    """Make modules that must not be imported."""
    for name in ("everything", "service", "version"):
        (folder / f"{name}.py").write_text("raise AssertionError('a module of that name in the working directory')")
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build two versions of one Bento that have the same modules."""
    home = tmp_path_factory.mktemp("bentoml")
    env = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    builds = []
    for version in ("one", "two"):
        project = tmp_path_factory.mktemp(version) / "project"
        shutil.copytree(BENTO, project, ignore=shutil.ignore_patterns("__pycache__"))
        (project / "version.py").write_text(f'VERSION = "{version}"\n')
        command = [str(Path(sys.executable).with_name("bentoml")), "build", "--version", version, "."]
        log = (project.parent / "log").open("w+")
        builds.append((subprocess.Popen(command, cwd=project, env=env, stdout=log, stderr=log), log))
    for build, log in builds:
        assert build.wait(SOON_S * 2) == 0, (log.seek(0), log.read())
        log.close()
    return home


@pytest.fixture(scope="session")
def launch(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Host]]:
    """Start host processes; they end with the tests."""
    with ExitStack() as stack:

        def start(bento: str, service: str, *, env: dict[str, str] | None = None, **spec: Any) -> Host:
            folder = tmp_path_factory.mktemp("h")
            host = Host(folder, store, {"bento": bento, "service": service, **spec}, REQUIRED if env is None else env)
            stack.callback(host.end)
            return host

        yield start


#: What makes a Bento fail to start: its environment, its service, and what its failure says.
FAILURES: Final[dict[str, tuple[dict[str, str | None], str, str]]] = {
    "import-error": ({"BREAK": "import-error"}, "Everything", "No module named 'nothing_of_that_name'"),
    "exit": ({"BREAK": "exit"}, "Everything", "SystemExit: left at import"),
    "init": ({"BREAK": "init"}, "Everything", "RuntimeError: broken at init"),
    "startup": ({"BREAK": "startup"}, "Everything", "RuntimeError: broken at startup"),
    "env": ({"REQUIRED": None, "FILE_REQUIRED": None}, "Everything", "MissingEnv"),
    "env-of-an-inner-service": ({"INNER_REQUIRED": None, "REQUIRED": None}, "inner.letters", "MissingEnv"),
}


@pytest.fixture(scope="session")
def hosts(launch: Callable[..., Host]) -> dict[str, Host]:
    """Start all processes at once, as they take a while."""
    inner = launch(
        "everything:one", "inner.letters", overrides={"inner.letters": {"traffic": {"max_concurrency": 4}}, "Other": {}}
    )
    tuned = {"traffic": {"timeout": 2, "max_concurrency": 3}, "threads": 2, "endpoints": {"livez": "/web/own-health"}}
    two = launch(
        "everything:two",
        "Everything",
        overrides={"Everything": tuned, "inner.letters": {"traffic": {"timeout": 7}}},
        env={**REQUIRED, "DEFAULT": "given"},
    )
    one = launch(
        "everything:one",
        "Everything",
        env={**REQUIRED, "CUDA_VISIBLE_DEVICES": "7"},
        depends={"inner.letters": f"http://127.0.0.1:{inner.ready().port}"},
    )
    failing = {}
    for name, (changes, service, _) in FAILURES.items():
        env = {key: value for key, value in {**REQUIRED, **changes}.items() if value is not None}
        failing[name] = launch("everything:one", service, env=env)
    return {"inner": inner, "one": one.ready(), "two": two.ready(), **failing}


@pytest.fixture
def one(hosts: dict[str, Host]) -> Host:
    """The entry service of version one, which reaches the inner service over the bridge."""
    return hosts["one"]


@pytest.fixture
def two(hosts: dict[str, Host]) -> Host:
    """The entry service of version two, with config_overrides."""
    return hosts["two"]


@pytest.fixture
def inner(hosts: dict[str, Host]) -> Host:
    """The inner service of version one."""
    return hosts["inner"]


def at_once(host: Host, number: int, api: str, **arguments: Any) -> list[httpx.Response]:
    """Send `number` requests at the same time."""
    with ThreadPoolExecutor(number) as threads:
        calls = [threads.submit(host.client.post, f"/{api}", json=arguments) for _ in range(number)]
        return [call.result() for call in calls]


# --- What every Bento can expect ---


def test_relative_file_reads_work_because_the_working_directory_is_the_bentos(one: Host) -> None:
    who = one.call("who")
    assert who["data"] == "a file beside the service"
    assert who["cwd"].endswith("/bentos/everything/one/src")


def test_two_versions_in_two_processes_run_their_own_code(one: Host, two: Host) -> None:
    assert [host.call("who")["version"] for host in (one, two)] == ["one", "two"]


def test_a_streaming_api_streams(one: Host) -> None:
    assert one.client.post("/numbers", json={"count": 3}).text == "0\n1\n2\n"


def test_a_file_is_uploaded_as_multipart(one: Host) -> None:
    assert one.client.post("/size", files={"file": b"x" * 200_000}).json() == 200_000


def test_a_file_is_answered_with_its_content_type(one: Host) -> None:
    answer = one.client.post("/picture", json={})
    assert (answer.headers["content-type"], answer.content) == ("image/png", b"\x89PNG\r\n")


def test_a_custom_route_sets_status_header_and_cookie_through_the_context(one: Host) -> None:
    with httpx.Client(base_url=one.client.base_url, timeout=SOON_S) as client:
        answer = client.post("/custom/route", json={}, headers={"x-seen": "yes"})
    assert (answer.status_code, answer.json()) == (201, {"seen": "yes"})
    assert (answer.headers["x-own"], answer.cookies["own"]) == ("header", "cookie")


@pytest.mark.parametrize("path", ["/", "/docs.json", "/schema.json", "/readyz", "/livez", "/healthz", "/metrics"])
def test_the_entry_service_answers_on_bentomls_own_paths(one: Host, path: str) -> None:
    assert one.client.get(path).status_code == 200


def test_the_schema_names_the_service_and_its_apis(one: Host) -> None:
    schema = one.client.get("/schema.json").json()
    assert schema["name"] == "Everything"
    assert "/custom/route" in [route["route"] for route in schema["routes"]]


def test_the_users_own_middlewares_run(one: Host) -> None:
    assert one.client.post("/counts", json={}).headers["stamp"] == "by the user"


def test_bentomls_own_response_headers_are_there(one: Host) -> None:
    headers = one.client.post("/counts", json={}).headers
    assert headers["server"] == "BentoML Service/Everything"
    assert headers["x-bentoml-request-id"]


def test_a_bad_request_is_answered_in_bentomls_shape(one: Host) -> None:
    answer = one.client.post("/sleep", json={})
    assert answer.status_code == 400
    assert answer.json()["error"] == "1 validation error for Input"


def test_paths_are_as_at_the_root(one: Host) -> None:
    seen = one.client.get("/web/path").json()
    assert seen["path"] == "/web/path"
    assert seen["url"].endswith("/web/path")
    assert 'endpoint="/web/path"' in one.client.get("/metrics").text


def test_work_after_the_response_is_done(one: Host) -> None:
    one.client.get("/web/background")
    until(lambda: bool(one.client.get("/web/background").json()))


# --- Metrics ---


def test_the_metrics_name_the_bento_and_its_version(one: Host, inner: Host) -> None:
    one.call("counts")
    ours = 'runner_name="Everything",service_name="everything",service_version="one"'
    assert f'request_total{{endpoint="/counts",http_response_code="200",{ours}}}' in one.client.get("/metrics").text
    assert (
        'runner_name="inner.letters",service_name="everything",service_version="one"'
        in inner.client.get("/metrics").text
    )


def test_each_process_has_a_metrics_folder_of_its_own_that_holds_only_metrics(one: Host, two: Host) -> None:
    for host in (one, two):
        pid = host.call("who")["pid"]
        folder = host.call("environment")["PROMETHEUS_MULTIPROC_DIR"]
        assert folder == str(host.folder() / "metrics")
        files = [path.name for path in Path(folder).iterdir()]
        assert files
        assert all(name.startswith(("counter", "gauge", "histogram")) for name in files)
        assert all(name.endswith(f"_{pid}.db") for name in files)


def test_metrics_that_cannot_be_read_are_answered_at_once_with_500_and_json(one: Host) -> None:
    bad = one.folder() / "metrics" / "counter_1.db"
    bad.write_bytes(b"not a metrics file")
    try:
        begun = time.monotonic()
        answer = one.client.get("/metrics")
    finally:
        bad.unlink()
    assert (answer.status_code, answer.json()) == (500, BROKEN)
    assert time.monotonic() - begun < AT_ONCE_S


# --- Tasks ---


def test_a_task_is_worked_on_after_its_submission_and_its_result_is_kept(one: Host) -> None:
    task = one.call("job/submit", text="abc")["task_id"]
    until(lambda: one.client.get("/job/status", params={"task_id": task}).json()["status"] == "completed")
    assert one.client.get("/job/get", params={"task_id": task}).text == "ABC"


def test_a_version_that_starts_leaves_the_task_results_of_others_alone(
    one: Host, two: Host, store: Path, launch: Callable[..., Host]
) -> None:
    task = {"task_id": one.call("job/submit", text="abc")["task_id"]}
    launch("everything:two", "Everything").ready()
    until(lambda: one.client.get("/job/status", params=task).json()["status"] == "completed")
    assert two.client.get("/job/status", params=task).status_code == 404
    assert not (store / "task_result.db").exists()


# --- Exceptions ---


@pytest.mark.parametrize("kind", ["runtime", "timeout"])
def test_an_exception_in_a_mounted_app_is_answered_at_once_with_500_and_json(one: Host, kind: str) -> None:
    begun = time.monotonic()
    answer = one.client.get(f"/bare/{kind}")
    assert (answer.status_code, answer.json()) == (500, BROKEN)
    assert time.monotonic() - begun < AT_ONCE_S


def test_an_exception_in_an_api_is_answered_without_its_message_and_logged_with_it(one: Host) -> None:
    answer = one.client.post("/fail", json={})
    assert (answer.status_code, answer.json()) == (500, BROKEN)
    until(lambda: "ValueError: the message is only for the log" in one.log())


def test_bentoml_logs_as_it_does_itself_and_serves_own_log_goes_on(one: Host) -> None:
    one.client.get("/bare/runtime")
    until(lambda: "serve" in one.log() and "The Bento raised an exception." in one.log())
    assert "[INFO] [entry_service:Everything:1] Service Everything initialized" in one.log()
    assert "GET,path=/bare/runtime" not in one.log(), "Serve writes an access log"


# --- Timeouts, threads, concurrency, and other config_overrides ---


@pytest.mark.parametrize("api", ["sleep", "think"])
def test_an_api_that_takes_longer_than_its_timeout_is_answered_504(two: Host, api: str) -> None:
    answer = two.client.post(f"/{api}", json={"seconds": 3})
    assert answer.status_code == 504
    assert answer.json() == {"error": "Not able to process the request in 2 seconds"}


def test_an_app_that_clings_on_after_its_timeout_is_answered_504_all_the_same(two: Host) -> None:
    answer = two.client.get("/bare/cling")
    assert answer.status_code == 504
    assert answer.json() == {"error": "Not able to process the request in 2 seconds"}


def test_threads_in_config_overrides_take_effect(one: Host, two: Host) -> None:
    until(lambda: two.call("counts")["thinking"]["now"] == 0)
    for host, threads in ((one, 1), (two, 2)):
        answers = at_once(host, 3, "think", seconds=0.4)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert host.call("counts")["thinking"]["most"] == threads


def test_max_concurrency_holds_for_the_process_whatever_workers_says(two: Host) -> None:
    answers = at_once(two, 8, "sleep", seconds=1)
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 5
    assert all(answer.json() == TOO_MANY for answer in answers if answer.status_code == 429)


def test_endpoints_in_config_overrides_take_effect_so_the_health_check_passes_when_busy(two: Host) -> None:
    with ThreadPoolExecutor(3) as threads:
        busy = [threads.submit(two.client.post, "/sleep", json={"seconds": 1.5}) for _ in range(3)]
        until(lambda: two.client.get("/web/path").status_code == 429)
        assert two.client.get("/web/own-health").status_code == 200
        assert two.client.get("/livez").status_code == 200
        assert [call.result().status_code for call in busy] == [200, 200, 200]


def test_config_overrides_reach_a_service_with_a_dotted_name(inner: Host) -> None:
    """`max_concurrency` is 4: with three calls held there is room for one more."""
    with ThreadPoolExecutor(3) as threads:
        held = [threads.submit(inner.client.post, "/hold", json={}) for _ in range(3)]
        until(lambda: inner.call("held")["now"] == 3)
        with leaving(inner, "hold", {}):
            until(lambda: inner.client.post("/held", json={}).status_code == 429)
            assert inner.client.post("/held", json={}).json() == TOO_MANY
        until(lambda: inner.client.post("/let_go", json={}).status_code == 200)
        assert [call.result().status_code for call in held] == [200, 200, 200]


def test_a_client_that_leaves_cancels_the_work_of_an_async_api(one: Host) -> None:
    before = one.call("counts")["asleep"]["cancelled"]
    with leaving(one, "sleep", {"seconds": 50}):
        until(lambda: one.call("counts")["asleep"]["now"] == 1)
    until(lambda: one.call("counts")["asleep"] == {"now": 0, "most": 1, "cancelled": before + 1})


def leaving(host: Host, api: str, arguments: dict[str, Any]) -> ExitStack:
    """Send a request, and leave at the end of the block without waiting for the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", host.port)
    connection.request("POST", f"/{api}", json.dumps(arguments), {"content-type": "application/json"})
    stack = ExitStack()
    stack.callback(connection.close)
    return stack


# --- Environment variables ---


def test_default_env_values_are_set_before_the_bento_is_imported(one: Host) -> None:
    assert one.call("who")["at_import"] == {"DEFAULT": "from the decorator", "FILE_DEFAULT": "from the bentofile"}


def test_an_env_that_is_given_wins_over_its_default_and_may_be_empty(two: Host) -> None:
    env = two.call("environment")
    assert (env["DEFAULT"], env["REQUIRED"]) == ("given", "")
    assert "BUILD_ONLY" not in env


def test_cuda_visible_devices_are_as_ray_set_them(one: Host, two: Host) -> None:
    assert one.call("environment")["CUDA_VISIBLE_DEVICES"] == "7"
    assert two.call("environment").get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")


# --- Services that depend on others ---


def test_an_inner_service_is_called_by_async_code_by_threads_and_for_a_stream(one: Host) -> None:
    assert one.call("count", text="abc") == 3
    assert one.client.post("/shout", json={"text": "abc"}).text == "ABC"
    assert one.client.post("/one_by_one", json={"text": "abc"}).text.replace(";", "") == "abc"


def test_an_inner_service_is_reached_in_its_own_process_with_pickle(one: Host, inner: Host) -> None:
    seen = one.call("inner")
    assert (seen["pid"], seen["media_type"]) == (inner.process.pid, "application/vnd.bentoml+pickle")


def test_without_a_bridge_an_inner_service_runs_in_the_same_process(two: Host) -> None:
    assert two.client.post("/shout", json={"text": "abc"}).text == "ABC"


def test_a_large_body_crosses_the_bridge_both_ways(one: Host) -> None:
    text = "x" * 5_000_000
    assert one.client.post("/shout", json={"text": text}).text == text.upper()


def test_calls_under_way_outlive_a_hundred_others(one: Host, inner: Host) -> None:
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(one.client.post, "/hold", json={})
        until(lambda: inner.call("held")["now"] == 1)
        assert {one.call("count", text="abc") for _ in range(110)} == {3}
        inner.call("let_go")
        assert held.result().status_code == 200


def test_a_client_that_leaves_cancels_the_work_of_the_inner_service(one: Host, inner: Host) -> None:
    before = inner.call("held")["cancelled"]
    with leaving(one, "hold", {}):
        until(lambda: inner.call("held")["now"] == 1)
    until(lambda: inner.call("held")["now"] == 0)
    assert inner.call("held")["cancelled"] == before + 1


def test_the_entry_service_refuses_pickle(one: Host) -> None:
    answer = one.client.post(
        "/count", content=pickle.dumps("x"), headers={"content-type": "application/vnd.bentoml+pickle"}
    )
    assert answer.status_code == 415


def test_an_inner_service_shows_no_pages(inner: Host) -> None:
    assert [inner.client.get(path).status_code for path in ("/", "/docs.json", "/schema.json")] == [404, 404, 200]


def test_the_sockets_lie_where_only_this_user_can_enter(one: Host) -> None:
    bridge = one.folder() / "bridge"
    assert [path.name for path in bridge.iterdir()] == ["0.sock"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (one.folder(), bridge)] == [0o700, 0o700]


# --- Health, hooks, start and end ---


def test_the_health_checks_of_the_bento_are_asked(two: Host) -> None:
    try:
        two.call("health", alive=False, ready=False)
        assert [two.client.get(path).status_code for path in ("/livez", "/readyz")] == [503, 503]
    finally:
        two.call("health", alive=True, ready=True)
    assert [two.client.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]


def test_each_hook_runs_once_and_in_order_and_nothing_is_left_behind(
    launch: Callable[..., Host], tmp_path: Path
) -> None:
    events = tmp_path / "events"
    # Nobody listens at the discard port.
    host = launch(
        "everything:one",
        "Everything",
        env={**REQUIRED, "EVENTS_FILE": str(events)},
        depends={"inner.letters": "http://127.0.0.1:9"},
    ).ready()
    assert host.client.get("/readyz").status_code == 503, "the inner service isn't there"
    assert events.read_text().split() == ["on_deployment", "init", "on_startup"]
    host.process.terminate()
    assert host.said() == {"stopped": True}
    assert host.process.wait(SOON_S) == 0
    assert events.read_text().split() == ["on_deployment", "init", "on_startup", "on_shutdown"]
    assert list(host.temp.iterdir()) == []


def test_a_shutdown_hook_that_fails_leaves_nothing_behind(launch: Callable[..., Host]) -> None:
    host = launch("everything:one", "Everything", env={**REQUIRED, "BREAK": "shutdown"}).ready()
    host.process.terminate()
    host.process.wait(SOON_S)
    assert "RuntimeError: broken at shutdown" in host.log()
    assert list(host.temp.glob("ray-canary-*")) == []


@pytest.mark.parametrize("name", FAILURES)
def test_a_bento_that_fails_to_start_says_why_in_its_own_words_and_leaves_nothing_behind(
    hosts: dict[str, Host], name: str
) -> None:
    _, service, words = FAILURES[name]
    host = hosts[name]
    said = host.failure
    assert said["failed"] == "BentoFailed"
    assert said["message"].startswith(f"{service} of Bento everything:one failed to start")
    assert words in said["message"]
    assert "/ray_canary/" not in said["message"]
    if words != "MissingEnv":
        assert '/bentos/everything/one/src/service.py", line' in said["message"]
    assert host.process.wait(SOON_S) == 0
    assert list(host.temp.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("env", "not set: FILE_REQUIRED, REQUIRED."),
        ("env-of-an-inner-service", "not set: INNER_REQUIRED."),
    ],
)
def test_the_failure_names_the_missing_envs(hosts: dict[str, Host], name: str, missing: str) -> None:
    assert missing in hosts[name].failure["message"]


LEFTOVERS: Final = """
import os, signal, sys, time
from pathlib import Path
from ray_canary.serving.host import OwnFolder

living = OwnFolder()
if (child := os.fork()) == 0:
    OwnFolder()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
folders = set(living.path.parent.iterdir())
OwnFolder().remove()
assert set(living.path.parent.iterdir()) == folders, "a young folder is left alone"
for folder in folders:
    os.utime(folder, (1, 1))
OwnFolder().remove()
assert len(folders) == 2
assert set(living.path.parent.iterdir()) == {living.path}
"""


def test_what_a_killed_process_left_behind_is_removed_by_the_next(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LEFTOVERS], env=env, capture_output=True, text=True, timeout=SOON_S)
    assert done.returncode == 0, done.stderr


# --- Lifespan and FirstByteTimeout by themselves ---


def run(awaitable: Awaitable[Any]) -> Any:
    """Run a coroutine to its end."""

    async def main() -> Any:
        return await awaitable

    return asyncio.run(main())


def test_a_lifespan_runs_startup_and_shutdown_in_one_task() -> None:
    tasks = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for event in ("startup", "shutdown"):
            assert await receive() == {"type": f"lifespan.{event}"}
            tasks.append(asyncio.current_task())
            await send({"type": f"lifespan.{event}.complete"})

    async def main() -> None:
        lifespan = Lifespan(app)
        await lifespan.startup()
        await lifespan.shutdown()
        await lifespan.shutdown()

    run(main())
    assert len(tasks) == 2
    assert len(set(tasks)) == 1


async def says_failed(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "lifespan.startup.failed", "message": "no model"})


async def ends(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def exits(scope: Scope, receive: Receive, send: Send) -> None:
    sys.exit("no licence")


@pytest.mark.parametrize(
    ("app", "kind", "words"),
    [
        (says_failed, RuntimeError, "no model"),
        (ends, RuntimeError, "ended before lifespan.startup was complete"),
        (exits, SystemExit, "no licence"),
    ],
)
def test_a_startup_that_does_not_complete_fails(app: Any, kind: type[BaseException], words: str) -> None:
    async def main() -> None:
        with pytest.raises(kind, match=words):
            await Lifespan(app).startup()

    run(main())


def test_a_startup_that_is_cancelled_cancels_the_app() -> None:
    ended = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Lifespan(app).startup(), 0.01)

    run(main())
    assert ended == [True]


def answer_of(app: Any, timeout: float) -> tuple[int, bytes]:
    """Return status and body of what `app` answers below a timeout."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    run(FirstByteTimeout(app, timeout)({"type": "http"}, receive, send))
    assert [message["type"] for message in sent].count("http.response.start") == 1
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


def test_a_response_that_has_begun_may_take_as_long_as_it_likes() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"whole"})

    assert answer_of(app, 0.01) == (200, b"whole")


@pytest.mark.parametrize("kind", [RuntimeError, TimeoutError])
def test_an_exception_after_the_time_is_over_is_answered_504(kind: type[Exception]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise kind from None

    assert answer_of(app, 0.01)[0] == 504


def test_an_app_that_is_cancelled_by_others_is_not_answered() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.ensure_future(FirstByteTimeout(app, 60)({"type": "http"}, nothing, nothing))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def nothing(*_: object) -> Any:
        raise AssertionError("nothing is received or sent")

    run(main())


# --- BentoML's private corners ---

#: What BentoML itself imports and defines is deprecated by others.
imports_bentoml = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@imports_bentoml
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_bentoml_impl.loader:load", ["bento_identifier", "standalone_load"]),
        ("_bentoml_impl.server.serving:server_on_deployment", ["svc"]),
        ("_bentoml_impl.server.app:ServiceAppFactory", ["service", "is_main"]),
        ("bentoml._internal.server.http.traffic:TimeoutMiddleware", ["app", "timeout"]),
        ("bentoml._internal.server.http.access:AccessLogMiddleware", ["app"]),
        (
            "opentelemetry.instrumentation.asgi:OpenTelemetryMiddleware",
            ["app", "tracer_provider", "server_request_hook"],
        ),
        ("_bentoml_sdk.io_models:IOMixin.mime_type", []),
        ("bentoml._internal.utils.uri:join_paths", []),
        ("bentoml:bentos.get", ["tag"]),
        ("bentoml:Tag.from_str", ["tag_str"]),
        ("_bentoml_sdk:Service.inject_config", ["self"]),
        ("_bentoml_sdk:Service.all_services", ["self"]),
        ("_bentoml_sdk:Service.find_dependent_by_name", ["self", "name"]),
    ],
)
def test_bentomls_private_functions_are_where_they_were(name: str, parameters: list[str]) -> None:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert set(parameters) <= set(inspect.signature(found).parameters)


@imports_bentoml
def test_bentomls_private_variables_are_where_they_were() -> None:
    from _bentoml_impl.server.app import RESULT_STORE_ENV, ServiceAppFactory
    from _bentoml_sdk import Service
    from bentoml._internal.bento.bento import BentoInfoV2
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.context import server_context
    from bentoml._internal.log import SERVER_LOGGING_CONFIG

    assert RESULT_STORE_ENV == "BENTOML_RESULT_STORE"
    assert isinstance(ServiceAppFactory.middlewares, property)
    assert callable(BentoMLContainer.remote_runner_mapping.set)
    assert {"worker_index", "service_type", "service_name", "service_routes", "bento_name", "bento_version"} <= {
        field.name for field in type(server_context).__attrs_attrs__
    }
    assert {"name", "config", "envs", "apis", "path_prefix"} <= {field.name for field in Service.__attrs_attrs__}
    assert {"envs", "entry_service"} <= {field.name for field in BentoInfoV2.__attrs_attrs__}
    assert {"version", "formatters", "filters", "handlers", "loggers"} <= SERVER_LOGGING_CONFIG.keys()
    assert "bentoml" in SERVER_LOGGING_CONFIG["loggers"]


@imports_bentoml
def test_the_media_type_of_an_apis_answers_is_worked_out_once_and_is_bentomls_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import bentoml
    from _bentoml_sdk.io_models import IOMixin, IORootModel
    from bentoml.validators import ContentType

    def text(self: object) -> str:
        return ""

    def number(self: object) -> int:
        return 0

    def file(self: object) -> Annotated[Path, ContentType("audio/mp3")]:
        return Path()

    specs = [bentoml.api(api).output_spec for api in (text, number, file)]
    own = [spec.mime_type() for spec in specs]
    assert own == ["text/plain", "application/json", "audio/mp3"]
    monkeypatch.setattr(IOMixin, "mime_type", IOMixin.__dict__["mime_type"])  # Put back after the test.
    worked_out = []
    schema = IORootModel.__dict__["model_json_schema"].__func__

    def counted(cls: Any, *args: Any, **kwargs: Any) -> Any:
        worked_out.append(cls)
        return schema(cls, *args, **kwargs)

    monkeypatch.setattr(IORootModel, "model_json_schema", classmethod(counted))
    _remember_media_types()
    assert [spec.mime_type() for spec in specs * 3] == own * 3
    assert worked_out == specs[:2]


LOGGING: Final = """
import logging, logging.handlers, sys
serves = logging.getLogger("ray.serve")
serves.addHandler(logging.handlers.MemoryHandler(1, target=logging.StreamHandler(sys.stderr)))
from ray_canary.serving.bento_app import _configure_logging
for _ in range(2):
    _configure_logging(lambda: "who request")
    serves.error("of Serve's")
    logging.getLogger("bentoml.service").info("of BentoML's")
    logging.getLogger("bentoml.access").info("of BentoML's access log")
    logging.getLogger("a.service").warning("of the service's")
"""


def test_bentomls_log_is_shown_and_the_log_that_the_replica_had_before_goes_on() -> None:
    # In a process of its own, as it changes the logging of the whole process.
    done = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True)
    assert done.stderr == "of Serve's\n[who request] of the service's\n" * 2
    assert [line.partition("of BentoML's")[1:] for line in done.stdout.splitlines()] == [("of BentoML's", "")] * 2
    assert all(line.startswith("[who request] ") for line in done.stdout.splitlines())
