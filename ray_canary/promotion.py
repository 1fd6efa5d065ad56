"""What promoting a version makes of a Deployment, and of its file. Pure."""

from collections.abc import Mapping
from typing import Any

from ray_canary import edits
from ray_canary.errors import ConfigError, Conflict
from ray_canary.legal import did_you_mean
from ray_canary.plan import MAIN
from ray_canary.serving import compile
from ray_canary.serving.release import Release
from ray_canary.serving.state import Live


def is_promoted(live: Live, version: str) -> bool:
    """Return whether what was version `version` is main already: its arm went with it."""
    return version not in live.settings.split.weights and live.settings.targets[MAIN].arm == version


def check_promotable(live: Live, version: str) -> None:
    """Raise if a version can't become main: Conflict or ConfigError. One that is main already can."""
    if live.single:
        raise Conflict(f"{live.name} is in the single-application form, in which a version can't be promoted")
    versions = live.settings.split.weights
    if version == MAIN:
        hint = f"the versions are {', '.join(versions) or 'none'}"
        raise ConfigError.of("main is main already", path="VERSION", hint=hint)
    if version not in versions and not is_promoted(live, version):
        hint = did_you_mean(version, versions) or f"the versions are {', '.join(versions) or 'none'}"
        raise ConfigError.of(f"{version!r} is not a version of {live.name}", path="VERSION", hint=hint)


def promoted(release: Release, live: Live, version: str) -> Release:
    """Return a release in which `version` is main, where it runs now, and main's old version is gone."""
    settings = release.settings
    targets = {key: target for key, target in settings.targets.items() if key != version}
    targets[MAIN] = settings.targets[version]
    weights = {key: weight for key, weight in settings.split.weights.items() if key != version}
    # Without versions nothing is split: the file then says nothing of it, and what it compiles to is the same.
    alone = {} if weights else {"route_type": "random", "route_by": None}
    split = settings.split.model_copy(update={"weights": weights, **alone})
    file = promoted_file(live.file(), live, version) if settings.file else None
    changed = {"targets": targets, "split": split, "file": compile.without_weights(file) if file else None}
    return release.with_settings(settings.model_copy(update=changed))


def promoted_file(file: Mapping[str, Any], live: Live, version: str) -> dict[str, Any]:
    """Return a Deployment file in which a version of a live Deployment is main. Raises KeyError if it lacks it."""
    staying = {key: target for key, target in live.settings.targets.items() if key not in (MAIN, version)}
    new = live.settings.targets[version]
    targets = {MAIN: new, **staying}
    states = (live.applications.get(target.application or "") for target in live.settings.targets.values())
    return edits.promoted(
        file,
        version,
        bento=new.bento,
        applications={key: target.application or "" for key, target in targets.items()},
        arms={key: target.arm for key, target in targets.items()},
        services={one["name"] for state in states if state for one in (state.config or {}).get("deployments") or ()},
    )
