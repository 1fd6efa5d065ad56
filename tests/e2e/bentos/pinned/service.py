"""A Bento that answers with the version of a library that the cluster doesn't have."""

import os
import sys
from importlib import metadata

import bentoml


@bentoml.service
class Pinned:
    """Says which humanize it runs with, and in which Python environment."""

    def __init__(self) -> None:
        try:
            import humanize

            self._said = {"humanize": metadata.version("humanize"), "number": humanize.intword(1_000_000)}
        except ImportError:
            self._said = {"humanize": "missing"}

    @bentoml.api
    def versions(self) -> dict[str, str]:
        return {**self._said, "prefix": sys.prefix, "pid": str(os.getpid()), "bentoml": metadata.version("bentoml")}
