"""Whether a request may come in, and which version it may ask for by hand; the tokens that this goes by.

The tokens are records in the cluster's store. Every ingress replica reads them in the background, so that one that was
created or revoked counts within a second on each of them, and no request ever waits for the store.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from ray_canary.legal import show
from ray_canary.serving.http import Refused
from ray_canary.serving.settings import IngressSettings
from ray_canary.serving.store import GcsStore, Record
from ray_canary.serving.wire import HeaderList
from ray_canary.tokens import Token, Tokens, Verdict

logger = logging.getLogger("ray.serve")

#: What the keys of all tokens in the store begin with.
PREFIX: Final = "token/"
#: Seconds between two looks at the tokens.
READ_EVERY_S: Final = 0.4
#: Seconds that a new ingress replica waits at most for its first look before it takes requests.
FIRST_READ_S: Final = 3.0

VERSION_HEADER: Final = b"x-bento-version"
_AUTHORIZATION: Final = b"authorization"

Records = Mapping[str, Record]


class TokenWatch:
    """The tokens as of a moment ago, in one ingress replica."""

    def __init__(self, read: Callable[[], Records] | None = None, every_s: float = READ_EVERY_S) -> None:
        """Read with `read`, which may block for some seconds, every `every_s` seconds."""
        self._read = read or _read_gcs
        self._every_s = every_s
        self._records: Records | None = None
        self._tokens: Tokens | None = None
        self._failing = False
        self._first = asyncio.Event()

    def tokens(self) -> Tokens | None:
        """Return the tokens that were known last; None if none were ever read."""
        return self._tokens

    async def first(self, at_most_s: float = FIRST_READ_S) -> None:
        """Wait until the tokens have been read once, or the time is over."""
        try:
            await asyncio.wait_for(self._first.wait(), at_most_s)
        except TimeoutError:
            logger.warning("The access tokens were not read within %g s.", at_most_s)

    async def run(self) -> None:
        """Read for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Read once. What can't be read leaves the last known tokens in force."""
        try:
            records = await asyncio.to_thread(self._read)
        except Exception as error:
            if not self._failing:
                logger.error("The access tokens can't be read, and the last known stay in force: %r", error)
            self._failing = True
            return
        if self._failing:
            logger.info("The access tokens can be read again.")
        self._failing = False
        if records != self._records:
            self._records = records
            self._tokens = Tokens(_tokens(records))
        self._first.set()


def _tokens(records: Records) -> list[Token]:
    found = []
    for key, record in records.items():
        try:
            token = Token.of(record)
        except ValueError as error:
            logger.error("%s is ignored: %s.", key, error)
            continue
        found.append(token)
    return found


def _read_gcs() -> Records:
    return GcsStore.here().items(PREFIX)


class Gate:
    """Decides by a request's headers alone, before anything of its body is read."""

    def __init__(self, tokens: Callable[[], Tokens | None], clock: Callable[[], float] = time.time) -> None:
        """Go by what `tokens` returns at the time that `clock` says, in seconds since 1970."""
        self._tokens = tokens
        self._clock = clock

    def admit(self, headers: HeaderList, settings: IngressSettings, targets: Collection[str]) -> str | None:
        """Return the version that a request asks for by hand, or None if it leaves that to the split.

        Asking for a version takes a token whatever `access_authorization` says, and without one nobody learns which
        versions there are.

        Raises:
            Refused: 401 or 403 for want of a token; 503 while the tokens are unknown; 400 or 404 for a version that
                is asked for wrongly.
        """
        asked = [value for name, value in headers if name == VERSION_HEADER]
        if settings.access_authorization or asked:
            self._check(headers, settings.deployment)
        if not asked:
            return None
        if len(asked) > 1:
            raise Refused(400, "Bad Request: there is more than one X-Bento-Version header")
        version = asked[0].strip().decode("latin-1")
        if version not in targets:
            there = ", ".join(targets)
            message = f"{show(version)} is not a version of Deployment {settings.deployment}; there are {there}"
            raise Refused(404, f"Not Found: {message}")
        return version

    def _check(self, headers: HeaderList, deployment: str) -> None:
        tokens = self._tokens()
        if tokens is None:
            raise Refused(503, "Service Unavailable: the access tokens have not been read yet")
        given = [value for name, value in headers if name == _AUTHORIZATION]
        verdict = tokens.check(given, deployment, self._clock())
        if verdict is not Verdict.OK:
            challenge = [(b"www-authenticate", b"Bearer")] if verdict.status == 401 else []
            raise Refused(verdict.status, verdict.sentence, challenge)
