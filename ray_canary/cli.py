"""What shells use: `ray-canary`. Exit code 0: done; 1: it failed; 2: it was asked wrongly, and nothing was touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from ray_canary import __version__, changing, deployment, lookup, planning, screens
from ray_canary.console_command import console
from ray_canary.description import describe
from ray_canary.errors import ConfigError, RayCanaryError
from ray_canary.explaining import explain
from ray_canary.instances import Catalogue
from ray_canary.log_commands import events, logs
from ray_canary.options import address as _address
from ray_canary.options import output as _output
from ray_canary.options import push as _push
from ray_canary.options import store as _store
from ray_canary.preview import Preview, preview
from ray_canary.render_command import render
from ray_canary.screens import err, out
from ray_canary.serving import compile, local, rollout
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.supply import Shipping
from ray_canary.token_commands import token
from ray_canary.top_command import top

Command = Callable[..., Any]

_file = click.option("-f", "--config-file", "file", required=True, metavar="FILE", help="The Deployment file.")
_instance_types = click.option(
    "--instance-types",
    metavar="FILE",
    help="The catalogue.  [default: $RAY_CANARY_INSTANCE_TYPES or the built-in]",
)
_timeout = click.option("--timeout", type=click.FloatRange(min=0), default=3600, show_default=True, help="Seconds.")


#: What submits nothing, and goes on until Ctrl-C.
_READING = ("console", "events", "logs", "top")


class _Group(click.Group):
    """Turns our errors into one message on standard error, and the exit code that goes with it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RayCanaryError as error:
            err.print(Text.assemble(("Error: ", "bold red"), str(error)))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            if ctx.invoked_subcommand not in _READING:
                err.print("Interrupted. What was submitted goes on: see `ray-canary get`. To run it again is safe.")
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ray-canary")
def cli() -> None:
    """Canary Deployments of Bentos on Ray Serve."""


@cli.command()
@_file
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until every version is ready.")
@_timeout
@click.option("--allow-pending", is_flag=True, help="Deploy though the cluster is too small, because it will grow.")
@_push
@_store
@_instance_types
@_address
def deploy(
    file: str,
    wait: bool,
    timeout: float,
    allow_pending: bool,
    push: bool,
    store: str | None,
    instance_types: str | None,
    address: str | None,
) -> None:
    """Deploy a Deployment file, beside everything else that is on the cluster."""
    planned = planning.planned(file, instance_types)
    cluster = Cluster(address)
    out.print(f"Deploying {planned.name}: requests are split {screens.split_of(planned)}.")
    seen: dict[str, rollout.Progress] = {}
    deployed = deployment.apply_plan(
        planned,
        cluster,
        wait=wait,
        timeout=timeout,
        check_fit=not allow_pending,
        ship=Shipping(push, store),
        report=lambda now: screens.progress(seen, now),
        notice=screens.notice,
    )
    live = deployed.live if wait else None
    where = live.url if live else "it is not ready yet"
    out.print(Text.assemble(("Deployment ", "green"), f"{planned.name} ", ("deployed", "green"), f": {where}"))


@cli.command()
@_file
@click.option("--offline", is_flag=True, help="Don't ask a cluster what is there.")
@_instance_types
@_address
@_output
def plan(file: str, offline: bool, instance_types: str | None, address: str | None, output: str) -> None:
    """Show what a Deployment file means, and what deploying it would change."""
    planned = planning.planned(file, instance_types)
    found = Preview(planned) if offline else preview(planned, Cluster(address), screens.notice)
    if output != "table":
        screens.data(found.to_dict(), output)
        return
    screens.plan_targets(found.plan)
    screens.plan_secrets(found.plan)
    screens.plan_dependencies(found.plan)
    if not offline:
        screens.plan_preview(found)
    screens.plan_defaults(planned)


@cli.command()
@_file
@click.option("-o", "--output", "target", metavar="FILE", default="-", help="Where to write it.  [default: the screen]")
@click.option("--single-application", is_flag=True, help="One application for everything: a laptop's form.")
@_push
@_store
@_instance_types
def build(
    file: str, target: str, single_application: bool, push: bool, store: str | None, instance_types: str | None
) -> None:
    """Compile a Deployment file into a Serve config, for `serve deploy`."""
    if push and single_application:
        raise click.UsageError("--push is not for --single-application: Bentos are looked up where it runs.")
    planned = planning.planned(file, instance_types)
    planned = planning.pushed(file, planned, Shipping(push, store))
    make = compile.single_application_config if single_application else compile.serve_config
    text = compile.to_yaml(make(planned), planned, file, "FILE" if target == "-" else target)
    if target == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError.of(f"can't be written: {error.strerror}", target) from None
    out.print(f"Wrote {target}. Deploy it with `serve deploy {target}`.")


@cli.command()
@click.argument("name")
@_address
@_output
def get(name: str, address: str | None, output: str) -> None:
    """Show a Deployment: configured weights, weights in force, replicas, and what is wrong."""
    found = deployment.get(name, address)
    about = describe(live := found.live, found.ways())
    if output == "table":
        screens.deployment(live, about)
    else:
        screens.data(about, output)


@cli.command("list")
@_address
@_output
def list_(address: str | None, output: str) -> None:
    """List the Deployments on the cluster."""
    lives = [one for _, one in sorted(Cluster(address).state().live().items())]
    if output == "table":
        screens.listing(lives)
    else:
        screens.data([describe(live) for live in lives], output)


for _command in (changing.weights, changing.promote, changing.rollback, changing.revisions, changing.diff):
    cli.add_command(_command)


@cli.command("explain")
@click.argument("name")
@click.option("--key", help="The routing key itself.")
@click.option("--header", help="A header line, like 'X-User-ID: user123'.")
@click.option("--query", help="A query string, like 'feature=test'.")
@_address
@_output
def explain_(
    name: str, key: str | None, header: str | None, query: str | None, address: str | None, output: str
) -> None:
    """Say why a request goes where it goes."""
    if sum(given is not None for given in (key, header, query)) != 1:
        raise click.UsageError("Give one of --key, --header and --query.")
    live = lookup.accepted(deployment.get(name, address).live)
    told = explain(live, key=key, header=header, query=query)
    if output == "table":
        screens.explanation(told)
    else:
        screens.data(told, output)


@cli.command()
@click.argument("name")
@click.option("--wait", is_flag=True, help="Wait until the last replica has gone.")
@_timeout
@_address
def terminate(name: str, wait: bool, timeout: float, address: str | None) -> None:
    """Take all versions of a Deployment down; its name and route stay, and answer 503."""
    deployment.terminate(name, address, wait=wait, timeout=timeout, notice=screens.notice)
    out.print(f"Deployment {name} terminated. `ray-canary deploy` brings it back, `ray-canary delete` removes it.")


@cli.command()
@click.argument("name")
@click.option("--wait", is_flag=True, help="Wait until the last replica has gone.")
@_timeout
@_address
def delete(name: str, wait: bool, timeout: float, address: str | None) -> None:
    """Take a Deployment off the cluster; everything else stays.

    Its revisions are kept, so that `rollback` can bring it back.
    """
    deployment.delete(name, address, wait=wait, timeout=timeout, notice=screens.notice)
    out.print(f"Deployment {name} deleted.")


@cli.command("list-instance-types")
@_instance_types
@_output
def list_instance_types(instance_types: str | None, output: str) -> None:
    """List the instance types that a file can name."""
    catalogue = Catalogue.find(instance_types)
    if output == "table":
        screens.instance_types(catalogue)
        return
    rows: list[dict[str, Any]] = []
    for one in catalogue:
        labels = {"node_labels": dict(one.node_labels)} if one.node_labels else {}
        rows.append({"name": one.name, **catalogue.resources(one), **labels})
    screens.data(rows, output)


@cli.command()
@click.option("-f", "--config-file", "file", metavar="FILE", help="Make room for this Deployment file.")
@click.option("--num-cpus", type=click.IntRange(min=1), help="Logical CPUs.  [default: enough for FILE]")
@click.option("--memory", type=click.FloatRange(min=1), help="Logical memory in GiB.  [default: enough for FILE]")
@click.option("--haproxy/--no-haproxy", default=None, help="Serve behind HAProxy.  [default: where it exists]")
@_instance_types
def up(
    file: str | None, num_cpus: int | None, memory: float | None, haproxy: bool | None, instance_types: str | None
) -> None:
    """Start a local Ray with the settings that a Deployment wants."""
    planned = planning.planned(file, instance_types) if file else None
    if local.runs():
        out.print("A local Ray of ours runs already; `ray-canary down` ends it.")
        if file:
            out.print(f"Whether {file} fits it, `ray-canary plan -f {file}` says.")
        return
    wanted = local.sized(planned, num_cpus, memory, haproxy)
    local.up(wanted)
    screens.local_up(wanted)


@cli.command()
def down() -> None:
    """End the local Ray that `up` started, HAProxy included, and no other."""
    ended = local.down()
    out.print(f"Ended {ended} processes." if ended else "No local Ray of ours runs.")


@cli.command()
@click.option(
    "-f",
    "--config-file",
    "file",
    default="configs/summarization.yaml",
    show_default=True,
    metavar="FILE",
    help="The Deployment file to show.",
)
def demo(file: str) -> None:
    """Show the main job: three real Bentos, a local Ray, live traffic, a live weight change."""
    from ray_canary.demo.run import run

    run(file)


cli.add_command(top)
cli.add_command(logs)
cli.add_command(events)
cli.add_command(console)
cli.add_command(render)
cli.add_command(token)


def main() -> None:
    """Run the command line."""
    cli.main(prog_name="ray-canary")
