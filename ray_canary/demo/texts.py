"""Passages to summarize.

`canary` was written for this project, and is what the Bentos summarize for a request that brings no text. `darwin` is
from the Introduction and the last page of 'On the Origin of Species' (1859), `lincoln` is Abraham Lincoln's second
inaugural address (1865); both are in the public domain.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "texts"


def read_texts() -> dict[str, str]:
    """Return the passages by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.txt"))}
