"""`ray-canary console`."""

import errno
import ipaddress
import os
import socket
import webbrowser
from pathlib import Path

import click

from ray_canary.errors import ConfigError
from ray_canary.options import address as _address
from ray_canary.screens import out

TOKEN = "RAY_CANARY_CONSOLE_TOKEN"
#: The fewest characters of a console's token: 16 of 64 random ones are 96 bits.
LEAST = 16


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; others need a token.")
@click.option("--port", type=click.IntRange(1, 65535), default=8300, show_default=True, help="The port.")
@click.option(
    "--token-file",
    metavar="FILE",
    help=f"What whoever opens it has to say, 16 characters or more.  [default: ${TOKEN}]",
)
@click.option(
    "--prometheus",
    envvar="RAY_CANARY_PROMETHEUS",
    metavar="URL",
    help="Take Monitoring's numbers from this Prometheus.",
)
@click.option("--open/--no-open", "opens", default=True, show_default=True, help="Open a browser.")
@_address
def console(
    host: str, port: int, token_file: str | None, prometheus: str | None, opens: bool, address: str | None
) -> None:
    """Serve the web console until Ctrl-C: every Deployment, what it does, and how to change it.

    It listens on this machine only. To let others in, give it an address and a token:

    \b
        openssl rand -base64 24 > console.token
        ray-canary console --host 0.0.0.0 --token-file console.token

    What it carries then is not encrypted: put a proxy with TLS in front of it.
    """
    if prometheus and not prometheus.startswith(("http://", "https://")):
        raise ConfigError.of(f"{prometheus!r} is not a URL like http://127.0.0.1:9090", path="--prometheus")
    token = _token(token_file)
    if token is None and not _is_loopback(host):
        hint = f"give it --token-file or ${TOKEN}"
        raise ConfigError.of(
            f"{host!r} lets in others than this machine, and there is no token", path="--host", hint=hint
        )
    try:
        from ray_canary.console import app
        from ray_canary.console.desk import Settings
    except ImportError as error:
        missing = "needs more packages: pip install 'ray-canary[console]'"
        raise ConfigError.of(f"{missing} ({error.name} is missing)", "console") from None
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else shown}:{port}"

    def started() -> None:
        out.print(f"The console: {url}", highlight=False)
        if opens:
            webbrowser.open(url)

    app.run(Settings(address, token, prometheus), _listen(host, port), started)


def _listen(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address that `host` has here. Raises ConfigError."""
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, at in dict.fromkeys((family, address[:2]) for family, *_, address in found):
            try:
                sockets.append(socket.create_server(at, family=family))
            except OSError as error:
                failure = error
    except socket.gaierror as error:
        raise ConfigError.of(f"{host!r} is no address of this machine: {error.strerror}", path="--host") from None
    # `localhost` can have an IPv6 address where the machine has none; a port that somebody else has is another matter.
    if failure is None or (sockets and failure.errno != errno.EADDRINUSE):
        return sockets
    for one in sockets:
        one.close()
    if failure.errno == errno.EADDRINUSE:
        hint = "another console may run already; choose another port, or end what listens there"
        raise ConfigError.of(f"{port} is taken on {host}", path="--port", hint=hint)
    why = os.strerror(failure.errno or 0)
    raise ConfigError.of(f"can't listen on {host!r}, port {port}: {why}", path="--host")


def _token(file: str | None) -> str | None:
    """Return the token that is set, if one is. Raises ConfigError."""
    source, path = (file, "--token-file") if file else (TOKEN, f"${TOKEN}")
    if file:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError.of(f"{source} can't be read: {error}", path=path) from None
    elif (said := os.environ.get(TOKEN)) is not None:
        token = said.strip()
    else:
        return None
    if len(token) < LEAST or not token.isprintable() or not token.isascii():
        raise ConfigError.of(f"is not a token of {LEAST} or more printable ASCII characters", path=path)
    return token


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
