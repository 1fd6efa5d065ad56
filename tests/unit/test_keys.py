"""Where a request's routing key stands, and what counts as one."""

from urllib.parse import parse_qsl, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_canary.keys import header_key, query_key

# Headers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"x-other", b"u1")], None),
        ([(b"x-user-id", b"u1")], b"u1"),
        ([(b"x-other", b"u0"), (b"x-user-id", b"u1")], b"u1"),
        ([(b"x-user-id", b"u1"), (b"x-user-id", b"u2")], b"u1"),
        ([(b"x-user-id", b""), (b"x-user-id", b"u2")], None),
        ([(b"x-user-id", b"")], None),
        ([(b"x-user-id", b"   ")], None),
        ([(b"x-user-id", b"  u 1\t")], b"u 1"),
        ([(b"x-user-id", b"J\xfcrgen")], b"J\xfcrgen"),
        ([(b"x-user-id", "Jürgen".encode())], "Jürgen".encode()),
        ([(b"x-user-id", b"a%20b+c")], b"a%20b+c"),
        ([(b"x-user-id", b"u1, u2")], b"u1, u2"),
    ],
)
def test_the_header_key_is_the_first_value_without_the_space_around_it(
    headers: list[tuple[bytes, bytes]], key: bytes | None
) -> None:
    assert header_key(headers, b"x-user-id") == key


def test_a_header_key_may_have_10_kb() -> None:
    assert header_key([(b"x-user-id", b"u" * 10_240)], b"x-user-id") == b"u" * 10_240


# Query parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (b"", None),
        (b"&&&", None),
        (b"other=1", None),
        (b"feature=test", b"test"),
        (b"other=1&feature=test", b"test"),
        (b"feature=one&feature=two", b"one"),
        (b"feature=&feature=two", None),
        (b"feature&feature=two", None),
        (b"feature=", None),
        (b"feature", None),
        (b"feature==", b"="),
        (b"feature=a=b", b"a=b"),
        (b"Feature=test", None),
        (b"features=test", None),
        (b"%66eature=test", b"test"),
        (b"feature=a%20b", b"a b"),
        (b"feature=a+b", b"a b"),
        (b"feature=a%2Bb", b"a+b"),
        (b"feature=%26%3D", b"&="),
        (b"feature=%C3%BC", "ü".encode()),
        (b"feature=%c3%bc", "ü".encode()),
        (b"feature=\xc3\xbc", "ü".encode()),
        (b"feature=%FF%00", b"\xff\x00"),
        (b"feature=100%", b"100%"),
        (b"feature=%zz", b"%zz"),
        (b"feature=%2", b"%2"),
        (b"feature=%2525", b"%25"),
        (b"a;feature=x", None),
    ],
)
def test_the_query_key_is_the_first_value_percent_decoded(query: bytes, key: bytes | None) -> None:
    assert query_key(query, b"feature") == key


def test_a_query_key_may_have_10_kb() -> None:
    assert query_key(b"feature=" + b"%41" * 10_240, b"feature") == b"A" * 10_240


@pytest.mark.parametrize("query", [b"gr%C3%B6%C3%9Fe=9", "größe=9".encode()])
def test_the_name_of_a_parameter_may_be_percent_encoded_utf_8(query: bytes) -> None:
    assert query_key(query, "größe".encode()) == b"9"


def test_a_plus_in_a_name_is_a_space_even_where_the_name_itself_has_a_plus() -> None:
    assert query_key(b"a+b=1&a%2Bb=2", b"a+b") == b"2"
    assert query_key(b"a+b=1&a%2Bb=2", b"a b") == b"1"


def first_by_parse_qsl(query: bytes, name: bytes) -> bytes | None:
    """Return what the standard library finds; latin-1 carries every byte through its text unharmed."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    values = (value for key, value in pairs if key.encode("latin-1") == name)
    return next(values, "").encode("latin-1") or None


NAMES = [b"f", b"f+", b"+", b" ", b"%66", b"ff"]
SPELLINGS = [*NAMES, b"F", b"f%2B", b"f%2b", b"%2B", b"%20", b"%2566"]
PAIRS = st.lists(
    st.builds(b"%s%s%s".__mod__, st.tuples(st.sampled_from(SPELLINGS), st.sampled_from([b"=", b""]), st.binary()))
)
TRICKY = st.lists(st.sampled_from([b"f", b"F", b"%66", b"=", b"&", b"+", b"%", b"%2B", b"%3d", b" ", b"\xff", b"%00"]))


@settings(max_examples=500)
@given(st.one_of(PAIRS.map(b"&".join), TRICKY.map(b"".join), st.binary()), st.sampled_from(NAMES))
def test_a_query_key_is_what_parse_qsl_finds_first_in_any_query(query: bytes, name: bytes) -> None:
    assert query_key(query, name) == first_by_parse_qsl(query, name)


@given(st.lists(st.tuples(st.text(min_size=1), st.text())), st.text(min_size=1), st.text(min_size=1))
def test_a_key_of_any_text_comes_out_as_its_utf_8_bytes(others: list[tuple[str, str]], name: str, key: str) -> None:
    before = [(other, value) for other, value in others if other != name]
    query = "&".join(f"{quote_plus(n)}={quote_plus(v)}" for n, v in [*before, (name, key), (name, "second")])
    assert query_key(query.encode(), name.encode()) == key.encode()
