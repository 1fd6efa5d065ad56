"""The Deployment fully resolved: no defaults left to guess."""

import itertools
from collections.abc import Container, Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from ray_canary import nodelabels
from ray_canary.config import RayBlock
from ray_canary.requirements import Difference
from ray_canary.splitter import SCHEME

MAIN: Final = "main"

#: Where a node keeps its secrets: a folder for each, with a file for each key.
SECRETS_DIR: Final = "RAY_CANARY_SECRETS_DIR"
DEFAULT_SECRETS_DIR: Final = "/etc/ray-canary/secrets"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Default(_Model):
    """A choice that the file leaves to us: where, what, and why."""

    path: str = Field(description="The key in the file that would change it.")
    value: str = Field(description="What is used.")
    reason: str = Field(description="Why.")


class ScalingPlan(_Model):
    """How many replicas there are, in Serve's terms."""

    min_replicas: int = Field(description="At least.")
    initial_replicas: int | None = Field(
        description="1 where min_replicas is 0, so that a broken Bento never looks healthy. Else null: Serve begins "
        "with min_replicas, and a version that is edited keeps the number that it has scaled to."
    )
    max_replicas: int = Field(description="At most.")
    target_ongoing_requests: float = Field(description="Requests at once per replica that scaling aims at.")
    upscale_delay_s: float = Field(description="Seconds of higher load before replicas are added.")
    downscale_delay_s: float = Field(description="Seconds of lower load before replicas are removed.")


class RolloutPlan(_Model):
    """How replicas are replaced, in Serve's terms."""

    strategy: str = Field(description="BentoCloud's name of it.")
    max_surge_percent: int = Field(description="Replicas that may be there in addition, percent, rounded up.")
    rolling_update_percentage: float = Field(description="Replicas replaced at a time, as a share; at least one.")


class SecretPlan(_Model):
    """A secret of a target: its name, and how it reaches the Bento. Its values are never in a plan."""

    name: str = Field(description="Its name, and that of its folder on the node.")
    type: Literal["env", "file"] = Field(description="Environment variables, or files.")
    keys: tuple[str, ...] = Field(default=(), description="The keys that are taken; none: all that are there.")
    path: str | None = Field(default=None, description="Where its folder stands under the replica's BENTOML_HOME.")

    @property
    def looked_up(self) -> str:
        """Say where a replica looks it up when it starts."""
        folder = f"${{{SECRETS_DIR}:-{DEFAULT_SECRETS_DIR}}}/{self.name} on its node"
        return f"{folder}, else {', '.join(self.keys)} in the node's environment" if self.keys else folder

    @property
    def reaches(self) -> str:
        """Say how the Bento gets it."""
        if self.type == "file":
            return f"files in $BENTOML_HOME/{self.path}"
        return f"environment variables {', '.join(self.keys)}" if self.keys else "environment variables, one a key"


class ServicePlan(_Model):
    """One Bento service of one target: one Serve deployment."""

    name: str = Field(description="The Bento service, and the Serve deployment.")
    depends: tuple[str, ...] = Field(description="The Bento services that it calls.")
    instance_type: str | None = Field(description="The instance type, where one is named.")
    resources: dict[str, Any] = Field(description="What a replica reserves, in Ray's terms; memory in bytes.")
    node_labels: dict[str, str] = Field(default={}, description="What labels a node must have for it.")
    max_replicas_per_node: int | None = Field(
        default=None, description="Replicas that a node has at most; none: any number."
    )
    envs: dict[str, str] = Field(description="Environment variables.")
    config_overrides: dict[str, Any] = Field(description="What replaces `@bentoml.service(...)` settings.")
    scaling: ScalingPlan
    rollout: RolloutPlan
    max_ongoing_requests: int = Field(description="Requests at once that Serve gives to a replica.")
    graceful_shutdown_timeout_s: float = Field(description="Seconds that a replica may take to end what it has begun.")
    memory_limit_bytes: int | None = Field(
        default=None, description="Bytes of memory above which a replica ends itself; none: no limit."
    )

    @property
    def nodes(self) -> str:
        """Say on which nodes its replicas may be; nothing, if on all."""
        labels = f"nodes with {nodelabels.text(self.node_labels)}" if self.node_labels else ""
        most = f"at most {self.max_replicas_per_node} on a node" if self.max_replicas_per_node else ""
        return ", ".join(filter(None, (labels, most)))


class DependenciesPlan(_Model):
    """Which Python environment a target runs in."""

    kind: Literal["shared", "isolated"] = Field(default="shared", description="The cluster's, or one of its own.")
    packages: tuple[str, ...] = Field(default=(), description="What is installed into one of its own.")
    locked: bool = Field(default=False, description="Whether these are a whole lock.")
    differences: tuple[Difference, ...] = Field(
        default=(), description="What the environment of the machine that planned has otherwise than the Bento."
    )


class ArchivePlan(_Model):
    """Where a node that lacks a Bento finds it, packed."""

    url: str = Field(description="Where it is.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="The checksum of its bytes.")


class TargetPlan(_Model):
    """main or one canary version: one Serve application."""

    deployment: str = Field(description="The Deployment's name.")
    key: str = Field(description="`main`, or the version's key.")
    label: str = Field(description="Its name in metrics and pages, as on BentoCloud.")
    application: str = Field(description="The Serve application that serves it.")
    arm: str = Field(description="What seeds its hash.")
    weight: int = Field(description="Percent of requests.")
    asked_for: str = Field(description="The Bento as the file names it.")
    bento: str = Field(description="The Bento, pinned.")
    entry_service: str = Field(description="The Bento service that requests go to.")
    services: dict[str, ServicePlan] = Field(description="All its Bento services.")
    secrets: tuple[SecretPlan, ...] = Field(default=(), description="Its secrets; the later wins a key.")
    timeout_s: float = Field(description="Seconds to the first byte of a response.")
    capacity: int = Field(description="Requests at once that a replica takes before others should wait.")
    cold_start_timeout_s: float = Field(description="Seconds that a request may wait for a first replica.")
    max_queue_depth: int | None = Field(
        default=None, description="Requests that may wait in its queue; none: it has no queue."
    )
    dependencies: DependenciesPlan = DependenciesPlan()
    archive: ArchivePlan | None = Field(
        default=None, description="Where nodes that lack the Bento fetch it; none: nowhere."
    )


class Plan(_Model):
    """What a Deployment file means, given a Bento store and an instance catalogue."""

    name: str = Field(description="The Deployment.")
    scheme: int = Field(default=SCHEME, description="Version of the hash.")
    route_type: Literal["random", "header", "query"] = Field(description="What a request is split by.")
    route_by: str | None = Field(description="The header or query parameter.")
    access_authorization: bool = Field(default=False, description="Whether every request needs an access token.")
    targets: dict[str, TargetPlan] = Field(description="main first, then the versions as in the file.")
    ray: RayBlock = Field(description="What the `ray:` block says, with its defaults.")
    file: dict[str, Any] = Field(description="The file itself.")
    warnings: tuple[str, ...] = Field(description="Keys that have no effect here, and what else to know.")
    defaults: tuple[Default, ...] = Field(description="What the file leaves to us, with reasons.")

    def weights(self) -> dict[str, int]:
        """Return every target's weight in percent."""
        return {key: target.weight for key, target in self.targets.items()}

    def arms(self) -> dict[str, int]:
        """Return every arm's weight in percent."""
        return {target.arm: target.weight for target in self.targets.values()}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, ready for JSON or YAML."""
        return self.model_dump(mode="json")

    def differences(self, other: "Plan") -> tuple[tuple[str, Any, Any], ...]:
        """Return what `other` has otherwise: path, value here, value there; None where there is nothing."""
        return tuple(leaf_differences(self.to_dict(), other.to_dict()))


def application_name(deployment: str, key: str) -> str:
    """Return the Serve application that serves a target to begin with (decision 19)."""
    return f"{deployment}-main" if key == MAIN else f"{deployment}-canary-{key}"


def free_name(name: str, taken: Container[str]) -> str:
    """Return `name`, with the lowest number from 2 that makes it free if it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return name if name not in taken else next(one for one in numbered if one not in taken)


def leaf_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield where two mappings differ: path, value here, value there; None where there is nothing."""
    one, other = dict(_leaves("", here)), dict(_leaves("", there))
    for path in dict.fromkeys((*one, *other)):
        if one.get(path) != other.get(path):
            yield path, one.get(path), other.get(path)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), inner)
    else:
        yield path, value
