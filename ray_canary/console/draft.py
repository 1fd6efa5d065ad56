"""A Deployment file that is being edited in the console: plain data, and the edits that the page has. Pure.

An edit changes what it is about and nothing else, so that keys which the page doesn't show stay as they are.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

from ray_canary.plan import MAIN

Data = dict[str, Any]

ROUTE_TYPES: Final = ("random", "header", "query")


class Draft:
    """A Deployment file as it is on the cluster (`base`), and as somebody is about to have it (`data`)."""

    def __init__(self, base: Mapping[str, Any]) -> None:
        """Begin with what is on the cluster."""
        self.base: Data = copy.deepcopy(dict(base))
        self.data: Data = copy.deepcopy(dict(base))

    @property
    def name(self) -> str:
        """The Deployment's name."""
        return str(self.data.get("name") or "")

    @property
    def changed(self) -> bool:
        """Whether there is anything to save."""
        return self.data != self.base

    @property
    def versions(self) -> dict[str, Data]:
        """The canary versions by key; edits go through the methods."""
        return dict((self.data.get("canary") or {}).get("versions") or {})

    @property
    def targets(self) -> tuple[str, ...]:
        """main, and the versions' keys."""
        return (MAIN, *self.versions)

    def target(self, key: str) -> Data:
        """Return the block of a target: the file itself for main."""
        return self.data if key == MAIN else self.versions[key]

    # The split. ------------------------------------------------------------------------------------------------------

    @property
    def route_type(self) -> str:
        """What the split goes by."""
        return str((self.data.get("canary") or {}).get("route_type") or "random")

    @property
    def route_by(self) -> str:
        """The header or query parameter; empty if there is none."""
        return str((self.data.get("canary") or {}).get("route_by") or "")

    def route(self, route_type: str, route_by: str) -> None:
        """Split by something else. What is not legal is found when the draft is planned."""
        canary = self._canary()
        canary["route_type"] = route_type
        if route_by and route_type != "random":
            canary["route_by"] = route_by
        else:
            canary.pop("route_by", None)

    def shares(self) -> dict[str, int]:
        """Return every target's weight in percent, main's first: main has what the others leave of 100."""
        weights = {key: int(version.get("weight") or 0) for key, version in self.versions.items()}
        return {MAIN: 100 - sum(weights.values()), **weights}

    def most(self, key: str) -> int:
        """Return the greatest weight that a version can have beside the others, in percent."""
        return self.shares()[MAIN] + self.shares()[key]

    def weigh(self, key: str, weight: int) -> int:
        """Give a version a weight, at most what the others leave of 100 and at least 0, and return it."""
        held = max(0, min(weight, self.most(key)))
        self.versions[key]["weight"] = held
        return held

    # The versions. ---------------------------------------------------------------------------------------------------

    def add(self, key: str, bento: str) -> None:
        """Add a version at weight 0; the first one switches canary mode on.

        Raises:
            ValueError: there is one of that name.
        """
        if key in self.targets:
            raise ValueError(f"there is a version {key!r} already")
        self._canary().setdefault("versions", {})[key] = {"bento": bento, "weight": 0}

    def remove(self, key: str) -> None:
        """Take a version out; its share is main's. Without the last one, canary mode is off."""
        del self.data["canary"]["versions"][key]
        if not self.data["canary"]["versions"]:
            self.canary_off()

    def canary_off(self) -> None:
        """Take every version out; all requests are main's."""
        self.data.pop("canary", None)

    def bento(self, key: str) -> str:
        """Return the Bento of a target as the file names it."""
        return str(self.target(key).get("bento") or "")

    def set_bento(self, key: str, tag: str) -> None:
        """Give a target another Bento."""
        self.target(key)["bento"] = tag

    # How a Bento service of a target runs. -----------------------------------------------------------------------

    def service(self, key: str, service: str) -> Mapping[str, Any]:
        """Return what the file says of a Bento service of a target; empty if nothing."""
        return dict((self.target(key).get("services") or {}).get(service) or {})

    def set_instance_type(self, key: str, service: str, name: str | None) -> None:
        """Give a Bento service an instance type; None leaves it to main's or the default."""
        self._say(self.target(key), ("services", service, "instance_type"), name)

    def set_scaling(self, key: str, service: str, bound: str, value: int | None) -> None:
        """Set `min_replicas` or `max_replicas`; None leaves it to main's or the default."""
        self._say(self.target(key), ("services", service, "scaling", bound), value)

    def set_envs(self, key: str, service: str, envs: list[Data] | None) -> None:
        """Replace the environment variables of a Bento service; an empty list or None leaves them out."""
        self._say(self.target(key), ("services", service, "envs"), envs or None)

    # What it comes to. -----------------------------------------------------------------------------------------------

    def only_weights(self) -> dict[str, int] | None:
        """Return the weights that change if nothing else does, and None otherwise."""
        level = copy.deepcopy(self.data)
        there = (self.base.get("canary") or {}).get("versions") or {}
        changed = {}
        for key, version in ((level.get("canary") or {}).get("versions") or {}).items():
            was = (there.get(key) or {}).get("weight")
            if version.get("weight") != was:
                changed[key] = int(version["weight"])
                version["weight"] = was
        return changed if changed and level == self.base else None

    def yaml(self) -> str:
        """Return the Deployment file."""
        return yaml.safe_dump(self.data, sort_keys=False, allow_unicode=True)

    def python(self) -> str:
        """Return code that deploys it."""
        weights = self.only_weights()
        call = f"deployment.set_weights({self.name!r}, {weights!r})" if weights else _applied(self.data)
        return f"from ray_canary import deployment\n\n{call}\n"

    def shell(self) -> str:
        """Return the command that does the same."""
        weights = self.only_weights()
        if not weights:
            return "ray-canary deploy -f deployment.yaml"
        return " ".join(["ray-canary weights", self.name, *(f"{key}={value}" for key, value in weights.items())])

    def _canary(self) -> Data:
        if not self.data.get("canary"):
            self.data["canary"] = {"route_type": "random", "versions": {}}
        canary: Data = self.data["canary"]
        return canary

    def _say(self, block: Data, path: Iterable[str], value: Any) -> None:
        """Set a key deep in a block, or take it out, and with it the blocks that it leaves empty."""
        first, *rest = path
        if rest:
            inner = block.setdefault(first, {})
            if inner is None:
                inner = block[first] = {}
            self._say(inner, rest, value)
            if not inner:
                del block[first]
        elif value is None:
            block.pop(first, None)
        else:
            block[first] = value


def envs_of(text: str) -> list[Data]:
    """Read environment variables as one writes them, `NAME=value` on each line.

    Raises:
        ValueError: a line is none; the message says which, and shows its name only.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"line {number} is not NAME=value")
        if name.strip() in found:
            raise ValueError(f"line {number}: {name.strip()} is there twice")
        found[name.strip()] = value
    return [{"name": name, "value": value} for name, value in found.items()]


def envs_text(envs: Iterable[Mapping[str, Any]]) -> str:
    """Write environment variables as `envs_of` reads them; one that spans lines can't be written so.

    Raises:
        ValueError: a value spans lines.
    """
    lines = []
    for env in envs:
        value = str(env["value"])
        if len(value.splitlines()) > 1 or value.endswith(("\n", "\r")):
            raise ValueError(f"{env['name']} spans several lines")
        lines.append(f"{env['name']}={value}")
    return "\n".join(lines)


def _applied(data: Data) -> str:
    from pprint import pformat

    return f"deployment.apply(config_dict={pformat(data, sort_dicts=False, width=100)})"
