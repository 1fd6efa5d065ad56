"""The ingress's `user_config`: all that it reads per request, so that changing it restarts nothing (decision 2)."""

import math
import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ray_canary import legal
from ray_canary.errors import Problem
from ray_canary.fields import Flag, Natural, Percent, Positive, RouteType, Text, TransportName
from ray_canary.legal import Legal, refuse, show
from ray_canary.splitter import SCHEME

MAIN: Final = "main"

Seconds = Annotated[float, Field(gt=0, lt=math.inf), Legal("a number of seconds above 0")]

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SplitSettings(_Model):
    """How requests are split. main gets what the weights leave of 100."""

    scheme: Literal[1] = Field(default=SCHEME, description="Version of the hash; another one moves users.")
    route_type: RouteType = Field(description="What a request is split by.")
    route_by: Text | None = Field(default=None, description="The header's or query parameter's name.")
    weights: dict[str, Percent] = Field(default={}, description="Percent of requests for each canary version.")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if MAIN in self.weights:
            raise refuse("weights: leave main out, it gets what the others leave of 100")
        if (total := sum(self.weights.values())) > 100:
            raise refuse(f"weights add up to {total}; at most 100 is possible, and main gets the rest")
        if self.route_type != "random" and not self.route_by:
            raise refuse(f"route_type {self.route_type} needs route_by")
        if self.route_type == "header" and not _HEADER_NAME.fullmatch(self.route_by or ""):
            raise refuse(f"route_by: {show(self.route_by)} is not the name of a header")
        return self

    def shares(self) -> dict[str, int]:
        """Return the weight of every target in percent, main's first."""
        return {MAIN: 100 - sum(self.weights.values()), **self.weights}


class TargetSettings(_Model):
    """Where a target's requests go, and how long they may take."""

    application: Text | None = Field(description="The Serve application that serves this target; null: the ingress's.")
    deployment: Text = Field(description="Its entry deployment.")
    bento: Text = Field(description="The Bento that the file asks for.")
    arm: Text = Field(description="What seeds this target's hash; it follows the application on promote.")
    timeout_s: Seconds = Field(description="Seconds to the first byte of a response, from arrival.")
    capacity: Positive = Field(description="Requests at once that a replica takes before others should wait.")
    max_queue_depth: Positive | None = Field(
        default=None, description="Requests that may wait in its queue, for all ingress replicas; null: it has none."
    )
    scales_to_zero: Flag = Field(default=False, description="Whether no replica at all can be as intended.")
    cold_start_timeout_s: Seconds = Field(default=300, description="Seconds to wait for a first replica.")


class IngressSettings(_Model):
    """What one Deployment's ingress does with a request."""

    deployment: Text = Field(description="The Deployment's name; it salts the hash.")
    split: SplitSettings = Field(description="Which target answers.")
    targets: dict[str, TargetSettings] = Field(description="The targets, main among them.")
    max_body_bytes: Natural = Field(default=100_000_000, description="Largest request body; more gets a 413.")
    target_wait_s: Seconds = Field(default=0.25, description="Seconds to wait for a target without a replica.")
    transport: TransportName = Field(default="auto", description="How requests travel; auto: the quicker way.")
    ingress_replicas: Positive = Field(default=1, description="How many ingress replicas share a target's capacity.")
    file: dict[str, Any] | None = Field(default=None, description="The Deployment file; kept for `get` and `update`.")
    revision: Natural | None = Field(default=None, description="The revision that this is; null if it is none.")
    owner: Text | None = Field(
        default=None, description="Who keeps the Serve config and would undo a change of it, like `RayService words`."
    )
    access_log: Flag = Field(default=False, description="Whether the ingress logs every request.")
    access_authorization: Flag = Field(default=False, description="Whether every request needs an access token.")
    terminated: Flag = Field(default=False, description="Whether the Deployment is switched off: every answer is 503.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if MAIN not in self.targets:
            raise refuse("targets: main is missing")
        if unknown := sorted(set(self.split.weights) - set(self.targets)):
            message = f"split.weights: {show(unknown[0])} is not a target"
            raise refuse(message, f"the targets are {', '.join(sorted(self.targets))}")
        self._check_arms()
        return self

    def _check_arms(self) -> None:
        """Refuse what the splitter would refuse: two targets with a share and the same arm."""
        owner: dict[str, str] = {}
        for key, arm in self.arms().items():
            if (first := owner.setdefault(arm, key)) != key:
                raise refuse(f"targets: {first} and {key} have the same arm, {show(arm)}")

    def arms(self) -> dict[str, str]:
        """Return the arm of every target that has a share."""
        return {key: self.targets[key].arm for key in self.split.shares()}


def problems(error: ValidationError) -> str:
    """Say in one line what is wrong with a rejected `user_config`."""
    return "; ".join(_said(problem) for problem in legal.problems(error, IngressSettings))


def _said(problem: Problem) -> str:
    return problem.text() if problem.path else f"user_config: {problem.text()}"
