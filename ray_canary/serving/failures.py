"""The Bento's own traceback, without our frames, Serve's and BentoML's, and how to find it in what Serve reports."""

import re
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_BEGINS: Final = "--- The Bento failed ---"
_ENDS: Final = "--- End of the Bento's failure ---"
#: Ray takes every line that begins with "Traceback " out of the text that a failing actor leaves, and puts one about
#: the actor in its place.
_HEADER: Final = "Traceback (most recent call last):"
_OUR_HEADER: Final = "The Bento's traceback (most recent call last):"
#: Files whose frames say nothing about a Bento's mistake. Only installed packages count: Bentos themselves lie under
#: `~/bentoml/bentos/`, and in Ray's images under `/home/ray/`.
_MACHINERY: Final = re.compile(
    r"/(site|dist)-packages/(ray_canary|ray|bentoml|_bentoml_impl|_bentoml_sdk|simple_di|starlette|opentelemetry)/"
    r"|/lib\d*/python3\.\d+/((asyncio|concurrent/futures|importlib)/|contextlib\.py)"
    r"|^<frozen importlib"
    rf"|^{re.escape(str(Path(__file__).parent))}/"
)
#: What an installer said, in Ray's report of a runtime environment that it could not create (ray 2.60.0).
_NO_ENVIRONMENT: Final = re.compile(
    r"runtime env failed to be created\..*Last \d+ lines of stdout:\n((?:[ \t]+\S[^\n]*\n?|[ \t]*\n)+)", re.DOTALL
)
_LATE_ENVIRONMENT: Final = re.compile(r"Failed to install runtime_env within the timeout of (\d+) seconds")
#: All that Serve says of a replica whose process was killed while it started (ray 2.60.0).
_KILLED: Final = "ActorDiedError()"
_NO_REASON: Final = (
    "The process of a replica ended while it started, and Serve has no reason. `ray-canary logs` shows its last lines, "
    "`ray-canary events` what Ray knows of its end."
)
_NOT_BUILT: Final = "The Python environment of its own could not be built:"


class BentoFailed(Exception):
    """The Bento's own code failed while it started."""


def describe(bento: str, service: str, error: BaseException, hide: Callable[[str], str] = str) -> str:
    """Return a text that says which Bento failed and where in its own code; `hide` takes the secrets out of it."""
    trace = traceback.TracebackException.from_exception(error)
    for each in _related(trace):
        own = [frame for frame in each.stack if not _MACHINERY.search(frame.filename)]
        each.stack = traceback.StackSummary.from_list(own)
    lines = hide("".join(trace.format())).rstrip().replace(_HEADER, _OUR_HEADER)
    return f"{service} of Bento {bento} failed to start\n{_BEGINS}\n{lines}\n{_ENDS}"


def find(message: str) -> str | None:
    """Return the Bento's own failure out of a message of Serve's, or None if there is none in it.

    That its Python environment could not be built is one too: then the installer's own words are returned. So is the
    end of its process: then where to look is.
    """
    if _BEGINS not in message:
        return _environment(message) or (_NO_REASON if _KILLED in message else None)
    return message.split(_BEGINS, 1)[1].split(_ENDS, 1)[0].strip("\n").replace(_OUR_HEADER, _HEADER)


def _environment(message: str) -> str | None:
    if late := _LATE_ENVIRONMENT.search(message):
        return f"{_NOT_BUILT}\nit took longer than {late[1]} seconds"
    found = _NO_ENVIRONMENT.search(message)
    if found is None:
        return None
    said = [line for line in textwrap.dedent(found[1]).splitlines() if line and not line.startswith("Using Python ")]
    return "\n".join((_NOT_BUILT, *said))


def _related(trace: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """Yield an exception and all that it came from: its causes, its contexts, and the members of groups."""
    todo = [trace]
    while todo:
        each = todo.pop()
        yield each
        todo += [chained for chained in (each.__cause__, each.__context__) if chained is not None]
        todo += each.exceptions or ()
