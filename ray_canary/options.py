"""The options that several commands of `ray-canary` have in common."""

import click

address = click.option(
    "--address", metavar="URL", help="Ray's dashboard.  [default: $RAY_DASHBOARD_ADDRESS or http://127.0.0.1:8265]"
)
output = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True, help="Format."
)
push = click.option("--push", is_flag=True, help="Ship the Bentos to where every node can fetch them.")
store = click.option(
    "--store", metavar="URL", help="Where to ship them.  [default: $RAY_CANARY_BENTO_STORE or ray.bento_store in FILE]"
)
