"""Values of secrets are taken out of texts and log records, however they are written there."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from ray_canary.serving.failures import describe, find
from ray_canary.serving.redaction import Redactor

KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n/kqhkiG9w0B+Q=\n-----END KEY-----\n"


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger and what it writes; log records are made as usual again afterwards."""
    factory = logging.getLogRecordFactory()
    text = io.StringIO()
    logger = logging.Logger("bento")
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    yield logger, text
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize("value", ["s3cr3t", "p'a\"ss\\word", "päss wörd/+&=%", "a.b*c(d)[e]", KEY])
def test_a_value_is_hidden_as_it_is_and_inside_quotes_json_and_urls(value: str) -> None:
    hide = Redactor(["other-value", value])
    for written in (value, repr(value), json.dumps({"k": value}), f"https://u:{quote(value, safe='')}@h", quote(value)):
        hidden = hide(f"before {written} after")
        assert "***" in hidden
        assert hidden.startswith("before ")
        assert hidden.endswith(" after")
        assert value not in hidden
        assert not any(line in hidden for line in value.splitlines())


def test_each_line_of_a_value_of_several_lines_is_hidden() -> None:
    assert Redactor([KEY])("wrong base64: MIIEvQIBADANBg") == "wrong base64: ***"


def test_of_a_value_that_begins_with_another_nothing_is_left() -> None:
    assert Redactor(["password", "password-2026", "2026-x"])("is password-2026!") == "is ***!"


@pytest.mark.parametrize("values", [[], [""], ["short"], ["\n", "a\nb"]])
def test_what_is_too_short_to_be_told_from_other_words_is_left(values: list[str]) -> None:
    text = "a short text\nwith two lines, a and b"
    assert Redactor(values)(text) == text


def test_a_failure_is_described_without_the_values() -> None:
    def connect() -> None:
        raise ConnectionError("no answer from postgres://u:hunter2!!@db") from ValueError("hunter2!!")

    with pytest.raises(ConnectionError) as caught:
        connect()
    text = describe("s:1", "S", caught.value, Redactor(["hunter2!!"]))
    assert "hunter2!!" not in text
    found = find(text)
    assert found is not None
    assert found.endswith("ConnectionError: no answer from postgres://u:***@db")


def test_messages_arguments_and_exceptions_are_logged_without_the_values(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, text = log
    Redactor(["hunter2!!"]).watch_logs()
    logger.warning("as text: hunter2!!")
    logger.warning("as %s of %d", "hunter2!!", 2)
    try:
        raise ValueError("in an exception: hunter2!!")
    except ValueError:
        logger.exception("raised with %s", "nothing else")
    logger.warning("that don't fit: %d", "hunter2!!")
    said = text.getvalue()
    assert "hunter2!!" not in said
    assert "WARNING as text: ***\nWARNING as *** of 2\nERROR raised with nothing else\nTraceback" in said
    assert "ValueError: in an exception: ***" in said
    assert "that don't fit: %d" in said


def test_records_with_nothing_to_hide_stay_as_they_are(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, text = log
    hide = Redactor(["hunter2!!"])
    try:
        raise KeyError("k")
    except KeyError:
        exception = sys.exc_info()
    record = logger.makeRecord("bento", logging.ERROR, __file__, 1, "%s of %s", ("one", "two"), exception)
    assert hide.clean(record) is record
    assert (record.msg, record.args, record.exc_info, record.exc_text) == ("%s of %s", ("one", "two"), exception, None)
    assert logger.makeRecord("bento", 10, "f", 1, "none", (), (None, None, None)).exc_text is None
    assert text.getvalue() == ""
