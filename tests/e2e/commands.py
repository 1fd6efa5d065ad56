"""Runs the commands of a user's shell, each in a process of its own."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

#: Commands that start with Ray imported, which takes each two seconds of a core, and a run of the suite has
#: hundreds of them. What is ours, and Serve's own script, which reads the environment, each imports for itself.
FORKED = ("ray-canary", "serve")
PRELOADED = ("ray.serve", "ray.dashboard.modules.serve.sdk", "aiohttp", "prometheus_client.parser", "rich.console")

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(list(PRELOADED))


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    timeout_s: float,
    first: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end: a process with its own environment, folder, output and exit code.

    In one of `FORKED`, `first` is called before the command itself.

    Raises:
        subprocess.TimeoutExpired: it took over `timeout_s` seconds, and was killed.
    """
    if command[0] not in FORKED:
        return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=timeout_s)
    with tempfile.TemporaryDirectory() as kept:
        streams = {1: Path(kept) / "out", 2: Path(kept) / "err"}
        for path in streams.values():
            path.touch()
        process = _server.Process(target=_be, args=(list(command), dict(environment), folder, streams, first))
        process.start()
        try:
            process.join(timeout_s)
            code = process.exitcode
        finally:
            if process.is_alive():
                process.kill()
                process.join()
        out, err = (path.read_text() for path in streams.values())
    if code is None:
        raise subprocess.TimeoutExpired(list(command), timeout_s, out, err)
    return subprocess.CompletedProcess(list(command), code, out, err)


def _be(
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    streams: Mapping[int, Path],
    first: Callable[[], None] | None,
) -> None:
    """Become the command, as its installed script would."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for stream, path in streams.items():
        opened = os.open(path, os.O_WRONLY)
        os.dup2(opened, stream)
        os.close(opened)
    sys.argv = command
    if first:
        first()
    (script,) = entry_points(group="console_scripts", name=command[0])
    sys.exit(script.load()())
