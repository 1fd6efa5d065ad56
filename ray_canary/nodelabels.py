"""Node labels, and which nodes a replica may go to: the grammar of Ray's label selectors. Pure.

A selector names a label and what its value may be: `gpu`, `!spot`, `in(a, b)` or `!in(a, b)`. A node without the label
fits what is negated, and nothing else (ray 2.60, `label_utils.py` and its scheduler).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_NAME: Final = "[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_PREFIX: Final = r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
KEY: Final = rf"^({_PREFIX}(\.{_PREFIX})*/)?{_NAME}$"
"""What a label may be called, as in Kubernetes."""
VALUE: Final = rf"^{_NAME}$"
"""What a label may be."""
SELECTOR: Final = rf"^!?({_NAME}|in\({_NAME}(, ?{_NAME})*\))$"
"""What is asked of a label's value."""

_PARTS: Final = re.compile(r"(?P<no>!?)(?:in\((?P<several>.*)\)|(?P<one>.*))")

Selector = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Node:
    """What a node has: in Ray's terms (`CPU`, `memory` in bytes, `GPU`), its labels, and Ray's id of it."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    id: str = ""


def fits(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Return whether a node with these labels is one that a selector asks for."""
    return all(_fits(wanted, labels.get(key)) for key, wanted in selector.items())


def _fits(wanted: str, value: str | None) -> bool:
    parts = _PARTS.fullmatch(wanted)
    assert parts
    several = parts["several"]
    values = {parts["one"]} if several is None else {one.strip() for one in several.split(",")}
    return (value in values) != bool(parts["no"])


def text(selector: Selector) -> str:
    """Return a selector as people read it, like `pool=gpu, zone=!b`."""
    return ", ".join(f"{key}={wanted}" for key, wanted in sorted(selector.items()))
