"""Who may ask: access tokens, and the verdict on what a request carries.

Pure: no I/O and no clock. A token is the text `rct_<id>_<secret>`. The id is public, and names the token in lists and
logs. The secret is 32 random bytes, shown once; a record holds its SHA-256 digest only. With 256 bits of randomness a
digest needs neither salt nor a slow hash: there is nothing to guess from.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_ID: Final = "[0-9a-f]{8}"
_SECRET: Final = "[A-Za-z0-9_-]{43}"
_BEARER: Final = re.compile(rf"(?i:bearer) +rct_({_ID})_({_SECRET})".encode())
_TRACE: Final = re.compile(rf"rct_{_ID}_".encode())
_NAMED: Final = re.compile(rf"({_ID})|rct_({_ID})(_.*)?")

_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 4

_LIFETIME: Final = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Verdict(Enum):
    """What is to be done with a request: the status of the answer, and the sentence that goes with it."""

    OK = (200, "")
    MISSING = (401, "Unauthorized: this needs an access token, given as Authorization: Bearer TOKEN")
    SEVERAL = (401, "Unauthorized: there is more than one Authorization header")
    MALFORMED = (401, "Unauthorized: the Authorization header is not Bearer and an access token of ray-canary")
    UNKNOWN = (401, "Unauthorized: the access token is unknown, or revoked")
    EXPIRED = (401, "Unauthorized: the access token has expired")
    ELSEWHERE = (403, "Forbidden: the access token is for another Deployment")

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        self.sentence = sentence


class Token(BaseModel):
    """One token's record: all that is kept of it. Times are seconds since 1970, UTC.

    A record with anything else in it is refused: what this release doesn't know could be a restriction.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    id: Annotated[str, Field(pattern=f"^{_ID}$")]
    name: str
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$", repr=False)]
    deployments: Annotated[tuple[str, ...] | None, Field(strict=False)]
    created_at: float
    created_by: str
    expires_at: float | None

    @classmethod
    def of(cls, record: object) -> Self:
        """Read a record.

        Raises:
            ValueError: it is none. The message has nothing of the record in it.
        """
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            what = ", ".join(".".join(map(str, item["loc"])) or "record" for item in error.errors(include_input=False))
            raise ValueError(f"not the record of a token: {what}") from None

    def expired(self, now: float) -> bool:
        """Return whether it is of no use any more at the time `now`."""
        return self.expires_at is not None and now >= self.expires_at

    def covers(self, deployment: str) -> bool:
        """Return whether it is for this Deployment."""
        return self.deployments is None or deployment in self.deployments


def issue(
    name: str,
    deployments: Iterable[str] | None,
    created_at: float,
    created_by: str,
    expires_at: float | None = None,
    *,
    randomness: Callable[[int], bytes] = secrets.token_bytes,
) -> tuple[Token, str]:
    """Make a token: its record, and its text, which is nowhere else.

    `deployments` None is all of them, those to come too. `randomness` returns that many unpredictable bytes.
    """
    secret = base64.urlsafe_b64encode(randomness(_SECRET_BYTES)).rstrip(b"=")
    token = Token(
        id=randomness(_ID_BYTES).hex(),
        name=name,
        digest=_digest(secret),
        deployments=None if deployments is None else tuple(dict.fromkeys(deployments)),
        created_at=created_at,
        created_by=created_by,
        expires_at=expires_at,
    )
    return token, f"rct_{token.id}_{secret.decode()}"


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


#: Stands in for a token that isn't there, so that looking for one takes as long as comparing one.
_NOBODY: Final = Token(
    id="0" * 8, name="", digest="0" * 64, deployments=(), created_at=0, created_by="", expires_at=None
)


class Tokens:
    """All tokens of a cluster; immutable."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        """Take the records."""
        self._by_id = {token.id: token for token in tokens}

    def __len__(self) -> int:
        """Return how many there are, expired ones included."""
        return len(self._by_id)

    def check(self, values: Sequence[bytes], deployment: str, now: float) -> Verdict:
        """Judge the values of a request's Authorization headers, for `deployment`, at the time `now` (s since 1970).

        Only who has the secret learns that a token has expired or is another Deployment's. Digests are compared in
        constant time, and so is an unknown id's.
        """
        if not values:
            return Verdict.MISSING
        if len(values) > 1:
            return Verdict.SEVERAL
        match = _BEARER.fullmatch(values[0].strip(b" \t"))
        if match is None:
            return Verdict.MALFORMED
        token = self._by_id.get(match[1].decode(), _NOBODY)
        same = hmac.compare_digest(_digest(match[2]), token.digest)
        if not same or token is _NOBODY:
            return Verdict.UNKNOWN
        if token.expired(now):
            return Verdict.EXPIRED
        return Verdict.OK if token.covers(deployment) else Verdict.ELSEWHERE


def carries_token(value: bytes) -> bool:
    """Return whether a header's value has a token of ours in it, valid or not: a Bento is not to see it."""
    return _TRACE.search(value) is not None


def id_of(text: str) -> str | None:
    """Return the id that `text` names: itself an id, or a whole token, such as one that was found in a log."""
    match = _NAMED.fullmatch(text)
    return (match[1] or match[2]) if match else None


def lifetime(text: str) -> int | None:
    """Return seconds for `45m`, `12h`, `30d` or `4w`, and None for `never`.

    Raises:
        ValueError: it is none of these.
    """
    if text == "never":
        return None
    match = _LIFETIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time like 12h, 30d or 4w, nor `never`")
    return int(match[1]) * _SECONDS[match[2]]
