"""What a RayService changes in the one before it: in place, or by a new RayCluster. Plain data, no Ray.

The one before is a file that somebody may have edited.
"""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from ray_canary.plan import leaf_differences
from ray_canary.serving.pods import Manifest

#: Of a worker group: what KubeRay leaves out when it compares two RayClusters.
_COUNTS: Final = ("replicas", "minReplicas", "maxReplicas")
#: KubeRay's default of `maxReplicas`.
_NO_LIMIT: Final = 2**31 - 1
_SERVE: Final = "spec.serveConfigV2"


def misshapen(manifest: Mapping[str, Any]) -> str | None:
    """Say what in a RayService that somebody wrote can't be one's, so that it can't be compared; None: nothing."""
    spec = manifest.get("spec")
    cluster = spec.get("rayClusterConfig") if isinstance(spec, Mapping) else None
    groups = cluster.get("workerGroupSpecs") if isinstance(cluster, Mapping) else None
    each = groups if isinstance(groups, list) else []
    config = "spec.rayClusterConfig"
    looked_at = (
        ("metadata", manifest.get("metadata"), Mapping),
        ("spec", spec, Mapping),
        (config, cluster, Mapping),
        (f"{config}.workerGroupSpecs", groups, list),
        *(
            (f"{config}.workerGroupSpecs[{index}]", "" if one is None else one, Mapping)
            for index, one in enumerate(each)
        ),
        *(
            (f"{config}.workerGroupSpecs[{index}].{key}", one[key], int)
            for index, one in enumerate(each)
            if isinstance(one, Mapping)
            for key in _COUNTS
            if one.get(key) is not None
        ),
        (_SERVE, spec.get("serveConfigV2") if isinstance(spec, Mapping) else None, str),
    )
    wrong = (
        f"{where} is {value!r}"
        for where, value, kind in looked_at
        if not isinstance(value, kind | None) or isinstance(value, bool)
    )
    if found := next(wrong, None):
        return found
    return None if _applications(manifest) is not None else f"{_SERVE} is no Serve config"


def _applications(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Return the applications of what a RayService sends to Serve; None if they can't be read."""
    try:
        config = yaml.safe_load(manifest["spec"].get("serveConfigV2") or "{}") if manifest.get("spec") else {}
    except (yaml.YAMLError, ValueError, RecursionError):  # PyYAML's constructors raise ValueError, of a date.
        return None
    found = (config.get("applications") or []) if isinstance(config, Mapping) else None
    return found if isinstance(found, list) and all(isinstance(one, Mapping) for one in found) else None


def unshipped(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the applications whose Bento was pushed in the first of two RayServices, and isn't in the second."""

    def pushed(manifest: Mapping[str, Any]) -> dict[str, bool]:
        each = _applications(manifest) or []
        return {str(one.get("name")): bool(_mapping(one.get("args")).get("archive")) for one in each}

    was, now = pushed(before), pushed(after)
    return tuple(name for name, has in now.items() if was.get(name) and not has)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def makes_new_cluster(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[tuple[str, Any, Any], ...]:
    """Return what differs between two RayServices so that KubeRay would make a new RayCluster: path, before, after.

    KubeRay compares `rayClusterConfig` without the numbers of workers, and lists in their order; new groups at the end
    are no difference.
    """
    old, new = (_compared(one) for one in (before, after))
    groups = new.get("workerGroupSpecs") or []
    new["workerGroupSpecs"] = groups[: len(old.get("workerGroupSpecs") or [])]
    one, other = _keyed(old), _keyed(new)
    if found := tuple(leaf_differences(one, other)):
        return found
    return tuple((path, was, now) for path, was, now in _orders("", one, other) if was != now)


@dataclass(frozen=True)
class Recount:
    """A group of workers with other numbers: its index, what changes in words, the numbers that grow or that don't."""

    index: int
    change: str
    counts: Mapping[str, int]
    #: Whether these numbers are greater than before; one group may have some of either kind.
    grows: bool


def recounted(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Recount, ...]:
    """Return the groups that have other numbers of workers in the second of two RayServices.

    KubeRay carries none of them into a RayCluster that runs. How many run between the least and the most is the
    autoscaler's, where there is one.
    """
    autoscaled = _config(after).get("enableInTreeAutoscaling")
    found: list[Recount] = []
    for index, (old, new) in enumerate(zip(_groups(before), _groups(after), strict=False)):
        was, now = _counts(old), _counts(new)
        counts = {key: count for key, count in now.items() if count != was[key]}
        if autoscaled:
            counts.pop("replicas", None)
        change = f"{new.get('groupName')}: {_said(was)} -> {_said(now)}"
        for grows in (True, False):
            if part := {key: count for key, count in counts.items() if (count > was[key]) is grows}:
                found.append(Recount(index, change, part, grows))
    return tuple(found)


def _counts(group: Mapping[str, Any]) -> dict[str, int]:
    """Return a group's numbers of workers as KubeRay takes them: what is left out has its default."""
    least, most = (group.get(key) for key in ("minReplicas", "maxReplicas"))
    least, most = least or 0, _NO_LIMIT if most is None else most
    return {
        "replicas": max(least, min(group.get("replicas") or 0, most)),
        "minReplicas": least,
        "maxReplicas": most,
    }


def recount_command(found: Iterable[Recount], name: str, namespace: str | None) -> str:
    """Return the command that gives a RayCluster which runs the numbers of workers that `recounted` found."""
    patch = [
        {"op": "add", "path": f"/spec/workerGroupSpecs/{one.index}/{key}", "value": count}
        for one in found
        for key, count in one.counts.items()
    ]
    kubectl = f"kubectl -n {namespace}" if namespace else "kubectl"
    which = f"$({kubectl} get raycluster -l ray.io/originated-from-cr-name={name} -o name)"
    return f"{kubectl} patch {which} --type json -p '{json.dumps(patch)}'"


def _said(counts: Mapping[str, int]) -> str:
    least, most = counts["minReplicas"], counts["maxReplicas"]
    if least == most:
        return f"{most}"
    return f"{least} or more" if most == _NO_LIMIT else f"{least} to {most}"


def _config(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    return (manifest.get("spec") or {}).get("rayClusterConfig") or {}


def _groups(manifest: Mapping[str, Any]) -> list[Manifest]:
    return list(_config(manifest).get("workerGroupSpecs") or [])


def _compared(manifest: Mapping[str, Any]) -> Manifest:
    found = copy.deepcopy(dict(_config(manifest)))
    for group in found.get("workerGroupSpecs") or []:
        for key in _COUNTS:
            group.pop(key, None)
    return found


class Listed(dict[str, Any]):
    """What was a list: the order counts."""


def _keyed(value: Any) -> Any:
    """Return data with every list as a mapping, `Listed`, so that a difference has a short path."""
    if isinstance(value, Mapping):
        return {key: _keyed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return Listed({_key(inner, index): _keyed(inner) for index, inner in enumerate(value)})
    return value


def _orders(path: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the order in which everything stands in two of what `_keyed` made of lists and mappings."""
    if isinstance(one, Listed) and isinstance(other, Listed):
        yield path, list(one), list(other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in one.keys() & other.keys():
            yield from _orders(f"{path}.{key}" if path else str(key), one[key], other[key])


def _key(item: Any, index: int) -> str:
    named = (item.get(key) for key in ("groupName", "mountPath", "name")) if isinstance(item, Mapping) else ()
    return next((str(name) for name in named if name), str(index))
