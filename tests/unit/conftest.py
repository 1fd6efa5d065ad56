"""What all unit tests have in common."""

import re

from hypothesis import HealthCheck, settings

# How long an example takes to make or to run is the machine's matter: on a fresh checkout the first one takes seconds.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a test with a token after the argument: a new token in every process would be a new name in each."""
    return argname if isinstance(val, str) and re.search("[0-9a-fA-F]{8}", val) else None
