"""What no single field of a Deployment file can tell: the rules that join several, and the warnings.

Everything here reads the file's plain data and passes over what has the wrong type (the models report that),
so that a typo in one place doesn't hide a mistake in another.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from pydantic import BaseModel

from ray_canary.errors import Problem, path_text
from ray_canary.legal import did_you_mean, show

Loc = tuple[str | int, ...]

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_NO_MEANING = "has no meaning here and is ignored"

_IGNORED: Mapping[str, Mapping[str, str]] = {
    "file": {
        "cluster": f"{_NO_MEANING}: the Deployment goes to the Ray cluster that the command talks to",
        "labels": f"{_NO_MEANING}: nothing here selects Deployments by label",
        "dev": f"{_NO_MEANING}: there are no codespaces",
        "description": f"{_NO_MEANING}, as on BentoCloud; a comment in the file does the same",
    },
    "version": {},
    "service": {
        "extras": f"{_NO_MEANING}: there are no Kubernetes pods to override",
    },
    "policy": {
        "scale_up_behavior": f"{_NO_MEANING}: scale_up_stabilization_window is what counts",
        "scale_down_behavior": f"{_NO_MEANING}: scale_down_stabilization_window is what counts",
        "metrics": f"{_NO_MEANING}: replicas are scaled on the number of requests in progress",
    },
    "overrides": {
        "workers": "has no effect: a replica is one process; set max_replicas instead",
    },
}
_SECRETS = "are not resolved yet: set them as envs"
_RESOURCES = "are ignored: instance_type governs"


def problems(data: object) -> Iterator[Problem]:
    """Yield every broken rule of a Deployment file."""
    file = _mapping(data)
    yield from _weights(file)
    yield from _routing(_mapping(file.get("canary")))
    yield from _application_problems(file)
    for loc, target in _targets(file):
        yield from _repeated_envs((*loc, "envs"), target.get("envs"))
        for name, service in _services(target):
            here = (*loc, "services", name)
            yield from _repeated_envs((*here, "envs"), service.get("envs"))
            yield from _replicas((*here, "scaling"), _mapping(service.get("scaling")))
            yield from _queue(here, service, _service(file, name))


def warnings(data: object) -> Iterator[str]:
    """Yield a sentence, with its path, for everything that is legal but does nothing."""
    for loc, sentence in _warnings(_mapping(data)):
        yield f"{path_text(loc)}: {sentence}"


def _warnings(file: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    yield from _ignored("file", (), file)
    canary = _mapping(file.get("canary"))
    if canary.get("route_type") == "random" and canary.get("route_by"):
        yield ("canary", "route_by"), "is ignored: route_type is random"
    for loc, target in _targets(file):
        if target.get("secrets"):
            yield (*loc, "secrets"), _SECRETS
        for name, service in _services(target):
            yield from _service_warnings((*loc, "services", name), service, _service(file, name))


def _service_warnings(loc: Loc, service: Mapping[str, Any], mains: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    overrides = _mapping(service.get("config_overrides"))
    yield from _ignored("service", loc, service)
    yield from _ignored("policy", (*loc, "scaling", "policy"), _mapping(_mapping(service.get("scaling")).get("policy")))
    yield from _ignored("overrides", (*loc, "config_overrides"), overrides)
    if overrides.get("resources") and (service.get("instance_type") or mains.get("instance_type")):
        yield (*loc, "config_overrides", "resources"), _RESOURCES


def _ignored(block: str, loc: Loc, data: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    return (((*loc, key), sentence) for key, sentence in _IGNORED[block].items() if data.get(key))


def _weights(file: Mapping[str, Any]) -> Iterator[Problem]:
    weights = {key: version.get("weight") for key, version in _versions(file)}
    legal = {key: weight for key, weight in weights.items() if _whole(weight) and 0 <= weight <= 100}
    if (total := sum(legal.values())) > 100:
        given = ", ".join(f"{key}={weight}" for key, weight in legal.items())
        message = f"the weights add up to {total}, which is over 100: {given}"
        yield Problem.at(("canary", "versions"), message, total, "main gets what they leave of 100")


def _routing(canary: Mapping[str, Any]) -> Iterator[Problem]:
    route_type, route_by = canary.get("route_type"), canary.get("route_by")
    if canary.get("versions") and route_type is None:
        yield Problem.at(("canary", "route_type"), "is required", hint="write random, header or query")
    if route_type not in ("header", "query"):
        return
    what = "header" if route_type == "header" else "query parameter"
    if route_by is None:
        message = f"is required with route_type {route_type}"
        yield Problem.at(("canary", "route_by"), message, hint=f"name the {what} whose value decides")
    elif isinstance(route_by, str):
        legal = bool(_HEADER_NAME.fullmatch(route_by)) if route_type == "header" else bool(route_by)
        if not legal:
            yield Problem.at(("canary", "route_by"), f"{show(route_by)} is not the name of a {what}", route_by)


def _application_problems(file: Mapping[str, Any]) -> Iterator[Problem]:
    targets = dict.fromkeys(("main", *(key for key, _ in _versions(file))))
    name = file.get("name")
    taken = {name: "the ingress"} if isinstance(name, str) else {}
    for key, application in _mapping(_mapping(file.get("ray")).get("applications")).items():
        loc = ("ray", "applications", key)
        if key not in targets:
            hint = did_you_mean(key, targets) or f"the targets are {', '.join(targets)}"
            yield Problem.at(loc, "is not a target of this Deployment", hint=hint)
        elif isinstance(application, str) and application in taken:
            yield Problem.at(loc, f"{show(application)} already serves {taken[application]}", application)
        elif isinstance(application, str):
            taken[application] = key


def _repeated_envs(loc: Loc, envs: object) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, env in enumerate(envs if isinstance(envs, list | tuple) else ()):
        name = _mapping(env).get("name")
        if isinstance(name, str) and first.setdefault(name, index) != index:
            message = f"{show(name)} is in this list already"
            yield Problem.at((*loc, index, "name"), message, name, f"it is in {path_text((*loc, first[name]))} too")


def _replicas(loc: Loc, scaling: Mapping[str, Any]) -> Iterator[Problem]:
    least, most = scaling.get("min_replicas"), scaling.get("max_replicas")
    if _whole(least) and _whole(most) and least > most >= 1:
        yield Problem.at((*loc, "min_replicas"), f"{least} is more than max_replicas, which is {most}", least)


def _queue(loc: Loc, service: Mapping[str, Any], mains: Mapping[str, Any]) -> Iterator[Problem]:
    traffic, inherited = _traffic(service), _traffic(mains)
    concurrency = traffic.get("concurrency", inherited.get("concurrency"))
    if traffic.get("external_queue") is True and concurrency is None:
        place = (*loc, "config_overrides", "traffic", "external_queue")
        yield Problem.at(place, "true needs a concurrency", True, "set concurrency beside it")


def _traffic(service: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(_mapping(service.get("config_overrides")).get("traffic"))


def _targets(file: Mapping[str, Any]) -> Iterator[tuple[Loc, Mapping[str, Any]]]:
    yield (), file
    for key, version in _versions(file):
        yield ("canary", "versions", key), version


def _versions(file: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    versions = _mapping(_mapping(file.get("canary")).get("versions"))
    return ((key, _mapping(version)) for key, version in versions.items())


def _services(target: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, _mapping(service)) for name, service in _mapping(target.get("services")).items())


def _service(file: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return _mapping(_mapping(file.get("services")).get(name))


def _mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is a mapping with text for keys, else an empty one."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        return {key: inner for key, inner in value.items() if isinstance(key, str)}
    return {}


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
