"""Who may ask: what a token is made of, and what is said of every request that comes without a right one."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary.tokens import Token, Tokens, Verdict, carries_token, id_of, issue, lifetime

NOW = 1_800_000_000.0
names = st.sampled_from(["summaries", "words", "a"])


def bearer(text: str) -> list[bytes]:
    return [f"Bearer {text}".encode()]


issued = st.builds(
    issue,
    name=st.text(max_size=20),
    deployments=st.none() | st.lists(names, min_size=1, max_size=3),
    created_at=st.floats(0, NOW),
    created_by=st.text(max_size=20),
    expires_at=st.none() | st.floats(NOW - 100, NOW + 100),
)

# What a token is. -----------------------------------------------------------------------------------------------------


def test_a_token_is_its_id_and_32_random_bytes_of_which_only_a_digest_is_kept() -> None:
    drawn: list[int] = []

    def randomness(count: int) -> bytes:
        drawn.append(count)
        return bytes(range(count))

    token, text = issue("shop", ["summaries", "summaries"], NOW, "me", None, randomness=randomness)
    assert sorted(drawn) == [4, 32]
    assert text == "rct_00010203_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    secret = text.removeprefix("rct_00010203_")
    assert token.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert (token.id, token.deployments, token.created_at) == ("00010203", ("summaries",), NOW)


@given(issued)
def test_a_record_survives_json_and_holds_nothing_of_the_secret(made: tuple[Token, str]) -> None:
    token, text = made
    secret = text.split("_", 2)[2]
    kept = json.dumps(token.model_dump(mode="json"))
    assert secret not in kept
    assert secret not in repr(token)
    assert token.digest not in repr(token)
    assert Token.of(json.loads(kept)) == token


def test_no_two_tokens_are_alike() -> None:
    made = [issue("", None, NOW, "me") for _ in range(100)]
    assert len({text for _, text in made}) == len({token.id for token, _ in made}) == 100


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        "text",
        {"more": 1},
        {"digest": "5ecret"},
        {"expires_at": "5ecret"},
        {"deployments": "5ecret"},
        {"id": "5ecret"},
    ],
)
def test_a_record_that_is_none_is_refused_without_a_word_of_what_is_in_it(record: object) -> None:
    token, _ = issue("shop", None, NOW, "me")
    whole = {**token.model_dump(mode="json"), **record} if isinstance(record, dict) and len(record) == 1 else record
    with pytest.raises(ValueError, match="not the record of a token") as raised:
        Token.of(whole)
    assert "5ecret" not in str(raised.value)


# The verdict. ---------------------------------------------------------------------------------------------------------


@given(issued, names)
def test_a_token_counts_for_its_deployments_until_it_expires(made: tuple[Token, str], deployment: str) -> None:
    token, text = made
    verdict = Tokens([token]).check(bearer(text), deployment, NOW)
    if token.expires_at is not None and token.expires_at <= NOW:
        assert verdict is Verdict.EXPIRED
    elif token.deployments is not None and deployment not in token.deployments:
        assert verdict is Verdict.ELSEWHERE
    else:
        assert verdict is Verdict.OK


@given(st.lists(issued, max_size=5, unique_by=lambda made: made[0].id), st.data())
def test_any_other_secret_is_unknown_whatever_else_is_true_of_the_token(
    made: list[tuple[Token, str]], data: st.DataObject
) -> None:
    there = Tokens([token for token, _ in made])
    ids = [token.id for token, _ in made] + ["00000000"]
    secret = data.draw(st.text("ABCabc019-_", min_size=43, max_size=43))
    text = f"rct_{data.draw(st.sampled_from(ids))}_{secret}"
    assert there.check(bearer(text), "summaries", NOW) is Verdict.UNKNOWN


@given(issued, st.integers(0, 42))
def test_a_secret_with_one_other_character_is_unknown(made: tuple[Token, str], place: int) -> None:
    token, text = made
    at = len("rct_00000000_") + place
    changed = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
    assert Tokens([token]).check(bearer(changed), "summaries", NOW) is Verdict.UNKNOWN


@given(st.binary(max_size=200))
def test_no_value_of_the_header_raises_and_none_but_a_token_gets_in(value: bytes) -> None:
    token, _ = issue("", None, NOW, "me")
    assert Tokens([token]).check([value], "summaries", NOW) in (Verdict.MALFORMED, Verdict.UNKNOWN)


TOKEN, TEXT = issue("", None, NOW, "me")


@pytest.mark.parametrize("value", [f"Bearer {TEXT}", f"bearer {TEXT}", f"BEARER   {TEXT}", f" Bearer {TEXT}\t"])
def test_the_scheme_has_no_case_and_space_around_it_means_nothing(value: str) -> None:
    assert Tokens([TOKEN]).check([value.encode()], "summaries", NOW) is Verdict.OK


@pytest.mark.parametrize(
    "value",
    [
        "",
        TEXT,
        f"Bearer{TEXT}",
        f"Bearer {TEXT}\n",
        f"Bearer {TEXT}, Bearer {TEXT}",
        f"Bearer {TEXT}A",
        f"Bearer {TEXT[:-1]}",
        f"Bearer {TEXT.upper()}",
        f"Bearer\t{TEXT}",
        f"Basic {TEXT}",
        f'Bearer "{TEXT}"',
        "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x",
    ],
)
def test_anything_else_is_malformed(value: str) -> None:
    assert Tokens([TOKEN]).check([value.encode()], "summaries", NOW) is Verdict.MALFORMED


def test_no_header_is_missing_and_two_are_too_many_even_if_one_is_right() -> None:
    there = Tokens([TOKEN])
    assert there.check([], "summaries", NOW) is Verdict.MISSING
    assert there.check(bearer(TEXT) * 2, "summaries", NOW) is Verdict.SEVERAL
    assert there.check([b"Basic x", *bearer(TEXT)], "summaries", NOW) is Verdict.SEVERAL


def test_whom_nobody_knows_costs_a_comparison_too(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    Tokens([]).check(bearer(TEXT), "summaries", NOW)
    Tokens([TOKEN]).check(bearer(TEXT), "summaries", NOW)
    assert [len(one) == len(other) == 64 for one, other in compared] == [True, True]


def test_every_refusal_has_a_status_and_a_sentence_of_its_own() -> None:
    refusals = [verdict for verdict in Verdict if verdict is not Verdict.OK]
    assert {verdict.status for verdict in refusals} == {401, 403}
    assert len({verdict.sentence for verdict in refusals}) == len(refusals) == 6


# What else is read of a token. ----------------------------------------------------------------------------------------


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_token_is_found_in_any_value_of_a_header(before: bytes, after: bytes) -> None:
    assert carries_token(before + TEXT.encode() + after)


@pytest.mark.parametrize("value", [b"", b"Bearer eyJ.e30.x", b"Basic cmN0Xw==", b"Bearer rct_", b"Bearer rct_xyz"])
def test_what_is_no_token_of_ours_is_the_bentos(value: bytes) -> None:
    assert not carries_token(value)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("0123abcd", "0123abcd"),
        (TEXT, TOKEN.id),
        (f"rct_{TOKEN.id}", TOKEN.id),
        ("0123ABCD", None),
        ("0123abcde", None),
        ("", None),
        ("rct_0123", None),
        (f"{TOKEN.id} ", None),
    ],
)
def test_a_token_is_named_by_its_id_or_by_itself(text: str, known: str | None) -> None:
    assert id_of(text) == known


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("never", None), ("30s", 30), ("45m", 2700), ("12h", 43_200), ("30d", 2_592_000), ("4w", 2_419_200)],
)
def test_a_lifetime_is_read(text: str, seconds: int | None) -> None:
    assert lifetime(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1.5d", "1 d", "1y", "Never", "01d", "9999999d", "١d"])
def test_what_is_no_lifetime_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time like 12h"):
        lifetime(text)
