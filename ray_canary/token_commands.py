"""`ray-canary token`: who may ask."""

from collections.abc import Mapping
from time import sleep, time
from typing import Any

import click

from ray_canary import access, screens
from ray_canary.errors import ConfigError
from ray_canary.legal import did_you_mean
from ray_canary.options import address, output
from ray_canary.serving.cluster import Cluster
from ray_canary.tokens import Token, lifetime

#: Seconds until every ingress replica has read a new token. `token create` waits for so long, so that the next line of
#: a script can use it.
IN_FORCE_S = 1.0


@click.group()
def token() -> None:
    """Create, list and revoke access tokens.

    A token lets requests into Deployments with `access_authorization: true`, and lets them select a version by
    the header X-Bento-Version in any Deployment. Clients send it as

    \b
        Authorization: Bearer TOKEN

    The cluster keeps a digest of each token, never the token itself.
    """


@token.command()
@click.option("--name", default="", metavar="TEXT", help="What or whom it is for, as `token list` will show it.")
@click.option(
    "--deployment",
    "deployments",
    multiple=True,
    metavar="NAME",
    help="Only for this one; may be repeated.  [default: all]",
)
@click.option(
    "--expires", default="never", show_default=True, metavar="TIME", help="After how long: 45m, 12h, 30d, 4w or never."
)
@address
@output
def create(name: str, deployments: tuple[str, ...], expires: str, address: str | None, output: str) -> None:
    """Create a token and print it, this once.

    When the command ends, every ingress replica takes it. The token alone goes to standard output, and what there
    is to say about it to standard error, so that a script can take it:

    \b
        TOKEN=$(ray-canary token create --name "the web shop" --deployment summaries --expires 30d)
        curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8000/summarize
    """
    seconds = _seconds(expires)
    issued = access.create_token(name, deployments=deployments or None, expires_in=seconds, address=address)
    for sentence in _not_there(deployments, address):
        screens.warnings([sentence])
    if output == "table":
        screens.token_created(issued)
    else:
        screens.data({"token": issued.text, **_shown(issued.token)}, output)
    sleep(IN_FORCE_S)


def _seconds(expires: str) -> int | None:
    try:
        return lifetime(expires)
    except ValueError as error:
        raise ConfigError.of(str(error), path="--expires") from None


def _not_there(deployments: tuple[str, ...], address: str | None) -> list[str]:
    """Say which Deployments aren't on the cluster: they may be still to come, or misspelt."""
    if not deployments:
        return []
    there = Cluster(address).state().live()
    missing = [name for name in deployments if name not in there]
    hints = [did_you_mean(name, there) or "the token is for one of that name, once there is one" for name in missing]
    return [f"the cluster has no Deployment {name!r}; {hint}" for name, hint in zip(missing, hints, strict=True)]


@token.command("list")
@address
@output
def list_(address: str | None, output: str) -> None:
    """List the tokens: ids, names, what they are for, until when. Never the tokens themselves.

    Expired ones stay in the list until they are revoked.
    """
    found = access.list_tokens(address)
    if output == "table":
        screens.tokens(found, time())
    else:
        screens.data([_shown(one) for one in found], output)


@token.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@address
def revoke(ids: tuple[str, ...], address: str | None) -> None:
    """Revoke tokens, by id or by the whole token.

    Within a second no request gets in with them any more. Nothing restarts, and requests that are under way end.
    """
    gone = access.revoke_token(*ids, address=address)
    screens.tokens_revoked(gone)


def _shown(one: Token) -> Mapping[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "deployments": None if one.deployments is None else [*one.deployments],
        "created_at": screens.moment(one.created_at),
        "created_by": one.created_by,
        "expires_at": None if one.expires_at is None else screens.moment(one.expires_at),
        "expired": one.expired(time()),
    }
