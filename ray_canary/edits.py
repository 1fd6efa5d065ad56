"""Edits of a Deployment file as plain data: what `weights`, `promote` and `rollback` do to it. Pure."""

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ray_canary import inheritance
from ray_canary.config import DeploymentFile, Version, parse
from ray_canary.places import Kind, kind
from ray_canary.plan import MAIN, application_name

Data = dict[str, Any]


def with_weights(file: Mapping[str, Any], weights: Mapping[str, int]) -> Data:
    """Return a Deployment file with other weights of the versions that it has."""
    changed = copy.deepcopy(dict(file))
    versions = (changed.get("canary") or {}).get("versions") or {}
    for key, weight in weights.items():
        if key in versions:
            versions[key]["weight"] = weight
    return changed


def pinned(file: Mapping[str, Any], tags: Mapping[str, str]) -> Data:
    """Return a Deployment file in which every path and URL of a Bento is the tag that its target has in `tags`.

    What was built or fetched once is not built or fetched again, from a place that may have something else by now.
    """
    changed = copy.deepcopy(dict(file))
    versions = (changed.get("canary") or {}).get("versions") or {}
    for key, target in {MAIN: changed, **versions}.items():
        if key in tags and kind(str(target.get("bento"))) is not Kind.TAG:
            target["bento"] = tags[key]
    return changed


def promoted(
    file: Mapping[str, Any],
    key: str,
    *,
    bento: str,
    applications: Mapping[str, str],
    arms: Mapping[str, str],
    services: Iterable[str],
) -> Data:
    """Return a Deployment file in which version `key` is main, and everything else runs as it did.

    The new main says what the version inherited. A version that would inherit something else than before from it says
    everything itself from now on, and stands alone (`ray.standalone`). `applications` and `arms` are those of every
    target that stays, main among them; `services` are the names of all Bento services, those that no block names too.

    Raises:
        KeyError: there is no such version.
    """
    before = parse(file)
    versions = before.canary.versions if before.canary else {}
    version = versions[key]
    names = sorted({*services, *before.services, *version.services})
    changed = copy.deepcopy(dict(file))
    changed["bento"] = bento
    _set(changed, "envs", _envs(_top_envs(before, version)))
    _set(changed, "secrets", list(inheritance.secrets(before, version)))
    _set(changed, "services", _services(before, version, names, _top_envs(before, version)))
    _take_out(changed, key)
    ray = dict(changed.get("ray") or {})
    # Until every version says its secrets, some of these belong to nobody.
    said_of_secrets = ray.pop("secrets", None) or {}
    _set(ray, "standalone", [other for other in before.ray.standalone if other != key])
    _set(ray, "applications", _unusual(applications, partial(application_name, before.name)))
    _set(ray, "arms", _unusual(arms, str))
    if isinstance(said := ray.get("dependencies"), Mapping):
        _set(ray, "dependencies", _promoted_dependencies(said, key))
    _set(changed, "ray", ray)
    return _with_secrets(_others_as_they_were(before, changed, names), said_of_secrets)


def _with_secrets(changed: Data, said: Mapping[str, Any]) -> Data:
    """Return the file with what `ray.secrets` said of those secrets that it still names."""
    versions = ((changed.get("canary") or {}).get("versions") or {}).values()
    named = {name for target in (changed, *versions) for name in target.get("secrets") or ()}
    if kept := {name: one for name, one in said.items() if name in named}:
        changed["ray"] = {**(changed.get("ray") or {}), "secrets": kept}
    return changed


def _promoted_dependencies(said: Mapping[str, str], key: str) -> dict[str, str]:
    mains = {"main": said[key]} if key in said else {}
    return {**mains, **{other: kind for other, kind in said.items() if other not in ("main", key)}}


def _take_out(changed: Data, key: str) -> None:
    del changed["canary"]["versions"][key]
    if not changed["canary"]["versions"]:
        del changed["canary"]


def _others_as_they_were(before: DeploymentFile, changed: Data, names: list[str]) -> Data:
    after = parse(changed)
    for other, version in (after.canary.versions if after.canary else {}).items():
        old = before.canary.versions[other] if before.canary else version
        secrets = inheritance.secrets(before, old)
        alike = all(_resolved(before, old, name) == _resolved(after, version, name) for name in names)
        if alike and secrets == inheritance.secrets(after, version):
            continue
        said = changed["canary"]["versions"][other]
        _set(said, "envs", _envs(_top_envs(before, old)))
        _set(said, "secrets", list(secrets))
        _set(said, "services", _services(before, old, names, _top_envs(before, old)))
        changed["ray"] = {**(changed.get("ray") or {})}
        changed["ray"]["standalone"] = [*changed["ray"].get("standalone", ()), other]
    return changed


def _resolved(file: DeploymentFile, version: Version | None, name: str) -> Any:
    config = inheritance.service_config(file, version, name)
    return config.model_dump(exclude={"envs"}), inheritance.envs(file, version, name)


def _top_envs(file: DeploymentFile, version: Version) -> dict[str, str]:
    """Return the environment variables that a version has whatever the service."""
    layers = ([] if inheritance.standalone(file, version) else [file.envs]) + [version.envs]
    return {env.name: env.value for layer in layers for env in layer}


def _services(file: DeploymentFile, version: Version, names: list[str], top: Mapping[str, str]) -> Data:
    """Return how each service of a version runs, with nothing inherited."""
    found: Data = {}
    for name in names:
        config = inheritance.service_config(file, version, name).model_dump(mode="json", exclude_unset=True)
        own = {n: value for n, value in inheritance.envs(file, version, name).items() if top.get(n) != value}
        said = {**config, **({"envs": _envs(own)} if own else {})}
        if said:
            found[name] = said
    return found


def _envs(envs: Mapping[str, str]) -> list[Data]:
    return [{"name": name, "value": value} for name, value in envs.items()]


def _set(data: Data, key: str, value: Any) -> None:
    """Write what there is, and leave no empty block behind."""
    if value:
        data[key] = value
    else:
        data.pop(key, None)


def _unusual(places: Mapping[str, str], usual: Callable[[str], str]) -> dict[str, str]:
    return {target: place for target, place in places.items() if place != usual(target)}
