"""The command that makes manifests: render."""

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from click.core import ParameterSource

from ray_canary import __version__, places, planning, yamlfile
from ray_canary.errors import ConfigError, Conflict
from ray_canary.instances import ENVIRONMENT_VARIABLE
from ray_canary.options import push as _push
from ray_canary.options import store as _store
from ray_canary.plan import Plan
from ray_canary.screens import out, warnings
from ray_canary.serving import in_place, kuberay
from ray_canary.serving.kuberay import Surroundings
from ray_canary.serving.pods import DRAIN_S, Manifest, Pods, late_starts
from ray_canary.serving.supply import Shipping
from ray_canary.serving.workers import Size, Workers, crowded
from ray_canary.shipping import STORE

_DEFAULT_IMAGE = f"ray-canary:{__version__}"
_NO_TOKEN = "--no-token does without, and lets everybody in who reaches the dashboard"
_IN_IMAGE = "--bentos-in-image does without"

T = TypeVar("T")


@click.command()
@click.pass_context
@click.option("--kuberay", "kuberay_", is_flag=True, required=True, help="A RayService for KubeRay.")
@click.option("-f", "--config-file", "file", required=True, metavar="FILE", help="The Deployment file.")
@click.option("-o", "--output", "target", metavar="FILE", default="-", help="Where to write it.  [default: the screen]")
@click.option("--image", default=_DEFAULT_IMAGE, show_default=True, help="The pods' image, with this ray-canary in it.")
@click.option("--namespace", metavar="NS", help="Its namespace.  [default: whichever kubectl uses]")
@click.option(
    "--workers",
    "groups",
    multiple=True,
    metavar="NAME=CPUS,MEMORY[,GPUS,KIND]",
    default=("workers=4,16Gi",),
    show_default=True,
    help="The room for replicas that one worker of a group has; repeatable, new ones last.",
)
@click.option("--head", metavar="CPUS,MEMORY", default="2,8Gi", show_default=True, help="The size of the head.")
@click.option("--autoscale/--no-autoscale", default=False, show_default=True, help="Workers come and go with replicas.")
@click.option(
    "--drain",
    type=click.IntRange(min=60),
    metavar="SECONDS",
    default=DRAIN_S,
    show_default=True,
    help="Replicas may take so long to start elsewhere when a worker goes.",
)
@click.option("--bentos", "claim", default="bentos", show_default=True, help="The volume claim with the Bento store.")
@click.option(
    "--bentos-in-image", is_flag=True, help="Mount no volume: the image has the Bentos, or --push ships them."
)
@click.option("--secret", "secrets", multiple=True, metavar="NAME", help="Mount this Secret, too; repeatable.")
@click.option("--redis", metavar="ADDRESS", default="redis:6379", show_default=True, help="Keeps GCS's state.")
@click.option("--redis-secret", metavar="NAME", default="redis", show_default=True, help="Has its `password`.")
@click.option("--no-redis", is_flag=True, help="Lose revisions, access tokens and Serve itself with the head.")
@click.option("--token-secret", metavar="NAME", default="ray-token", show_default=True, help="Has Ray's `auth_token`.")
@click.option("--no-token", is_flag=True, help="Let everybody in who reaches the dashboard.")
@click.option("--new-cluster", is_flag=True, help="Let KubeRay replace the whole RayCluster where pods change.")
@_push
@_store
@click.option(
    "--instance-types", metavar="FILE", help="The catalogue.  [default: $RAY_CANARY_INSTANCE_TYPES or the built-in]"
)
def render(
    ctx: click.Context,
    kuberay_: bool,
    file: str,
    target: str,
    image: str,
    namespace: str | None,
    groups: tuple[str, ...],
    head: str,
    autoscale: bool,
    drain: int,
    claim: str,
    bentos_in_image: bool,
    secrets: tuple[str, ...],
    redis: str,
    redis_secret: str,
    no_redis: bool,
    token_secret: str,
    no_token: bool,
    new_cluster: bool,
    push: bool,
    store: str | None,
    instance_types: str | None,
) -> None:
    """Make a KubeRay RayService from a Deployment file, for `kubectl apply`.

    Written over an earlier one, it refuses what would replace all pods, unless that is asked for by --new-cluster; and
    to forget the --namespace or the --push of the earlier one.
    """
    _refuse_beside(ctx, "no_redis", "redis", "redis_secret")
    _refuse_beside(ctx, "no_token", "token_secret")
    _refuse_beside(ctx, "bentos_in_image", "claim")
    if store is not None and not push:
        raise ConfigError.of("does nothing without --push; give both, or neither", "--store")
    shipping = Shipping(push, store)
    _check_target(target)
    command = _command(ctx)
    secret = "a Kubernetes Secret"
    around = Surroundings(
        namespace=None if namespace is None else kuberay.named(namespace, "a namespace", "--namespace"),
        redis=None if no_redis else kuberay.redis_address(redis, "--redis", "--no-redis does without"),
        redis_secret=kuberay.named(redis_secret, secret, "--redis-secret"),
        token_secret=None if no_token else kuberay.named(token_secret, secret, "--token-secret", _NO_TOKEN),
    )
    wanted = Pods(
        image=kuberay.given(image, "--image"),
        workers=_groups(groups),
        head=Size.parse(head, "--head"),
        bentos=None if bentos_in_image else kuberay.named(claim, "a volume claim", "--bentos", _IN_IMAGE),
        autoscale=autoscale,
        drain_s=drain,
    )
    planned = planning.planned(file, instance_types)
    before = None if target == "-" else _before(target, planned.name)
    wanted = replace(wanted, secrets=_in_file(file, lambda: kuberay.secrets_of(planned, secrets)))

    def made(plan: Plan) -> Manifest:
        make = partial(kuberay.ray_service, plan, wanted, around, version("ray"), new_cluster=new_cluster)
        return _in_file(file, make)

    # All that may be refused is, before anything is pushed.
    manifest = made(planned)
    if before:
        _check_goes_on(before, manifest, target, pushed=push, new_cluster=new_cluster)
    if push:
        warnings(_reached(_in_file(file, lambda: shipping.place(planned))))
        planned = planning.pushed(file, planned, shipping)
        manifest = made(planned)
    warnings((*late_starts(planned, wanted), *crowded(planned, wanted.workers)))
    manifests = (manifest, kuberay.network_policy(planned, around))
    text = kuberay.to_yaml(manifests, planned.name, Path(file).name, command)
    if target == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError.of(f"can't be written: {error.strerror}", target) from None
    out.print(f"Wrote {target}. Apply it with `kubectl apply -f {target}`.")
    if before and not in_place.makes_new_cluster(before, manifest):
        _say_recounted(before, manifest, planned.name, namespace)


def _in_file(file: str, make: Callable[[], T]) -> T:
    """Make something of a plan, and name the file and the line in what is wrong with it."""
    try:
        return make()
    except ConfigError as error:
        if error.source:
            raise
        lines = yamlfile.loads(yamlfile.read(file), file).lines
        raise ConfigError((problem.located(lines) for problem in error.problems), file) from None


def _groups(texts: tuple[str, ...]) -> tuple[Workers, ...]:
    found = tuple(Workers.parse(text) for text in texts)
    names = [group.name for group in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError.of(f"the group {twice!r} is given twice", "--workers")
    return found


def _refuse_beside(ctx: click.Context, off: str, *names: str) -> None:
    """Refuse what is given beside the option that does without it. Raises ConfigError."""
    option = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    for name in names:
        if ctx.params[off] and ctx.params[name] and _is_given(ctx, name):
            raise ConfigError.of(f"is given beside {option[off]}, which does without; leave one out", option[name])


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _command(ctx: click.Context) -> str:
    """Return the command that makes the same file again: what was given, without what is for once only.

    What the environment gave is an option there: another shell has another environment.
    """
    words = ["ray-canary", "render"]
    unsaid = {
        "instance_types": os.environ.get(ENVIRONMENT_VARIABLE),
        "store": os.environ.get(STORE) if ctx.params["push"] else None,
    }
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if not _is_given(ctx, name) and (value := unsaid.get(name)):
            words += [parameter.opts[0], value]
        if not _is_given(ctx, name) or name == "new_cluster":
            continue
        value = ctx.params[name]
        if isinstance(value, bool):
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            for one in value if isinstance(value, tuple) else (value,):
                words += [parameter.opts[0], str(one)]
    if odd := next((word for word in words if not word.isprintable()), None):
        raise ConfigError.of(
            f"{odd!r} has a line break in it, and the command is to stand on top of the file", "render"
        )
    return shlex.join(words)


def _before(path: str, name: str) -> Mapping[str, Any] | None:
    """Return the RayService that is to be written over; None if there is nothing.

    Raises:
        ConfigError: there is something else.
    """
    if not Path(path).exists():
        return None
    try:
        documents = list(yaml.safe_load_all(yamlfile.read(path)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # PyYAML's constructors raise ValueError, of a date.
        said = str(error).partition("\n")[0]
        raise ConfigError.of(
            f"is there already, and can't be read: {said}; mend it, or choose another file", path
        ) from None
    there = next((one for one in documents if isinstance(one, Mapping) and one.get("kind") == "RayService"), None)
    if there is None:
        raise ConfigError.of("is there already, and is not a RayService; choose another file", path)
    if wrong := in_place.misshapen(there):
        raise ConfigError.of(
            f"is there already, and can't be compared: its {wrong}, which no RayService has; mend it, or choose "
            "another file",
            path,
        )
    of = (there.get("metadata") or {}).get("name")
    if of != name:
        raise ConfigError.of(f"is there already, and is the RayService of {of!r}; choose another file", path)
    return there


def _check_goes_on(
    before: Mapping[str, Any], after: Mapping[str, Any], path: str, *, pushed: bool, new_cluster: bool
) -> None:
    """Refuse what would be another RayService, restart versions for nothing, or replace all pods. Raises Conflict."""
    was, now = (one["metadata"].get("namespace") for one in (before, after))
    if was and was != now:
        raise Conflict(
            f"{path} is for namespace {was}; applied to another one it is a second RayService, and the first goes on "
            f"as it is. Nothing was written. Give --namespace {was}, or choose another file"
        )
    if not pushed and (keys := in_place.unshipped(before, after)):
        raise Conflict(
            f"{path} has pushed Bentos, of {', '.join(keys)}. Without --push these restart, and nodes lack what they "
            f"have fetched so far. Nothing was written. Give --push, as when {path} was made; or remove "
            f"{path}, to go back to Bentos that every node has"
        )
    if not new_cluster:
        _check_in_place(before, after, path)


def _check_target(path: str) -> None:
    """Refuse what can't be written, before anything is done. Raises ConfigError."""
    if not path.strip():
        raise ConfigError.of("is empty, as where a shell variable isn't set", "-o")
    folder = Path(path).parent
    if path != "-" and not folder.is_dir():
        raise ConfigError.of(f"can't be written: there is no folder {folder}", path)
    if path != "-" and Path(path).is_dir():
        raise ConfigError.of("can't be written: it is a folder", path)


def _reached(place: str) -> tuple[str, ...]:
    """Say what pods lack of a place for Bentos: a folder is in none of those that are made here."""
    if "://" in place and places.scheme_of(place) != "file":
        return ()
    return (
        f"{place} is a folder, and these pods have it only where a patch mounts it at the same path; without one, push "
        "to a bucket (--store s3://..., gs://...)",
    )


def _say_recounted(before: Mapping[str, Any], after: Mapping[str, Any], name: str, namespace: str | None) -> None:
    """Say which groups should have other numbers of workers, and what has to be done for that."""
    found = in_place.recounted(before, after)

    def said(which: list[in_place.Recount], sentence: str) -> str:
        changes = ", ".join(one.change for one in which)
        return f"{sentence.format(changes)}:\n  {in_place.recount_command(which, name, namespace)}"

    if more := [one for one in found if one.grows]:
        sentence = (
            "more workers ({}). KubeRay doesn't carry that into the RayCluster that runs: without them, replicas may "
            "wait for room for ever. Once applied"
        )
        warnings((said(more, sentence),))
    if fewer := [one for one in found if not one.grows]:
        out.print(
            said(
                fewer,
                "Fewer workers are enough ({}). KubeRay doesn't carry that into the RayCluster that runs, and nothing "
                "is short there. This ends workers, and what runs on them has to move",
            ),
            highlight=False,
        )


def _check_in_place(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> None:
    """Refuse what would replace all pods. Raises Conflict, with every difference."""
    if found := in_place.makes_new_cluster(before, after):
        differences = "\n".join(f"  {where}: {was!r} -> {now!r}" for where, was, now in found)
        raise Conflict(
            f"{path}: this would replace all pods, since the RayCluster itself changes:\n{differences}\n"
            f"Nothing was written. Give the options that {path} was made with (they stand on its top); --secret NAME "
            "keeps a secret mounted that the file no longer names. Or give --new-cluster: KubeRay then makes a new "
            "RayCluster beside the old one and moves all requests to it when everything runs there"
        )
