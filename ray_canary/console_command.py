"""`ray-canary console`."""

import webbrowser

import click

from ray_canary.errors import ConfigError
from ray_canary.options import address as _address
from ray_canary.screens import out


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8300, show_default=True, help="The port on 127.0.0.1.")
@click.option("--open/--no-open", "opens", default=True, show_default=True, help="Open a browser.")
@_address
def console(port: int, opens: bool, address: str | None) -> None:
    """Serve a web page that shows every Deployment, its versions and their replicas, on this machine, until Ctrl-C."""
    try:
        from ray_canary.console import app
        from ray_canary.console.desk import Settings
    except ImportError as error:
        missing = "needs more packages: pip install 'ray-canary[console]'"
        raise ConfigError.of(f"{missing} ({error.name} is missing)", "console") from None
    settings = Settings(address, port)
    url = f"http://127.0.0.1:{port}"

    def started() -> None:
        out.print(f"The console: {url}", highlight=False)
        if opens:
            webbrowser.open(url)

    app.run(settings, started)
