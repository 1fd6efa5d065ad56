"""Amounts of CPU and memory, in Kubernetes' notation, and of GPUs."""

import re
from decimal import Decimal

_QUANTITY = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?|\.[0-9]+)(?P<suffix>[a-zA-Z]*)")
_MEMORY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def cpu(quantity: str | int | float) -> float:
    """Return cores: `500m` is 0.5, `2` is 2."""
    number, suffix = _parts(quantity)
    if suffix not in ("", "m"):
        raise ValueError(f"{quantity}: a number of cores ends in m, for thousandths, or in nothing")
    return float(number / 1000 if suffix else number)


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
    if not 0.0001 <= number < 10**6 or (number > 1 and number % 1):
        raise ValueError(f"{quantity}: Ray gives a replica whole GPUs, or a part of one that is at least 0.0001")
    return number


def _parts(quantity: str | int | float) -> tuple[Decimal, str]:
    """Split a quantity above 0 in its number and its suffix."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None or isinstance(quantity, bool):
        raise ValueError(f"{quantity}: a quantity is a number and perhaps a suffix, like 500m or 2Gi")
    number = Decimal(match["number"])
    if not number:
        raise ValueError(f"{quantity}: a quantity is above 0")
    return number, match["suffix"]
