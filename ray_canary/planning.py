"""Reading and planning a Deployment file for a command: what is wrong names the file, and warnings are shown."""

from collections.abc import Callable
from typing import TypeVar

from ray_canary import deployment, screens
from ray_canary.config import DeploymentFile
from ray_canary.errors import ConfigError
from ray_canary.plan import Plan
from ray_canary.serving import supply
from ray_canary.serving.supply import Shipping

T = TypeVar("T")


def planned(file: str, instance_types: str | None) -> Plan:
    """Build and fetch what a Deployment file names, plan it, and show its warnings. Raises ConfigError."""
    read: DeploymentFile = deployment.read(file)
    pinned = _located(file, lambda: deployment.settle(read, screens.notice))
    found = _located(file, lambda: deployment.plan(read, instance_types, pinned))
    screens.warnings(found.warnings)
    return found


def pushed(file: str, plan: Plan, how: Shipping) -> Plan:
    """Push all of a plan's Bentos, if that is asked for. Raises ConfigError."""
    return _located(file, lambda: supply.pushed(plan, plan.targets, how, screens.notice)) if how.push else plan


def _located(file: str, resolve: Callable[[], T]) -> T:
    """Do it, and name the file in what is wrong."""
    try:
        return resolve()
    except ConfigError as error:
        raise type(error)(error.problems, error.source or file) from None
