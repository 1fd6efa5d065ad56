"""The options that several commands of `ray-canary` have in common."""

import click


def _named(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty place: what an unset variable of the shell leaves must not choose another one."""
    if value is not None and not value.strip():
        raise click.BadParameter("is empty; name a bucket or a folder, or leave the option out", context, parameter)
    return value


address = click.option(
    "--address", metavar="URL", help="Ray's dashboard.  [default: $RAY_DASHBOARD_ADDRESS or http://127.0.0.1:8265]"
)
output = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True, help="Format."
)
push = click.option("--push", is_flag=True, help="Ship the Bentos to where every node can fetch them.")
store = click.option(
    "--store",
    metavar="URL",
    callback=_named,
    help="Where to ship them.  [default: $RAY_CANARY_BENTO_STORE or ray.bento_store in FILE]",
)
