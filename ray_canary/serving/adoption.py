"""Which application serves which target: running ones are recognised by what they run (decision 19). Pure.

So a promoted version, or a file that swaps two versions, re-points the split instead of restarting anything.
"""

from collections.abc import Iterable, Mapping

from ray_canary.plan import ArchivePlan, Plan, TargetPlan, application_name, free_name
from ray_canary.serving.compile import Config, version_application
from ray_canary.serving.release import Place, Release, runs
from ray_canary.serving.state import Live, OnCluster


def adopt(plan: Plan, cluster: OnCluster) -> Plan:
    """Return a plan whose targets stand where the same already runs; places that the file names are kept.

    A Bento that this Deployment runs from an archive keeps it: what was pushed once needn't be pushed at every deploy.
    """
    plan = _with_archives(plan, cluster)
    live = cluster.live().get(plan.name)
    if live is None or live.rejected or live.single:
        return plan
    wanted = {key: version_application(target) for key, target in plan.targets.items()}
    places = _places(wanted, live, cluster, fixed=plan.ray.applications, arms=plan.ray.arms)
    targets = {
        key: target.model_copy(update={"application": places[key].application, "arm": places[key].arm})
        for key, target in plan.targets.items()
    }
    return plan.model_copy(update={"targets": targets})


def _with_archives(plan: Plan, cluster: OnCluster) -> Plan:
    states = (cluster.applications[name] for name in sorted(cluster.versions_of(plan.name)))
    args = {state.name: (state.config or {}).get("args") or {} for state in states if not state.going}
    known = {(name, said["bento"]): said["archive"] for name, said in args.items() if said.get("archive")}
    of_bento = {bento: archive for (_, bento), archive in known.items()}

    def kept(target: TargetPlan) -> TargetPlan:
        found = known.get((target.application, target.bento)) or of_bento.get(target.bento)
        bare = target.archive is None and found is not None
        return target.model_copy(update={"archive": ArchivePlan.model_validate(found)}) if bare else target

    return plan.model_copy(update={"targets": {key: kept(target) for key, target in plan.targets.items()}})


def restore(release: Release, cluster: OnCluster) -> Release:
    """Return a revision's release, with its applications where the same already runs, and with its own arms."""
    live = cluster.live().get(release.name)
    settings = release.settings
    if not release.versions or live is None or live.rejected or live.single:
        return release
    wanted = {key: release.version(target.application) or {} for key, target in settings.targets.items()}
    arms = {key: target.arm for key, target in settings.targets.items()}
    return release.placed(_places(wanted, live, cluster, fixed={}, arms=arms))


def _places(
    wanted: Mapping[str, Config], live: Live, cluster: OnCluster, fixed: Mapping[str, str], arms: Mapping[str, str]
) -> dict[str, Place]:
    """Find a place for every target.

    1. The one that the file names.
    2. Its own application, if that runs the same.
    3. Another application of this Deployment that runs the same.
    4. Its own application, in which it is then replaced in place.
    5. A new application: by its role, with a number if that name is taken.
    """
    there = _there(live, cluster)
    own = {key: target.settings.application for key, target in live.targets.items()}
    chosen: dict[str, str] = {key: fixed[key] for key in wanted if key in fixed}
    free = {name: runs(config) for name, config in there.items() if name not in chosen.values()}

    def take(key: str, names: Iterable[str | None]) -> None:
        name = next((name for name in names if name in free), None)
        if key not in chosen and name is not None:
            chosen[key] = name
            del free[name]

    for key, config in wanted.items():
        take(key, [own.get(key)] if own.get(key) in free and free[str(own[key])] == runs(config) else [])
    for key, config in wanted.items():
        take(key, [name for name, what in free.items() if what == runs(config)])
    for key in wanted:
        take(key, [own.get(key)])
    for key in wanted:
        if key not in chosen:
            taken = {*cluster.applications, *chosen.values(), live.name} - set(free)
            chosen[key] = free_name(application_name(live.name, key), taken)
            free.pop(chosen[key], None)
    return {key: Place(name, arm) for (key, name), arm in zip(chosen.items(), _arms(chosen, live, arms), strict=True)}


def _there(live: Live, cluster: OnCluster) -> dict[str, Config]:
    """Return the applications of a Deployment's versions: those in use first."""
    states = {name: cluster.applications[name] for name in live.version_applications}
    return {name: state.config for name, state in states.items() if state.config and not state.going}


def _arms(chosen: Mapping[str, str], live: Live, given: Mapping[str, str]) -> list[str]:
    """Return every target's arm: the given one, else the one that its application has, else one of its own."""
    of_application = {target.settings.application: target.settings.arm for target in live.targets.values()}
    arms: dict[str, str] = {key: given[key] for key in chosen if key in given}
    for key, name in chosen.items():
        if key not in arms and of_application.get(name) and of_application[name] not in arms.values():
            arms[key] = of_application[name]
    for key in chosen:
        if key not in arms:
            arms[key] = free_name(key, set(arms.values()))
    return [arms[key] for key in chosen]
