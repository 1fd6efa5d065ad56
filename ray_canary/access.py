"""Access tokens, for Python callers: create, list and revoke them on a cluster.

from ray_canary import access

issued = access.create_token("the web shop", deployments=["summaries"], expires_in=30 * 86_400)
issued.text  # rct_..., shown here and nowhere else
"""

import builtins
import getpass
import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from ray_canary import legal
from ray_canary.errors import ClusterError, ConfigError, NotFound
from ray_canary.fields import Name
from ray_canary.legal import did_you_mean, show
from ray_canary.serving.access import PREFIX
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.store import Store
from ray_canary.tokens import Token, id_of, issue

#: The longest name of a token, in characters.
MAX_NAME = 100

#: Two ids out of 2**32 meet rarely, and four times in a row never.
_TRIES = 4

_deployment_name: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True)
class Issued:
    """A new token: its record, and its text, which is kept nowhere else."""

    token: Token
    text: str = field(repr=False)


def create_token(
    name: str = "",
    *,
    deployments: Iterable[str] | None = None,
    expires_in: float | None = None,
    address: str | None = None,
) -> Issued:
    """Create a token. Every ingress replica takes it within a second.

    `deployments` are the names of the Deployments that it is for, on the cluster or still to come; None is all of
    them. `expires_in` is in seconds from now; None is never.

    Raises:
        ConfigError: a name or the time isn't legal; nothing was created.
        ClusterError: the cluster's store can't be reached.
    """
    wanted = None if deployments is None else tuple(deployments)
    _check(name, wanted, expires_in)
    return Keeper(Cluster(address).store()).create(name, wanted, expires_in)


def list_tokens(address: str | None = None) -> builtins.list[Token]:
    """Return every token, the oldest first, expired ones included. Raises ClusterError."""
    return Keeper(Cluster(address).store()).all()


def revoke_token(*ids: str, address: str | None = None) -> builtins.list[Token]:
    """Take tokens back, by id or by their whole text, and return them. Within a second no ingress replica takes them.

    Raises:
        NotFound: there is none of that id; the others have been taken back.
        ClusterError: the cluster's store can't be reached.
    """
    return Keeper(Cluster(address).store()).revoke(ids)


class Keeper:
    """The tokens in one cluster's store."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        """Keep them in `store`; `clock` says the time in seconds since 1970."""
        self._store = store
        self._clock = clock

    def create(
        self, name: str, deployments: tuple[str, ...] | None, expires_in: float | None, created_by: str | None = None
    ) -> Issued:
        """Make a token and keep its record."""
        now = self._clock()
        expires_at = None if expires_in is None else now + expires_in
        for _ in range(_TRIES):
            token, text = issue(name, deployments, now, created_by or _who(), expires_at)
            with _reaching():
                added = self._store.add(f"{PREFIX}{token.id}", token.model_dump(mode="json"))
            if added:
                return Issued(token, text)
        raise ClusterError(f"No id for a token is free: {_TRIES} in a row were taken.")

    def all(self) -> list[Token]:
        """Return every token, the oldest first. What is no token's record is passed over."""
        with _reaching():
            records = self._store.items(PREFIX)
        return sorted(_readable(records.values()), key=lambda token: (token.created_at, token.id))

    def revoke(self, ids: Sequence[str]) -> list[Token]:
        """Take tokens back, and return them.

        Raises:
            NotFound: there is none of that id; the others have been taken back.
        """
        there = {token.id: token for token in self.all()}
        named = {text: id_of(text) for text in ids}
        gone = [there[known] for known in dict.fromkeys(named.values()) if known in there]
        for token in gone:
            with _reaching():
                self._store.delete(f"{PREFIX}{token.id}")
        if missing := [(text, known) for text, known in named.items() if known not in there]:
            raise NotFound("\n".join([_missing(*one, there) for one in missing] + [_also(gone)] * bool(gone)))
        return gone


def _readable(records: Iterable[object]) -> Iterator[Token]:
    for record in records:
        try:
            yield Token.of(record)
        except ValueError:
            continue  # the ingress ignores it too, and logs so


def _missing(text: str, known: str | None, there: Iterable[str]) -> str:
    # Nothing but an id is shown: a text that is none could be a secret.
    if known is None:
        return "There is a text among these that is not the id of a token, like 1a2b3c4d; see `ray-canary token list`"
    ids = sorted(there)
    hint = did_you_mean(known, ids) or (
        "`ray-canary token list` shows those that are there" if ids else "there is none"
    )
    return f"The cluster has no token {known!r}; {hint}"


def _also(gone: Iterable[Token]) -> str:
    return f"Revoked: {', '.join(token.id for token in gone)}"


def _check(name: str, deployments: tuple[str, ...] | None, expires_in: float | None) -> None:
    """Raise ConfigError for what is not legal."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise ConfigError.of(f"{show(name)} is not a text of at most {MAX_NAME} printable characters", path="name")
    if deployments == ():
        raise ConfigError.of("is empty", path="deployments", hint="leave it out for a token for all Deployments")
    for deployment in deployments or ():
        try:
            _deployment_name.validate_python(deployment)
        except ValidationError as error:
            raise ConfigError(legal.problems(error, Name), "deployment") from None
    if expires_in is not None and not 0 < expires_in < math.inf:
        raise ConfigError.of(f"{show(expires_in)} is not a number of seconds above 0", path="expires_in")


def _who() -> str:
    """Return who runs this, as far as the machine knows."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user here, as in many containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


@contextmanager
def _reaching() -> Iterator[None]:
    """Turn what Ray raises when its store doesn't answer into a ClusterError."""
    try:
        yield
    except Exception as error:
        message = f"Ray's GCS, which keeps access tokens, doesn't answer: {type(error).__name__}"
        raise ClusterError(message) from error
