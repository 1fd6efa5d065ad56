"""Takes the values of secrets out of what a replica says: failures that it reports, and its log."""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

#: A shorter value stands in half of all texts by chance, and hiding it would hide where it stands.
SHORTEST: Final = 6
_HIDDEN: Final = "***"


class Redactor:
    """Replaces known values, and the usual ways to write them, in texts."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        spellings = {spelling for value in values for spelling in _spellings(value) if len(spelling) >= SHORTEST}
        # The longest first: of a value and a part of it, nothing may be left over.
        words = sorted(spellings, key=lambda spelling: (-len(spelling), spelling))
        self._known = re.compile("|".join(map(re.escape, words))) if words else None

    def __call__(self, text: str) -> str:
        """Return the text without the values."""
        return self._known.sub(_HIDDEN, text) if self._known else text

    def watch_logs(self) -> None:
        """Take the values out of every log record of this process from now on, whoever makes it."""
        make = logging.getLogRecordFactory()

        def without(*args: Any, **kwargs: Any) -> logging.LogRecord:
            return self.clean(make(*args, **kwargs))

        logging.setLogRecordFactory(without)

    def clean(self, record: logging.LogRecord) -> logging.LogRecord:
        """Take the values out of a log record, its exception included, and return it."""
        try:
            message = record.getMessage()
        except Exception:
            # A handler would print the arguments that don't fit, as they are.
            message = f"{record.msg!r} with arguments {record.args!r}"
            record.msg, record.args = self(message), None
        if (hidden := self(message)) != message:
            record.msg, record.args = hidden, None
        if record.exc_info and record.exc_info[0] is not None:
            trace = logging.Formatter().formatException(record.exc_info)
            if (hidden := self(trace)) != trace:
                # Formatters append `exc_text` as it is where there is no exception any more.
                record.exc_info, record.exc_text = None, hidden
        return record


def _spellings(value: str) -> Iterator[str]:
    """Yield a value, its lines, and how each is written inside quotes, JSON and URLs."""
    for text in (value, *(line.strip() for line in value.splitlines())):
        yield from (text, repr(text)[1:-1], json.dumps(text)[1:-1], quote(text, safe=""), quote(text), quote_plus(text))
