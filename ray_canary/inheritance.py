"""What a canary version inherits from main: everything that it doesn't say itself (decision 9)."""

from collections.abc import Iterable, Mapping
from typing import Any

from ray_canary.config import DeploymentFile, Env, ServiceConfig, Version

Envs = Iterable[Env]


def service_config(file: DeploymentFile, version: Version | None, name: str) -> ServiceConfig:
    """Return how Bento service `name` runs in a version, or in main where `version` is None.

    Mappings merge deeply, so that a version that changes one key of `scaling` or `config_overrides` keeps main's
    others. Environment variables are merged by `envs` instead.
    """
    mains = {} if standalone(file, version) else _said(file.services.get(name))
    own = _said(version.services.get(name)) if version else {}
    merged = _merge(mains, own)
    merged.pop("envs", None)
    return ServiceConfig.model_validate(merged)


def envs(file: DeploymentFile, version: Version | None, name: str) -> dict[str, str]:
    """Return the environment variables of Bento service `name`, by name, sorted.

    Four layers, the later over the earlier: the file's, main's service's, the version's, the version's service's. A
    version that stands alone has the last two only.
    """
    layers: list[Envs] = [] if standalone(file, version) else [file.envs, _service_envs(file.services, name)]
    if version is not None:
        layers += [version.envs, _service_envs(version.services, name)]
    merged = {env.name: env.value for layer in layers for env in layer}
    return dict(sorted(merged.items()))


def secrets(file: DeploymentFile, version: Version | None) -> tuple[str, ...]:
    """Return the names of a target's secrets: the file's, then those that the version adds. The later wins a key."""
    mains = () if standalone(file, version) else file.secrets
    return tuple(dict.fromkeys((*mains, *(version.secrets if version else ()))))


def standalone(file: DeploymentFile, version: Version | None) -> bool:
    """Return whether a version inherits nothing (`ray.standalone`)."""
    versions = file.canary.versions if file.canary else {}
    return any(versions.get(key) is version for key in file.ray.standalone) and version is not None


def _service_envs(services: Mapping[str, ServiceConfig], name: str) -> Envs:
    return services[name].envs if name in services else ()


def _said(service: ServiceConfig | None) -> dict[str, Any]:
    return service.model_dump(exclude_unset=True) if service else {}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if value is None and isinstance(merged.get(key), Mapping):
            continue  # A block with nothing in it says nothing.
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
