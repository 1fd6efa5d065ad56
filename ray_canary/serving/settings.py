"""The ingress's `user_config`: all that it reads per request, so that changing it restarts nothing (decision 2)."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from ray_canary.splitter import SCHEME

MAIN = "main"

Weight = Annotated[StrictInt, Field(ge=0, le=100)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitSettings(_Model):
    """How requests are split. main gets what the weights leave of 100."""

    scheme: Literal[1] = Field(default=SCHEME, description="Version of the hash; another one moves users.")
    route_type: Literal["random", "header", "query"] = Field(description="What a request is split by.")
    route_by: str | None = Field(default=None, min_length=1, description="The header's or query parameter's name.")
    weights: dict[str, Weight] = Field(default={}, description="Percent of requests for each canary version.")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if MAIN in self.weights:
            raise ValueError("weights: leave main out, it gets what the others leave of 100")
        if (total := sum(self.weights.values())) > 100:
            raise ValueError(f"weights add up to {total}; at most 100 is possible, and main gets the rest")
        if self.route_type != "random" and not self.route_by:
            raise ValueError(f"route_type {self.route_type} needs route_by")
        return self

    def shares(self) -> dict[str, int]:
        """Return the weight of every target in percent, main's first."""
        return {MAIN: 100 - sum(self.weights.values()), **self.weights}


class TargetSettings(_Model):
    """Where a target's requests go, and how long they may take."""

    application: str | None = Field(description="The Serve application that serves this target; null: the ingress's.")
    deployment: str = Field(description="Its entry deployment.")
    bento: str = Field(description="The Bento that the file asks for.")
    arm: str = Field(description="What seeds this target's hash; it follows the application on promote.")
    timeout_s: float = Field(gt=0, description="Seconds to the first byte of a response, from arrival.")
    capacity: int = Field(gt=0, description="Requests at once that a replica takes before others should wait.")
    scales_to_zero: bool = Field(default=False, description="Whether no replica at all can be as intended.")
    cold_start_timeout_s: float = Field(
        default=300, gt=0, description="Seconds to wait for a first replica."
    )


class IngressSettings(_Model):
    """What one Deployment's ingress does with a request."""

    deployment: str = Field(description="The Deployment's name; it salts the hash.")
    split: SplitSettings = Field(description="Which target answers.")
    targets: dict[str, TargetSettings] = Field(description="The targets, main among them.")
    max_body_bytes: int = Field(default=100_000_000, ge=0, description="Largest request body; more gets a 413.")
    target_wait_s: float = Field(default=0.25, gt=0, description="Seconds a request may wait for a target's replica.")
    ingress_replicas: int = Field(default=1, gt=0, description="How many ingress replicas share a target's capacity.")
    file: dict[str, Any] | None = Field(default=None, description="The Deployment file; kept for `get` and `update`.")
    terminated: bool = Field(default=False, description="Whether the Deployment is switched off: every answer is 503.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if MAIN not in self.targets:
            raise ValueError("targets: main is missing")
        if unknown := sorted(set(self.split.weights) - set(self.targets)):
            raise ValueError(f"weights: {unknown[0]!r} is not a target; targets are {', '.join(sorted(self.targets))}")
        return self

    def arms(self) -> dict[str, str]:
        """Return the arm of every target that has a share."""
        return {key: self.targets[key].arm for key in self.split.shares()}


def problems(error: ValidationError) -> str:
    """Say in one line what is wrong with a rejected `user_config`."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'user_config'}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_url=False)
    )
