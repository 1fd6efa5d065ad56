"""What is measured: stages, each a set of sides that stand at once, and the cells in which they are compared."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import applications, decision, load, meter, stream
from tests.benchmarks.load import Load
from tests.benchmarks.meter import Side
from tests.benchmarks.outside import ALONE_PORT, bentoml_serve, nginx
from tests.benchmarks.results import Sample
from tests.benchmarks.sides import serving

Sides = Mapping[str, Side]

PLAIN = "plain Serve"
PLAIN_ONE = "plain Serve, 1 replica"
HOSTED = "plain Serve, our hosting"
TWO = "ray-canary, 2 versions"
THREE = "ray-canary, 3 versions"
SIXTEEN = "ray-canary, 16 versions"
IN_TWO = "ray-canary, 16 versions in 2 processes"
HEADER = "ray-canary, by header"
QUERY = "ray-canary, by query"
KEYED_16 = "ray-canary, by header, 16 versions in 2 processes"
HANDLE = "ray-canary, by handle"
UNMETERED = "ray-canary, no metrics"
ONE_INGRESS = "ray-canary, 1 ingress replica"
FOUR_INGRESS = "ray-canary, 4 ingress replicas"
NAIVE = "naive ingress"
NGINX = "nginx split_clients"
ALONE = "bentoml serve"

AT_1, AT_32, AT_64, AT_256 = (f"{connections} connections" for connections in (1, 32, 64, 256))
MB_1, MB_20 = "1 MB bodies, 8 connections", "20 MB bodies, 4 connections"
LARGE, LARGE_CONNECTIONS = 20_000_000, 4
STREAM, TOKEN = "a stream as fast as it goes", "a stream with a chunk every 5 ms"
TOKENS = "8 streams, a chunk every 5 ms"
TOKEN_STREAMS, TOKEN_EVERY_S = 8, 0.005
METERED = f"{AT_32}, with and without metrics"
WITH_KEYS = f"{AT_32}, with keys"
IDLE = "nobody asks"


@dataclass(frozen=True)
class Cell:
    """One load, and the sides that get it in turn; ratios are to the first of them.

    A small difference takes more rounds than others: `repeats` times as many.
    """

    name: str
    sides: tuple[str, ...]
    measure: Callable[[Side, int], Sample]
    repeats: int = 1


@dataclass(frozen=True)
class Stage:
    """Sides that stand at once. `start` is given a BENTOML_HOME and a folder for files."""

    name: str
    start: Callable[[Path, Path], AbstractContextManager[Sides]]
    cells: tuple[Cell, ...]


def _wrk(name: str, sides: tuple[str, ...], load_: Load, metered: Callable[..., Sample] = meter.metered) -> Cell:
    return Cell(name, sides, lambda side, seconds: metered(side, lambda: load.send(load_, side.url, seconds)))


def _stream(name: str, sides: tuple[str, ...], clients: int, every_s: float) -> Cell:
    def measure(side: Side, seconds: int) -> Sample:
        sample = meter.metered(side, lambda: stream.send(side.url, seconds, clients, every_s))
        # Of what it takes, only that the machine is full says something: the client is a large part of it.
        kept = {figure: value for figure, value in sample.values.items() if figure not in meter.COSTS}
        return sample.model_copy(update={"values": kept})

    return Cell(name, sides, measure)


def _idle(*sides: str) -> Cell:
    return Cell(IDLE, sides, lambda side, seconds: meter.metered(side, lambda: meter.idle(side, seconds)))


def _names(count: int, kind: str = "bento") -> list[str]:
    return [f"{kind}-{key}" for key in decision.keys(count)]


# The Bento, in front of it one thing or another. ----------------------------------------------------------------------


@contextmanager
def _bentos(home: Path, folder: Path) -> Iterator[Sides]:
    two, three = (applications.plan(home, applications.deployment(f"canary{count}", count)) for count in (2, 3))
    bare = applications.plan(home, applications.deployment("bare", 2))
    configs = [
        *applications.versions(three),
        *(applications.ingress(plan) for plan in (two, three)),
        applications.unmetered(bare),
        applications.plain(two, 2),
        applications.plain(two, 1, "plain1"),
        applications.hosted(two, 2),
        applications.naive("bento"),
    ]
    with ExitStack() as stack:
        on_ray = stack.enter_context(serving(home, configs, haproxy=True))
        yield {
            PLAIN: on_ray.side("plain"),
            PLAIN_ONE: on_ray.side("plain1"),
            HOSTED: on_ray.side("hosted"),
            TWO: on_ray.canary("canary2", _names(2)),
            THREE: on_ray.canary("canary3", _names(3)),
            UNMETERED: on_ray.canary("bare", _names(2)),
            NAIVE: on_ray.side("naive", ingress="NaiveIngress"),
            NGINX: stack.enter_context(nginx(home, folder)),
            ALONE: stack.enter_context(bentoml_serve(home, folder, ALONE_PORT)),
        }


BENTOS = Stage(
    "bento",
    _bentos,
    (
        _idle(TWO, NAIVE, PLAIN),
        _wrk(AT_1, (PLAIN, HOSTED, TWO, NAIVE, NGINX, ALONE), Load(1)),
        _wrk(AT_32, (PLAIN, PLAIN_ONE, HOSTED, TWO, THREE, NAIVE, NGINX, ALONE), Load(32)),
        replace(_wrk(METERED, (UNMETERED, TWO), Load(32)), repeats=4),
        _wrk(AT_256, (PLAIN, TWO, NAIVE, NGINX, ALONE), Load(256)),
        _wrk(MB_1, (PLAIN, TWO, NGINX), Load(8, 1_000_000)),
        _wrk(MB_20, (PLAIN, TWO, NGINX), Load(LARGE_CONNECTIONS, LARGE), meter.with_memory),
        _stream(STREAM, (PLAIN, HOSTED, TWO), clients=1, every_s=0),
        _stream(TOKEN, (PLAIN, HOSTED, TWO), clients=1, every_s=TOKEN_EVERY_S),
        _stream(TOKENS, (PLAIN, HOSTED, TWO, UNMETERED), clients=TOKEN_STREAMS, every_s=TOKEN_EVERY_S),
    ),
)


# One set of versions, and several Deployments in front of it. ---------------------------------------------------------


@contextmanager
def _splits(home: Path, folder: Path) -> Iterator[Sides]:
    sixteen = applications.plan(home, applications.deployment("canary16", 16))
    files = (
        applications.deployment("canary2", 2),
        applications.deployment("header", 2, route_type="header"),
        applications.deployment("query", 2, route_type="query"),
        applications.deployment("handle", 2, transport="handle"),
    )
    plans = [sixteen, *(applications.plan(home, file) for file in files)]
    shared = [
        applications.ingress_sharing(applications.plan(home, file), 2)
        for file in (
            applications.deployment("shared", 16),
            applications.deployment("shared-header", 16, route_type="header"),
        )
    ]
    configs = [*applications.versions(sixteen), *map(applications.ingress, plans), *shared]
    with serving(home, configs, haproxy=True) as on_ray:
        yield {
            TWO: on_ray.canary("canary2", _names(2)),
            SIXTEEN: on_ray.canary("canary16", _names(16)),
            HEADER: on_ray.canary("header", _names(2)),
            QUERY: on_ray.canary("query", _names(2)),
            HANDLE: on_ray.canary("handle", _names(2), "handle"),
            IN_TWO: on_ray.canary("shared", _names(2)),
            KEYED_16: on_ray.canary("shared-header", _names(2)),
        }


_SPLITS = Stage(
    "splits",
    _splits,
    (
        _idle(TWO, SIXTEEN),
        _wrk(AT_32, (TWO, SIXTEEN, IN_TWO, HANDLE), Load(32)),
        _wrk(WITH_KEYS, (TWO, HEADER, QUERY, KEYED_16), Load(32, keyed=True)),
        _wrk(AT_1, (TWO, HANDLE), Load(1)),
    ),
)


# A trivial app in the place of the Bento. -----------------------------------------------------------------------------


def _deployments(*, haproxy: bool) -> dict[str, dict[str, Any]]:
    """Return the Deployments in front of the trivial app, by side; on the Python proxy one is enough."""
    make = partial(applications.deployment, versions=2, kind="trivial")
    if not haproxy:
        return {TWO: make("canary2")}
    return {
        TWO: make("canary2"),
        UNMETERED: make("bare"),
        ONE_INGRESS: make("one", ingress_replicas=1),
        FOUR_INGRESS: make("four", ingress_replicas=4),
        HANDLE: make("handle", transport="handle"),
    }


@contextmanager
def _trivial(home: Path, folder: Path, *, haproxy: bool) -> Iterator[Sides]:
    files = _deployments(haproxy=haproxy)
    plans = {side: applications.plan(home, file) for side, file in files.items()}
    configs = [
        *applications.trivial_versions(plans[TWO]),
        *(
            applications.unmetered(plan) if side == UNMETERED else applications.ingress(plan)
            for side, plan in plans.items()
        ),
        applications.plain_trivial(plans[TWO], 2),
        applications.plain_trivial(plans[TWO], 1, "plain1"),
        applications.naive("trivial"),
    ]
    names = _names(2, "trivial")
    with serving(home, configs, haproxy=haproxy) as on_ray:
        yield {
            PLAIN: on_ray.side("plain"),
            PLAIN_ONE: on_ray.side("plain1"),
            NAIVE: on_ray.side("naive", ingress="NaiveIngress"),
            **{
                side: on_ray.canary(plan.name, names, "handle" if side == HANDLE else None)
                for side, plan in plans.items()
            },
        }


TRIVIAL_LOAD = Load(64, 0, "/ok")

TRIVIAL = Stage(
    "trivial",
    partial(_trivial, haproxy=True),
    (_wrk(AT_64, (PLAIN, PLAIN_ONE, TWO, UNMETERED, ONE_INGRESS, FOUR_INGRESS, HANDLE, NAIVE), TRIVIAL_LOAD),),
)

DEFAULTS = Stage(
    "defaults",
    partial(_trivial, haproxy=False),
    (_wrk(AT_64, (PLAIN, PLAIN_ONE, TWO, NAIVE), TRIVIAL_LOAD),),
)

STAGES = (BENTOS, _SPLITS, TRIVIAL, DEFAULTS)
