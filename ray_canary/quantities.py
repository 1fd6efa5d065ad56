"""Amounts of CPU and memory, in Kubernetes' notation, and of GPUs."""

import re
from decimal import Decimal
from typing import Final

_QUANTITY = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?|\.[0-9]+)(?P<suffix>[a-zA-Z]*)")
#: Of a core and of a GPU, Ray counts no less.
LEAST: Final = 0.0001
_MEMORY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def cpu(quantity: str | int | float) -> float:
    """Return cores: `500m` is 0.5, `2` is 2."""
    number, suffix = _parts(quantity)
    if suffix not in ("", "m"):
        raise ValueError(f"{quantity}: a number of cores ends in m, for thousandths, or in nothing")
    cores = float(number / 1000 if suffix else number)
    if cores < LEAST:
        raise ValueError(f"{quantity}: the least that Ray counts is {LEAST} cores, which is 0.1m")
    return cores


def memory(quantity: str | int | float, *, bare: str = "") -> int:
    """Return bytes: `2Gi` is 2 * 2**30, `2G` is 2 * 10**9. A bare number counts `bare`: bytes, or for instance Gi."""
    number, suffix = _parts(quantity)
    unit = suffix or bare
    if unit and unit not in _MEMORY:
        raise ValueError(f"{quantity}: an amount of memory ends in {', '.join(_MEMORY)} or in nothing")
    size = int(number * _MEMORY.get(unit, 1))
    if not size:
        raise ValueError(f"{quantity}: this is less than a byte")
    return size


def gpus(quantity: str | int | float) -> float:
    """Return a number of GPUs: Ray gives a replica a part of one, or whole ones."""
    number = float(quantity)
    if not LEAST <= number < 10**6 or (number > 1 and number % 1):
        raise ValueError(f"{quantity}: Ray gives a replica whole GPUs, or a part of one that is at least {LEAST}")
    return number


def _parts(quantity: str | int | float) -> tuple[Decimal, str]:
    """Split a quantity above 0 in its number and its suffix."""
    # A small number is written as 9e-05 otherwise.
    text = f"{Decimal(str(quantity)):f}" if isinstance(quantity, float) else str(quantity)
    match = _QUANTITY.fullmatch(text)
    if match is None or isinstance(quantity, bool):
        raise ValueError(f"{quantity}: a quantity is a number and perhaps a suffix, like 500m or 2Gi")
    number = Decimal(match["number"])
    if not number:
        raise ValueError(f"{quantity}: a quantity is above 0")
    return number, match["suffix"]
