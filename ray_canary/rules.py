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
_DEPENDENCIES = ("shared", "isolated")
#: Of the ingress, as far as one of them depends on another.
INGRESS_DEFAULTS: Mapping[str, int] = {
    "num_replicas": 2,
    "max_ongoing_requests": 1000,
    "target_ongoing_requests": 200,
}
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
        "workers": "has no effect: a replica is one process, and max_concurrency counts per replica; "
        "raise min_replicas and max_replicas instead",
    },
}
_CREDENTIAL = re.compile(
    r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIALS?|(?:API|ACCESS|SECRET|PRIVATE)_?KEY)$",
    re.IGNORECASE,
)
_TOO_SHORT = 6  # A token of a tokenizer, like </s>, is no credential.
_IN_CLEAR = "looks like a credential, and stands in clear text in Serve's config and the dashboard: use a secret"
_RESOURCES = "are ignored: instance_type governs"


def problems(data: object) -> Iterator[Problem]:
    """Yield every broken rule of a Deployment file."""
    file = _mapping(data)
    yield from _weights(file)
    yield from _routing(_mapping(file.get("canary")))
    yield from _dependency_problems(file)
    yield from _placement_problems(file)
    yield from _taken_headers(file)
    yield from _place_problems(file)
    yield from _secret_problems(file)
    yield from _ingress_problems(_mapping(_mapping(file.get("ray")).get("ingress")))
    for loc, target in _targets(file):
        yield from _repeated((*loc, "secrets"), target.get("secrets"))
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
        yield from _credentials((*loc, "envs"), target.get("envs"))
        for name, service in _services(target):
            yield from _credentials((*loc, "services", name, "envs"), service.get("envs"))
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


def _taken_headers(file: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a route_by that names a header which the ingress itself reads."""
    canary = _mapping(file.get("canary"))
    route_by = canary.get("route_by")
    if canary.get("route_type") != "header" or not isinstance(route_by, str):
        return
    taken = {"x-bento-version": "selects a version by hand"}
    if file.get("access_authorization") is True:
        taken["authorization"] = "carries the access token, which is no key"
    if (what := taken.get(route_by.lower())) is not None:
        message = f"{show(route_by)} {what}"
        yield Problem.at(("canary", "route_by"), message, route_by, "split by another header, like X-User-ID")


def _place_problems(file: Mapping[str, Any]) -> Iterator[Problem]:
    targets = dict.fromkeys(("main", *(key for key, _ in _versions(file))))
    ray = _mapping(file.get("ray"))
    name = file.get("name")
    ingress = {name: "serves the ingress"} if isinstance(name, str) else {}
    for block, verb, taken in (("applications", "serves", ingress), ("arms", "is the arm of", {})):
        for key, value in _mapping(ray.get(block)).items():
            loc = ("ray", block, key)
            if key not in targets:
                hint = did_you_mean(key, targets) or f"the targets are {', '.join(targets)}"
                yield Problem.at(loc, "is not a target of this Deployment", hint=hint)
            elif isinstance(value, str) and value in taken:
                yield Problem.at(loc, f"{show(value)} already {taken[value]}", value)
            elif isinstance(value, str):
                taken[value] = f"{verb} {key}"
    standalone = ray.get("standalone")
    for index, key in enumerate(standalone if isinstance(standalone, list | tuple) else ()):
        versions = [key for key in targets if key != "main"]
        if isinstance(key, str) and key not in versions:
            hint = did_you_mean(key, versions) or f"the versions are {', '.join(versions) or 'none'}"
            yield Problem.at(("ray", "standalone", index), f"{show(key)} is not a version", key, hint)


def _dependency_problems(file: Mapping[str, Any]) -> Iterator[Problem]:
    targets = dict.fromkeys(("main", *(key for key, _ in _versions(file))))
    for key, said in _mapping(_mapping(file.get("ray")).get("dependencies")).items():
        loc = ("ray", "dependencies", key)
        if key not in targets:
            hint = did_you_mean(key, targets) or f"the targets are {', '.join(targets)}"
            yield Problem.at(loc, "is not a target of this Deployment", hint=hint)
        elif said not in _DEPENDENCIES:
            message = f"{show(said)} is not {' or '.join(_DEPENDENCIES)}"
            yield Problem.at(loc, message, said, did_you_mean(said, _DEPENDENCIES))


def _placement_problems(file: Mapping[str, Any]) -> Iterator[Problem]:
    targets = dict.fromkeys(("main", *(key for key, _ in _versions(file))))
    for key in _mapping(_mapping(file.get("ray")).get("placement")):
        if key not in targets:
            hint = did_you_mean(key, targets) or f"the targets are {', '.join(targets)}"
            if key == "ingress":
                hint = "say it of the ingress in ray.ingress"
            yield Problem.at(("ray", "placement", key), "is not a target of this Deployment", hint=hint)


def _repeated_envs(loc: Loc, envs: object) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, env in enumerate(envs if isinstance(envs, list | tuple) else ()):
        name = _mapping(env).get("name")
        if isinstance(name, str) and first.setdefault(name, index) != index:
            message = f"{show(name)} is in this list already"
            yield Problem.at((*loc, index, "name"), message, name, f"it is in {path_text((*loc, first[name]))} too")


def _repeated(loc: Loc, names: object) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, name in enumerate(names if isinstance(names, list | tuple) else ()):
        if isinstance(name, str) and first.setdefault(name, index) != index:
            message = f"{show(name)} is in this list already"
            yield Problem.at((*loc, index), message, name, f"it is in {path_text((*loc, first[name]))} too")


def _secret_problems(file: Mapping[str, Any]) -> Iterator[Problem]:
    said = {name: _mapping(one) for name, one in _mapping(_mapping(file.get("ray")).get("secrets")).items()}
    named = [_names(target.get("secrets")) for _, target in _targets(file)]
    known = dict.fromkeys(name for names in named for name in names)
    for name, secret in said.items():
        loc: Loc = ("ray", "secrets", name)
        if name not in known:
            hint = did_you_mean(name, known) or f"the secrets are {', '.join(known) or 'none'}"
            yield Problem.at(loc, "is a secret that no `secrets` of this file names", hint=hint)
        yield from _repeated((*loc, "keys"), secret.get("keys"))
        kind = secret.get("type", "env")
        if kind == "file" and secret.get("keys"):
            yield Problem.at((*loc, "keys"), "is for environment variables", hint="leave it out, or use type env")
        if kind == "env" and secret.get("path") is not None:
            yield Problem.at((*loc, "path"), "is for files", secret["path"], "set type: file beside it")
    alone = _names(_mapping(file.get("ray")).get("standalone"))
    for (place, _), own in zip(_targets(file), named, strict=True):
        mains = () if place and place[-1] in alone else named[0]
        yield from _colliding((*place, "secrets"), tuple(dict.fromkeys((*mains, *own))), said)


def _colliding(loc: Loc, names: tuple[str, ...], said: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Yield a problem for every file secret of a target that stands where another one does, or inside of it."""
    taken: dict[tuple[str, ...], str] = {}
    for name in names:
        secret = said.get(name, {})
        path = secret.get("path") or name
        if secret.get("type") != "file" or not isinstance(path, str):
            continue
        parts = tuple(path.split("/"))
        for other, owner in taken.items():
            if parts[: len(other)] == other or other[: len(parts)] == parts:
                yield Problem.at(loc, f"{name} and {owner} both have {show(path)} as their path, or inside of it", name)
        taken[parts] = name


def _names(value: object) -> tuple[str, ...]:
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list | tuple) else ()


def _credentials(loc: Loc, envs: object) -> Iterator[tuple[Loc, str]]:
    for index, env in enumerate(envs if isinstance(envs, list | tuple) else ()):
        name, value = _mapping(env).get("name"), _mapping(env).get("value")
        if isinstance(name, str) and _CREDENTIAL.search(name) and len(str(value or "")) >= _TOO_SHORT:
            yield (*loc, index), f"{name} {_IN_CLEAR}"


def _replicas(loc: Loc, scaling: Mapping[str, Any]) -> Iterator[Problem]:
    least, most = scaling.get("min_replicas"), scaling.get("max_replicas")
    if _whole(least) and _whole(most) and least > most >= 1:
        yield Problem.at((*loc, "min_replicas"), f"{least} is more than max_replicas, which is {most}", least)


def _ingress_problems(ingress: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield numbers of the ingress that don't go together; those that the file leaves out are the defaults."""
    most = ingress.get("max_replicas")
    least, room, aim = (ingress.get(key, default) for key, default in INGRESS_DEFAULTS.items())
    if not (_whole(most) and most >= 1):
        return
    if _whole(least) and least > most:
        message = f"{most} is less than num_replicas, which is {least}"
        yield Problem.at(("ray", "ingress", "max_replicas"), message, most)
    elif isinstance(aim, int | float) and _whole(room) and aim > room >= 1:
        message = f"{aim:g} is more than max_ongoing_requests, which is {room}: no load would ever add a replica"
        yield Problem.at(("ray", "ingress", "target_ongoing_requests"), message, aim)


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
