"""How long the benchmarks take, and where they write: read from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    """`rounds` of `seconds` for each side of each cell; `only` names the stages to run, none: all.

    Of the other stages, the page in `folder` keeps what it has.
    """

    rounds: int = 5
    seconds: int = 4
    only: tuple[str, ...] = ()
    folder: Path = ROOT / "docs"

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read `RAY_CANARY_BENCH_ROUNDS`, `..._SECONDS`, `..._ONLY` (names, with commas) and `..._FOLDER`."""

        def said(name: str, default: object) -> str:
            return environment.get(f"RAY_CANARY_BENCH_{name}") or str(default)

        only = tuple(name.strip() for name in said("ONLY", "").split(",") if name.strip())
        return cls(
            int(said("ROUNDS", cls.rounds)), int(said("SECONDS", cls.seconds)), only, Path(said("FOLDER", cls.folder))
        )
