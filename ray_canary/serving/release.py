"""What one Deployment asks of Serve: an ingress application, and an application for each version.

A plan compiles into one, a revision keeps one, and a live Deployment is one. Pure.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray_canary.plan import Plan
from ray_canary.serving import compile
from ray_canary.serving.compile import INGRESS_DEPLOYMENT, Config
from ray_canary.serving.settings import IngressSettings
from ray_canary.serving.state import Live

#: What a rollout raises for a while, so that a version has the replicas for its new share before it gets it.
MIN, INITIAL = FLOORS = ("min_replicas", "initial_replicas")


@dataclass(frozen=True)
class Place:
    """Where a target runs, and what seeds its hash: both stay together on promote (decision 19)."""

    application: str
    arm: str


@dataclass(frozen=True)
class Release:
    """One Deployment as Serve is given it. In the single-application form there are no `versions`."""

    ingress: Config
    versions: tuple[Config, ...]
    options: Config

    @classmethod
    def of(cls, plan: Plan) -> "Release":
        """Compile a plan."""
        config = compile.serve_config(plan)
        ingress, *versions = config.pop("applications")
        return cls(ingress, tuple(versions), config)

    @classmethod
    def of_live(cls, live: Live) -> "Release":
        """Take what is on the cluster, as it was submitted. Raises ValidationError if the ingress rejects it."""
        names = dict.fromkeys(target.application for target in live.settings.targets.values())
        states = (live.applications.get(name) for name in names if name)
        versions = tuple(copy.deepcopy(state.config) for state in states if state and state.config)
        return cls(copy.deepcopy(live.ingress.config or {}), versions, {}).with_settings(live.settings)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Release":
        """Read what `record` wrote."""
        return cls(dict(record["ingress"]), tuple(record["versions"]), dict(record["options"]))

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"ingress": self.ingress, "versions": list(self.versions), "options": self.options}

    @property
    def name(self) -> str:
        """The Deployment's name, which is the ingress application's."""
        return str(self.ingress["name"])

    @property
    def settings(self) -> IngressSettings:
        """What the ingress reads per request."""
        return IngressSettings.model_validate(compile.user_config(self.ingress))

    @property
    def applications(self) -> list[Config]:
        """All of its applications, the ingress's first."""
        return [self.ingress, *self.versions]

    def version(self, application: str | None) -> Config | None:
        """Return a version's application by its name."""
        return next((one for one in self.versions if one["name"] == application), None)

    def with_versions(self, others: Iterable[Config]) -> "Release":
        """Return it with others of its applications, by their names, where there are any; it gets no new ones."""
        by_name = {one["name"]: one for one in others}
        return replace(self, versions=tuple(copy.deepcopy(by_name.get(one["name"], one)) for one in self.versions))

    def shares(self) -> dict[str, int]:
        """Return the percentage of requests that each version's application gets."""
        settings = self.settings
        found = ((settings.targets[key].application, share) for key, share in settings.split.shares().items())
        return {name: share for name, share in found if name}

    def with_settings(self, settings: IngressSettings) -> "Release":
        """Return it with other settings of the ingress, and without the versions that these have no use for."""
        used = {target.application for target in settings.targets.values()}
        return replace(
            self,
            ingress=with_user_config(self.ingress, settings),
            versions=tuple(one for one in self.versions if one["name"] in used),
        )

    def with_weights(self, weights: Mapping[str, int]) -> "Release":
        """Return it with other weights of the versions; main gets the rest. Raises ValidationError."""
        settings = self.settings
        split = settings.split.model_copy(update={"weights": dict(weights)})
        changed = settings.model_copy(update={"split": split})
        return self.with_settings(IngressSettings.model_validate(changed.model_dump()))

    def placed(self, places: Mapping[str, Place]) -> "Release":
        """Return it with every target in its place."""
        settings = self.settings
        renames = {settings.targets[key].application: place.application for key, place in places.items()}
        targets = {
            key: target.model_copy(update={"application": places[key].application, "arm": places[key].arm})
            for key, target in settings.targets.items()
        }
        versions = tuple({**one, "name": renames[one["name"]]} for one in self.versions)
        moved = settings.model_copy(update={"targets": targets})
        return Release(with_user_config(self.ingress, moved), versions, self.options)

    def numbered(self, revision: int | None) -> "Release":
        """Return it with the number of the revision that it is."""
        return self.with_settings(self.settings.model_copy(update={"revision": revision}))

    def floors(self) -> dict[str, dict[str, int]]:
        """Return the least number of replicas of every deployment, by application and deployment."""
        return {one["name"]: {name: int(found.get(MIN, 1)) for name, found in _scalings(one)} for one in self.versions}

    def with_floors(self, floors: Mapping[str, Mapping[str, int]]) -> "Release":
        """Return it with other least numbers of replicas, where `floors` has some; see `floors`."""
        changed = copy.deepcopy(self)
        for application in changed.versions:
            own = floors.get(application["name"], {})
            for name, found in _scalings(application):
                if name in own:
                    found[MIN] = own[name]
        return changed

    def same_as(self, other: "Release") -> bool:
        """Whether both ask for the same.

        The number of a revision or of an attempt makes no difference, nor does `initial_replicas`: with how many
        replicas a version once began.
        """
        return bool(_bare(self) == _bare(other))


def with_user_config(application: Config, settings: IngressSettings) -> Config:
    """Return an ingress application with other settings."""
    changed = copy.deepcopy(application)
    deployments = changed.setdefault("deployments", [])
    if all(deployment["name"] != INGRESS_DEPLOYMENT for deployment in deployments):
        # The single-application form may leave all options to its builder.
        deployments.append({"name": INGRESS_DEPLOYMENT})
    for deployment in deployments:
        if deployment["name"] == INGRESS_DEPLOYMENT:
            deployment["user_config"] = settings.model_dump(mode="json")
    return changed


def runs(application: Config) -> Any:
    """Return what decides whether replicas can be kept: two applications for which it is equal run the same."""
    args = {key: value for key, value in (application.get("args") or {}).items() if key != "attempt"}
    options = [(one["name"], one.get("ray_actor_options")) for one in application.get("deployments") or ()]
    return application.get("import_path"), args, application.get("runtime_env") or {}, options


def _bare(release: Release) -> Any:
    settings = release.settings.model_copy(update={"revision": None})
    ingress = with_user_config(release.ingress, settings)
    return ingress, {one["name"]: _bare_version(one) for one in release.versions}


def _bare_version(application: Config) -> Config:
    bare = copy.deepcopy(application)
    (bare.get("args") or {}).pop("attempt", None)
    for _, scaling in _scalings(bare):
        scaling.pop(INITIAL, None)
    return bare


def _scalings(application: Config) -> list[tuple[str, Config]]:
    """Return what each deployment of an application says of its scaling, by the deployment's name."""
    parts = application.get("deployments") or ()
    return [(one["name"], one["autoscaling_config"]) for one in parts if one.get("autoscaling_config")]
