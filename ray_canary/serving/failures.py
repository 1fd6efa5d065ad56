"""The Bento's own traceback, without our frames, Serve's and BentoML's, and how to find it in what Serve reports."""

import traceback
from typing import Final

_BEGINS: Final = "--- The Bento failed ---"
_ENDS: Final = "--- End of the Bento's failure ---"
#: Packages whose frames say nothing about a Bento's mistake.
_MACHINERY: Final = (
    "/ray_canary/",
    "/ray/",
    "/bentoml/",
    "/_bentoml_impl/",
    "/_bentoml_sdk/",
    "/simple_di/",
    "/starlette/",
    "/asyncio/",
    "/concurrent/futures/",
    "/importlib/",
    "<frozen importlib",
)


class BentoFailed(Exception):
    """The Bento's own code failed while it started."""


def describe(bento: str, service: str, error: BaseException) -> str:
    """Return a text that says which Bento failed and where in its own code."""
    trace = traceback.TracebackException.from_exception(error)
    _keep_own_frames(trace)
    lines = "".join(trace.format()).rstrip()
    return f"{service} of Bento {bento} failed to start\n{_BEGINS}\n{lines}\n{_ENDS}"


def find(message: str) -> str | None:
    """Return the Bento's own failure out of a message of Serve's, or None if there is none in it."""
    if _BEGINS not in message:
        return None
    return message.split(_BEGINS, 1)[1].split(_ENDS, 1)[0].strip("\n")


def _keep_own_frames(trace: traceback.TracebackException) -> None:
    own = [frame for frame in trace.stack if not any(part in frame.filename for part in _MACHINERY)]
    trace.stack = traceback.StackSummary.from_list(own)
    for chained in (trace.__cause__, trace.__context__):
        if chained is not None:
            _keep_own_frames(chained)
