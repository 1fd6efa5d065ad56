"""What a user would build without Ray: `bentoml serve`, and nginx in front of two of them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil

from tests.benchmarks.applications import BENTO
from tests.benchmarks.meter import Side

HOST = "127.0.0.1"
ALONE_PORT, A_PORT, B_PORT, NGINX_PORT = 28600, 28601, 28602, 28603
_STARTS_S = 60

#: Debian's defaults, and what a user must add: large bodies let in, connections to the Bentos kept.
_NGINX = """\
daemon off;
user root;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log {folder}/access.log;
    client_max_body_size 100m;
    split_clients "$request_id" $version {{
        50% a;
        *   b;
    }}
    upstream a {{ server {host}:{a}; keepalive 64; }}
    upstream b {{ server {host}:{b}; keepalive 64; }}
    server {{
        listen {host}:{port};
        location / {{
            proxy_pass http://$version;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


@contextmanager
def bentoml_serve(home: Path, folder: Path, port: int) -> Iterator[Side]:
    """Run the Bento as `bentoml serve` does, with BentoML's defaults."""
    metrics = folder / f"metrics-{port}"
    metrics.mkdir()
    environment = {
        **os.environ,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        # Two on one machine would share this one, and empty it at each start.
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
    }
    command = [sys.executable, "-P", "-m", "bentoml", "serve", BENTO, "--host", HOST, "--port", str(port)]
    with _running(command, folder / f"bentoml-{port}.log", environment) as process:
        url = f"http://{HOST}:{port}"
        _until_ready(f"{url}/readyz")
        yield Side(url, versions=_family(process.pid))


@contextmanager
def nginx(home: Path, folder: Path) -> Iterator[Side]:
    """Run nginx, splitting between two `bentoml serve`."""
    text = _NGINX.format(folder=folder, host=HOST, a=A_PORT, b=B_PORT, port=NGINX_PORT)
    (folder / "nginx.conf").write_text(text)
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with ExitStack() as stack:
        bentos = [stack.enter_context(bentoml_serve(home, folder, port)) for port in (A_PORT, B_PORT)]
        process = stack.enter_context(_running(command, folder / "nginx.log", dict(os.environ)))
        url = f"http://{HOST}:{NGINX_PORT}"
        _until_ready(f"{url}/readyz")
        yield Side(url, _family(process.pid), tuple(pid for bento in bentos for pid in bento.versions))


@contextmanager
def _running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it has started, and no others."""
    family = [psutil.Process(pid) for pid in _family(process.pid)] if process.poll() is None else []
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for one in alive:
        one.kill()
    process.wait()


def _family(pid: int) -> tuple[int, ...]:
    parent = psutil.Process(pid)
    return (pid, *(child.pid for child in parent.children(recursive=True)))


def _until_ready(url: str) -> None:
    deadline = time.monotonic() + _STARTS_S
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} doesn't answer after {_STARTS_S} s")
        time.sleep(0.1)
