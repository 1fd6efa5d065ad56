"""The application builders that a Serve config names: `ray_canary:ingress`, `ray_canary:version`, `ray_canary:app`."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

from ray_canary import config
from ray_canary.bentos import BentoStore, store_path
from ray_canary.instances import Catalogue
from ray_canary.plan import ArchivePlan, SecretPlan, TargetPlan
from ray_canary.resolving import resolve
from ray_canary.serving import compile
from ray_canary.serving.entry import entry
from ray_canary.serving.host import BentoHost
from ray_canary.serving.ingress import Ingress

Options = dict[str, Any]


class _Args(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ServiceArgs(_Args):
    """One Bento service of a version."""

    config_overrides: dict[str, Any] = Field(default={}, description="What replaces `@bentoml.service(...)` settings.")
    depends: list[str] = Field(default=[], description="The Bento services that it calls, by name.")


class VersionArgs(_Args):
    """What one version's application runs. An edit restarts this version, and no other."""

    deployment: str = Field(default="", description="The Deployment whose version it is.")
    bento: str = Field(description="The Bento's full tag.")
    entry_service: str = Field(description="The Bento service that requests go to.")
    services: dict[str, ServiceArgs] = Field(description="All Bento services, each its own Serve deployment.")
    secrets: list[SecretPlan] = Field(default=[], description="Its secrets, by name: values are on the nodes only.")
    archive: ArchivePlan | None = Field(default=None, description="Where a node that lacks the Bento fetches it.")
    attempt: int = Field(default=0, description="Raised by `ray-canary deploy` to try a version again that failed.")


class IngressArgs(_Args):
    """What names an ingress; all the rest is in `user_config`."""

    deployment: str = Field(description="The Deployment's name.")


def version(args: VersionArgs) -> Application:
    """Build one version: a Serve deployment for each of its Bento services."""
    return _version(args, "", {})


def ingress(args: IngressArgs) -> Application:
    """Build a Deployment's ingress."""
    return _ingress(args.deployment, {})


def single_application(args: dict[str, Any]) -> Application:
    """Build a whole Deployment as one Serve application, for a laptop or a notebook.

    `args` are the Deployment itself, or `config`: the path of a Deployment file. Serve stamps an application's `args`
    on all of its deployments, so an edit of them restarts every version; only the split in the ingress's `user_config`
    changes live. Bentos are looked up where this runs.

    Raises:
        ConfigError: the Deployment is wrong, or doesn't fit its Bentos.
    """
    file = config.load(args["config"]) if set(args) == {"config"} else config.parse(args, "args")
    plan = resolve(file, BentoStore(store_path()), Catalogue.find())
    versions = [_planned_version(target) for target in plan.targets.values()]
    settings = compile.single_settings(plan).model_copy(update={"file": plan.file})
    options = compile.ingress_deployment(plan, settings)
    return _ingress(plan.name, options, *versions)


def _planned_version(target: TargetPlan) -> Application:
    prefix = compile.single_prefix(target.key)
    options = {name: compile.service_deployment(service, target) for name, service in target.services.items()}
    return _version(VersionArgs.model_validate(compile.version_args(target)), prefix, options)


def _version(args: VersionArgs, prefix: str, options: Mapping[str, Options]) -> Application:
    overrides = {name: service.config_overrides for name, service in args.services.items()}
    built: dict[str, Application] = {}

    def build(name: str) -> Application:
        if name not in built:
            depends = {dependency: build(dependency) for dependency in args.services[name].depends}
            deployment: Any = serve.deployment(**_named(f"{prefix}{name}", options.get(name, {})))
            host = _with_http(BentoHost) if name == args.entry_service and not prefix else BentoHost
            built[name] = deployment(host).bind(args.bento, name, overrides, depends, args.secrets, args.archive)
        return built[name]

    return build(args.entry_service)


def _ingress(name: str, options: Options, *versions: Application) -> Application:
    deployment: Any = serve.deployment(**_named(compile.INGRESS_DEPLOYMENT, options))
    application: Application = deployment(_with_http(Ingress)).bind(name, *versions)
    return application


def _with_http(kind: type) -> Any:
    """Let a class answer HTTP, where Serve opens a port for it."""
    # Serve takes a function for one that builds the ASGI app.
    return serve.ingress(lambda: entry)(kind)


def _named(name: str, options: Options) -> Options:
    return {**options, "name": name}
