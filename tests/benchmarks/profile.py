"""Where the time goes: whose code is at work in an ingress replica and in a version's, under load."""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks import cells, load, stream
from tests.benchmarks.load import Load
from tests.benchmarks.results import Figure, Group, Measured, Sample
from tests.benchmarks.settings import Settings

NAME: Final = "profile"
#: How often a second py-spy looks, and the least seconds for which it does.
_RATE: Final = 100
_SECONDS: Final = 10
#: wrk starts before py-spy has found its way into the process, and goes on until it is done.
_AROUND_S: Final = 3
#: What sends load to an address for so many seconds, by its name; the first of a stage has none.
_Sends = Mapping[str, Callable[[str, float], object]]
_SENDS: Final[Mapping[cells.Stage, _Sends]] = {
    cells.BENTOS: {
        "": partial(load.send, Load(32)),
        f"{cells.TOKENS}, ": partial(stream.send, clients=cells.TOKEN_STREAMS, every_s=cells.TOKEN_EVERY_S),
    },
    cells.TRIVIAL: {"": partial(load.send, cells.TRIVIAL_LOAD)},
    cells.DEFAULTS: {"": partial(load.send, cells.TRIVIAL_LOAD)},
}

OTHERS: Final = "others"
LOOP: Final = "the event loop"
#: Whose a file is, by a part of its path. What the standard library does is its caller's; only frames of Python are
#: seen, so that a system call is at the frame that makes it, or the event loop's own.
OWNERS: Final[Mapping[str, tuple[str, ...]]] = {
    "ray-canary": ("/ray_canary/", "/tests/benchmarks/"),
    "Serve and Ray": ("/ray/",),
    "uvicorn": ("/uvicorn/",),
    "BentoML": ("/bentoml/", "/_bentoml_impl/", "/_bentoml_sdk/", "/simple_di/"),
    "OpenTelemetry": ("/opentelemetry/",),
    "Starlette, pydantic and others": ("/site-packages/",),
}


def run(settings: Settings, home: Path, folder: Path) -> Group:
    """Look into one replica of each kind, in each stage, one after the other, each under load."""
    seconds = max(_SECONDS, settings.seconds)
    own = folder / NAME  # Another stage has used what lies in the folder itself.
    own.mkdir()
    found: dict[str, Mapping[str, float]] = {}
    for stage, sends in _SENDS.items():
        with stage.start(home, own) as sides:
            canary, plain = sides[cells.TWO], sides[cells.PLAIN]
            looked_at = {
                "an ingress replica": (canary.url, canary.ingress[0]),
                "a version's replica": (canary.url, canary.versions[0]),
                "a replica of plain Serve": (plain.url, plain.versions[0]),
            }
            for load_name, send in sends.items():
                for name, (url, pid) in looked_at.items():
                    found[f"{stage.name}, {load_name}{name}"] = shares(recorded(partial(send, url), pid, seconds))
    return Group(name=NAME, cells=[_cell(name, owners) for name, owners in found.items()])


def _cell(name: str, owners: Mapping[str, float]) -> Measured:
    samples = {
        owner: [Sample(values={Figure.SHARE: owners.get(owner, 0.0) * 100})] for owner in (*OWNERS, LOOP, OTHERS)
    }
    return Measured(name=name, base="", samples=samples)


def recorded(send: Callable[[float], object], pid: int, seconds: int) -> Iterator[str]:
    """Yield the stacks that py-spy sees of a process at work while `send` sends to it, each with how often."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as background:
        stacks = Path(folder) / "stacks"
        loaded = background.submit(send, seconds + 2 * _AROUND_S)
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--nonblocking", "--full-filenames"]
        options = ["-d", str(seconds), "-r", str(_RATE), "-f", "raw", "-o", str(stacks), "-p", str(pid)]
        subprocess.run([*command, *options], check=True, capture_output=True)
        loaded.result()
        yield from stacks.read_text().splitlines()


def shares(stacks: Iterable[str]) -> Mapping[str, float]:
    """Return each owner's part of the samples. Raises ValueError if there are none."""
    counted: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        counted[owner(stack.split(";"))] += int(count)
    if not counted:
        raise ValueError("py-spy saw nothing at work")
    return {name: count / counted.total() for name, count in counted.items()}


def owner(frames: list[str]) -> str:
    """Return whose the innermost frame is, or the innermost one that is somebody's."""
    for frame in reversed(frames):
        for name, parts in OWNERS.items():
            if any(part in frame for part in parts):
                return name
    return LOOP if all("(" not in frame or "threading.py" in frame for frame in frames) else OTHERS
