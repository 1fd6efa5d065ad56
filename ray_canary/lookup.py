"""A Deployment as the cluster has it."""

from typing import Any

from ray_canary import edits
from ray_canary.errors import ConfigError, NotFound
from ray_canary.legal import did_you_mean
from ray_canary.places import Kind, kind
from ray_canary.plan import MAIN
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.state import Live, OnCluster


def find(cluster: Cluster, name: str) -> Live:
    """Return a Deployment as the cluster has it. Raises NotFound."""
    return found_in(cluster.state(), name)


def found_in(state: OnCluster, name: str) -> Live:
    """Return a Deployment of those that the cluster has. Raises NotFound."""
    there = state.live()
    if name not in there:
        hint = did_you_mean(name, there) or (f"there are {', '.join(sorted(there))}" if there else "there is none")
        raise NotFound(f"The cluster has no Deployment {name!r}; {hint}")
    return there[name]


def accepted(live: Live) -> Live:
    """Return `live`, unless its ingress refuses the `user_config` that would have to be changed."""
    if live.rejected:
        message = f"the ingress refuses its user_config: {live.rejected}"
        raise ConfigError.of(message, live.name, hint="deploy a right file, or delete the Deployment")
    return live


def pinned(live: Live) -> dict[str, Any]:
    """Return a live Deployment's file, with the tags of Bentos that were built or fetched."""
    return edits.pinned(live.file(), {key: target.bento for key, target in live.settings.targets.items()})


def known(live: Live) -> dict[str, str]:
    """Return, like `settle`, the tags of those paths and URLs that a live Deployment was deployed with."""
    file, tags = live.file(), live.settings.targets
    said = {MAIN: file, **((file.get("canary") or {}).get("versions") or {})}
    return {str(one["bento"]): tags[key].bento for key, one in said.items() if kind(str(one["bento"])) is not Kind.TAG}
