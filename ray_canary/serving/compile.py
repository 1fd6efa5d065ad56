"""Plan -> Serve config: several applications, one for the ingress and one for each version (decision 1).

No Ray in here: a config is plain data, and compiling it must be quick.
"""

import copy
from collections.abc import Mapping
from typing import Any, Final

import yaml

from ray_canary import edits
from ray_canary.config import Ingress
from ray_canary.plan import MAIN, Plan, ServicePlan, TargetPlan
from ray_canary.serving.settings import IngressSettings, SplitSettings, TargetSettings

INGRESS_IMPORT_PATH: Final = "ray_canary:ingress"
VERSION_IMPORT_PATH: Final = "ray_canary:version"
SINGLE_IMPORT_PATH: Final = "ray_canary:app"
INGRESS_DEPLOYMENT: Final = "Ingress"

#: Seconds of higher and of lower load before ingress replicas are added and removed: those that come soon help, and
#: each that goes has to drain.
UPSCALE_DELAY_S: Final = 5.0
DOWNSCALE_DELAY_S: Final = 300.0
#: Serve looks for changes in a deployment's actor options, and wouldn't notice one of `max_replicas_per_node` alone.
PER_NODE: Final = "RAY_CANARY_MAX_REPLICAS_PER_NODE"
#: Tells a replica the bytes of memory above which it ends itself.
MEMORY_LIMIT: Final = "RAY_CANARY_MEMORY_LIMIT"

Config = dict[str, Any]


def serve_config(plan: Plan) -> Config:
    """Compile a plan into what `serve deploy` takes: one application for the ingress, then one for each target.

    Every block is always there and always in the same order: Serve restarts an application when one comes or goes.
    """
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": plan.ray.http.host, "port": plan.ray.http.port},
        "applications": [ingress_application(plan), *(version_application(target) for target in plan.targets.values())],
    }


def ingress_application(plan: Plan) -> Config:
    """Compile the application that splits the traffic."""
    return {
        "name": plan.name,
        "route_prefix": plan.ray.route_prefix,
        "import_path": INGRESS_IMPORT_PATH,
        "args": {"deployment": plan.name},
        "deployments": [ingress_deployment(plan, ingress_settings(plan))],
    }


def ingress_deployment(plan: Plan, settings: IngressSettings) -> Config:
    """Compile the ingress deployment's options."""
    ingress = plan.ray.ingress
    return {
        "name": INGRESS_DEPLOYMENT,
        "max_ongoing_requests": _ingress_requests(plan),
        "max_surge_percent": ingress_surge(ingress),
        "graceful_shutdown_timeout_s": plan.ray.hosts.graceful_shutdown_timeout_s,
        # Always there, also where it leaves no choice: a block that comes or goes restarts the application.
        "autoscaling_config": {
            "min_replicas": ingress.num_replicas,
            "initial_replicas": None,
            "max_replicas": ingress.most_replicas,
            "target_ongoing_requests": ingress.target_ongoing_requests,
            "upscale_delay_s": UPSCALE_DELAY_S,
            "downscale_delay_s": DOWNSCALE_DELAY_S,
        },
        **_placed({"num_cpus": ingress.num_cpus}, ingress.node_labels, ingress.max_replicas_per_node),
        "user_config": settings.model_dump(mode="json"),
    }


def ingress_surge(ingress: Ingress) -> int:
    """Return the percent of ingress replicas that an update may start before it stops old ones.

    None where a node may have so many only and there are others meanwhile: new ones could wait for a place for ever.
    """
    return 0 if ingress.max_replicas_per_node and ingress.num_replicas > 1 else 100


def _placed(options: Config, node_labels: Mapping[str, str], per_node: int | None) -> Config:
    """Compile a deployment's actor options, and on which nodes its replicas may be: nothing of it, if on all."""
    found: Config = {"ray_actor_options": options}
    if node_labels:
        found["ray_actor_options"] = {**options, "label_selector": dict(node_labels)}
    if per_node:
        environment = copy.deepcopy(options.get("runtime_env") or {})
        environment["env_vars"] = {**environment.get("env_vars", {}), PER_NODE: str(per_node)}
        found["ray_actor_options"] = {**found["ray_actor_options"], "runtime_env": environment}
        found["max_replicas_per_node"] = per_node
    return found


def _ingress_requests(plan: Plan) -> int:
    """Return how many requests an ingress replica takes at once: its own number, and all that may wait in a queue.

    What it doesn't take waits in front of it, where it is nobody's turn.
    """
    return plan.ray.ingress.max_ongoing_requests + sum(target.max_queue_depth or 0 for target in plan.targets.values())


def ingress_settings(plan: Plan) -> IngressSettings:
    """Compile what the ingress reads per request."""
    return IngressSettings(
        deployment=plan.name,
        split=SplitSettings(
            route_type=plan.route_type,
            route_by=plan.route_by,
            weights={key: target.weight for key, target in plan.targets.items() if key != MAIN},
        ),
        targets={key: target_settings(target) for key, target in plan.targets.items()},
        max_body_bytes=plan.ray.ingress.max_body_bytes,
        target_wait_s=plan.ray.ingress.target_wait_s,
        transport=plan.ray.ingress.transport,
        ingress_replicas=plan.ray.ingress.most_replicas,
        access_log=plan.ray.ingress.access_log,
        access_authorization=plan.access_authorization,
        file=without_weights(plan.file),
    )


def user_config(application: Config) -> Any:
    """Return what an application's ingress is given; None if it has none."""
    parts = (one for one in application.get("deployments") or () if one["name"] == INGRESS_DEPLOYMENT)
    return next((one.get("user_config") for one in parts), None)


def without_weights(file: Config) -> Config:
    """Return a Deployment file without its weights: the split has them, and nobody should edit the wrong ones."""
    kept = copy.deepcopy(file)
    for version in ((kept.get("canary") or {}).get("versions") or {}).values():
        version.pop("weight", None)
    return kept


def target_settings(target: TargetPlan) -> TargetSettings:
    """Compile where one target's requests go."""
    return TargetSettings(
        application=target.application,
        deployment=target.entry_service,
        bento=target.bento,
        arm=target.arm,
        timeout_s=target.timeout_s,
        capacity=target.capacity,
        max_queue_depth=target.max_queue_depth,
        cold_start_timeout_s=target.cold_start_timeout_s,
        scales_to_zero=target.services[target.entry_service].scaling.min_replicas == 0,
    )


def version_application(target: TargetPlan) -> Config:
    """Compile one version's application. It has no route: requests come through the ingress only."""
    return {
        "name": target.application,
        "route_prefix": None,
        "import_path": VERSION_IMPORT_PATH,
        "args": version_args(target),
        "deployments": [service_deployment(service, target) for service in target.services.values()],
    }


def version_args(target: TargetPlan) -> Config:
    """Compile what `ray_canary:version` is given."""
    return {
        "deployment": target.deployment,
        "bento": target.bento,
        "entry_service": target.entry_service,
        "services": {
            name: {"config_overrides": service.config_overrides, "depends": list(service.depends)}
            for name, service in target.services.items()
        },
        "secrets": [secret.model_dump(mode="json") for secret in target.secrets],  # names only, never values
        # Only where there is one: versions that were deployed without it must not restart.
        **({"archive": target.archive.model_dump(mode="json")} if target.archive else {}),
    }


def service_deployment(service: ServicePlan, target: TargetPlan, prefix: str = "") -> Config:
    """Compile one Bento service's deployment options, in Serve's own keys."""
    limit = {MEMORY_LIMIT: str(service.memory_limit_bytes)} if service.memory_limit_bytes else {}
    options = {**service.resources, "runtime_env": {"env_vars": {**service.envs, **limit}, **isolation(target)}}
    return {
        "name": f"{prefix}{service.name}",
        "max_ongoing_requests": service.max_ongoing_requests,
        "max_surge_percent": service.rollout.max_surge_percent,
        "rolling_update_percentage": service.rollout.rolling_update_percentage,
        "graceful_shutdown_timeout_s": service.graceful_shutdown_timeout_s,
        "autoscaling_config": service.scaling.model_dump(mode="json"),
        "user_config": {"sleepers": [name for name in service.depends if _sleeps(target.services[name])]},
        **_placed(options, service.node_labels, service.max_replicas_per_node),
    }


def _sleeps(service: ServicePlan) -> bool:
    return service.scaling.min_replicas == 0


def isolation(target: TargetPlan) -> Config:
    """Compile what makes Ray build a Python environment for a version; nothing, if the version shares the cluster's.

    A whole lock is installed as it is. What isn't one may need packages that it doesn't name. Neither says where
    packages come from: each node's own uv configuration does, which may hold a password.
    """
    dependencies = target.dependencies
    if not dependencies.packages:
        return {}
    options = ["--no-deps"] if dependencies.locked else []
    return {"uv": {"packages": list(dependencies.packages), "uv_pip_install_options": options}}


# The single-application form. ----------------------------------------------------------------------------------------


def single_prefix(key: str) -> str:
    """Return what the deployments of a target begin with where all targets share one application."""
    # No key has a dot in it, so that nobody's prefix is the beginning of another's.
    return f"{key}."


def single_settings(plan: Plan) -> IngressSettings:
    """Compile what the ingress reads per request where all targets are deployments of its own application."""
    settings = ingress_settings(plan)
    targets = {
        key: target.model_copy(update={"application": None, "deployment": f"{single_prefix(key)}{target.deployment}"})
        for key, target in settings.targets.items()
    }
    return settings.model_copy(update={"targets": targets, "file": None})


def single_application_config(plan: Plan) -> Config:
    """Compile a plan into one Serve application: a laptop's form. Its `args` are the Deployment file."""
    deployments = [
        service_deployment(service, target, single_prefix(target.key))
        for target in plan.targets.values()
        for service in target.services.values()
    ]
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": plan.ray.http.host, "port": plan.ray.http.port},
        "applications": [
            {
                "name": plan.name,
                "route_prefix": plan.ray.route_prefix,
                "import_path": SINGLE_IMPORT_PATH,
                "args": edits.pinned(plan.file, {key: target.bento for key, target in plan.targets.items()}),
                "deployments": [ingress_deployment(plan, single_settings(plan)), *deployments],
            }
        ],
    }


# As text. ------------------------------------------------------------------------------------------------------------

_HEAD = """\
# The Serve config of Deployment {name}, compiled from {source} by `ray-canary build`.
#
#   serve deploy {target}
#
# It is a whole Serve config: `serve deploy` deletes the applications that it leaves out, other people's too.
# `ray-canary deploy` merges into what is on the cluster instead.
"""

_SEVERAL = """\
# To change the split, edit `split` below and run `serve deploy` again. No replica restarts, and the new weights are in
# force within a second. What an edit of anything else restarts is said beside it; it is never another version.
"""

_SINGLE = """\
# This is the single-application form, for a laptop or a notebook. AN EDIT OF `args` RESTARTS EVERY VERSION, and the
# ingress: Serve stamps an application's `args` on all of its deployments. So does adding or removing a deployment.
# To change the weights live, edit `split` in the ingress's `user_config` below: that restarts nothing, and wins over
# `args`. Edits of one deployment's own options restart that deployment only.
"""

_COMMENTS: Final = {
    "  - name: Ingress\n": "  # An edit of autoscaling_config or user_config restarts nothing.\n",
    "      split:\n": "      # What the ingress decides by. main gets what the weights leave of 100.\n",
    "      targets:\n": "      # Where each target's requests go.\n",
    "      file:\n": "      # The rest of the Deployment file, for `ray-canary get`; the ingress doesn't read it.\n",
}


def to_yaml(config: Config, plan: Plan, source: str, target: str) -> str:
    """Write a compiled config as a commented YAML file; the same plan gives the same text."""
    single = len(config["applications"]) == 1
    head = _HEAD.format(name=plan.name, source=source, target=target) + (_SINGLE if single else _SEVERAL)
    return f"{head}\n{body(config, plan)}"


def body(config: Config, plan: Plan) -> str:
    """Write a compiled config as YAML, with what an edit restarts beside it."""
    text = dump({key: value for key, value in config.items() if key != "applications"})
    text += "\napplications:\n"
    for application in config["applications"]:
        dumped = dump([application])
        text += "\n" + _application_comment(application, plan)
        text += _with_comments(dumped) if application["name"] == plan.name else dumped
    return text


def _application_comment(application: Config, plan: Plan) -> str:
    for target in plan.targets.values():
        if application["name"] == target.application:
            return (
                f"# Version {target.key}. An edit of args restarts it; an edit of a deployment's ray_actor_options\n"
                "# restarts that deployment; an edit of a deployment's other keys restarts nothing.\n"
            )
    return "# The ingress: in front of all versions.\n"


def _with_comments(text: str) -> str:
    for line, comment in _COMMENTS.items():
        text = text.replace("\n" + line, "\n" + comment + line, 1)
    return text


def dump(data: Any) -> str:
    """Write data as YAML: keys in their order, several lines of text as they are."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes no aliases: a reader should not have to look for `*id001`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if text.count("\n") > 1 else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
