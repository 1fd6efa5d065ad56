"""Access tokens for Python callers and the shell: what is created, listed, and taken back."""

from typing import Any

import pytest
from click.testing import CliRunner, Result

from ray_canary import access, screens
from ray_canary.access import Keeper
from ray_canary.cli import cli
from ray_canary.errors import ClusterError, ConfigError, NotFound
from ray_canary.token_commands import token
from ray_canary.tokens import Tokens, Verdict
from tests.unit.memory_store import MemoryStore

NOW = 1_800_000_000.0


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def keeper(store: MemoryStore) -> Keeper:
    return Keeper(store, lambda: NOW)


def check(keeper: Keeper, text: str, deployment: str = "summaries", now: float = NOW) -> Verdict:
    return Tokens(keeper.all()).check([f"Bearer {text}".encode()], deployment, now)


def test_a_token_is_kept_as_a_digest_and_counts(keeper: Keeper, store: MemoryStore) -> None:
    issued = keeper.create("shop", ("summaries",), 60)
    (kept,) = store.texts.items()
    assert kept[0] == f"token/{issued.token.id}"
    assert issued.text.split("_", 2)[2] not in kept[1]
    assert issued.text not in repr(issued)
    assert check(keeper, issued.text) is Verdict.OK
    assert check(keeper, issued.text, "others") is Verdict.ELSEWHERE
    assert check(keeper, issued.text, now=NOW + 59.9) is Verdict.OK
    assert check(keeper, issued.text, now=NOW + 60) is Verdict.EXPIRED


def test_a_token_without_an_end_never_expires(keeper: Keeper) -> None:
    issued = keeper.create("", None, None)
    assert check(keeper, issued.text, "any", NOW * 2) is Verdict.OK


def test_tokens_are_listed_oldest_first(store: MemoryStore) -> None:
    made = [Keeper(store, lambda at=at: at).create("", None, None).token for at in (3.0, 1.0, 2.0)]  # type: ignore[misc]
    assert Keeper(store).all() == [made[1], made[2], made[0]]


def test_a_record_that_is_none_is_passed_over(keeper: Keeper, store: MemoryStore) -> None:
    issued = keeper.create("", None, None)
    store.put("token/ffffffff", {"id": "ffffffff"})
    assert keeper.all() == [issued.token]


def test_a_revoked_token_is_unknown_and_the_others_stay(keeper: Keeper) -> None:
    first, second, third = (keeper.create("", None, None) for _ in range(3))
    assert keeper.revoke([first.token.id, second.text]) == [first.token, second.token]
    assert [check(keeper, one.text) for one in (first, second, third)] == [Verdict.UNKNOWN] * 2 + [Verdict.OK]


def test_an_unknown_id_is_told_with_the_nearest_and_the_known_ones_are_revoked(keeper: Keeper) -> None:
    first, second = (keeper.create("", None, None) for _ in range(2))
    near = first.token.id[:-1] + ("0" if first.token.id[-1] != "0" else "1")
    with pytest.raises(NotFound) as raised:
        keeper.revoke([near, second.token.id])
    told = str(raised.value).splitlines()
    assert told[0].startswith(f"The cluster has no token '{near}'")
    assert told[1] == f"Revoked: {second.token.id}"
    assert keeper.all() == [first.token]
    with pytest.raises(NotFound, match=f"did you mean '{first.token.id}'"):
        keeper.revoke([near])


def test_what_is_no_id_is_not_repeated_since_it_may_be_a_secret(keeper: Keeper) -> None:
    issued = keeper.create("", None, None)
    secret = issued.text.split("_", 2)[2]
    with pytest.raises(NotFound, match="not the id of a token") as raised:
        keeper.revoke([secret])
    assert secret not in str(raised.value)
    assert keeper.all() == [issued.token]


def test_revoking_where_there_is_none_says_so(keeper: Keeper) -> None:
    with pytest.raises(NotFound, match="no token '00000000'; there is none"):
        keeper.revoke(["00000000"])


class Crowded(MemoryStore):
    """Has every id already."""

    def add(self, key: str, record: Any) -> bool:
        return False


def test_a_token_never_takes_the_place_of_another() -> None:
    with pytest.raises(ClusterError, match="No id for a token is free"):
        Keeper(Crowded()).create("", None, None)


def test_a_store_that_does_not_answer_is_a_cluster_error(keeper: Keeper, store: MemoryStore) -> None:
    keeper.create("", None, None)
    store.broken = RuntimeError("rpc failed")
    for ask in (lambda: keeper.create("", None, None), keeper.all, lambda: keeper.revoke(["00000000"])):
        with pytest.raises(ClusterError, match=r"GCS, which keeps access tokens, doesn't answer"):
            ask()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": "x" * 101}, "name: "),
        ({"name": "two\nlines"}, "name: "),
        ({"deployments": []}, "deployments: is empty; leave it out for a token for all Deployments"),
        ({"deployments": ["Summaries"]}, 'deployment: "Summaries" is not a name of 1 to 63'),
        ({"deployments": ["ok", "d-main"]}, "deployment: "),
        ({"expires_in": 0}, "expires_in: 0 is not a number of seconds above 0"),
        ({"expires_in": -1.5}, "expires_in: -1.5 is not"),
        ({"expires_in": float("inf")}, "expires_in: "),
        ({"expires_in": float("nan")}, "expires_in: "),
    ],
)
def test_what_is_not_legal_is_refused_before_the_cluster_is_asked(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        access.create_token(**wrong, address="http://127.0.0.1:9")
    assert str(raised.value).startswith(told)


# The shell, as far as it needs no cluster. --------------------------------------------------------------------------

#: Nobody answers there.
NOWHERE = "http://127.0.0.1:9"


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["token", *arguments], prog_name="ray-canary")
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--expires", "soon"], "Error: --expires: 'soon' is not a time like 12h, 30d or 4w, nor `never`"),
        (["--deployment", "Summaries"], 'Error: deployment: "Summaries" is not a name of 1 to 63'),
        (["--name", "a\nb"], "Error: name: "),
    ],
)
def test_a_token_that_is_asked_for_wrongly_is_refused_before_the_cluster_is_asked(
    arguments: list[str], told: str
) -> None:
    assert run("create", *arguments, "--address", NOWHERE, code=2).stderr.startswith(told)


@pytest.mark.parametrize("arguments", [["create"], ["list"], ["revoke", "0123abcd"]])
def test_a_cluster_that_does_not_answer_is_told(arguments: list[str]) -> None:
    assert "No Ray cluster answers at http://127.0.0.1:9" in run(*arguments, "--address", NOWHERE, code=1).stderr


@pytest.mark.parametrize("command", ["create", "list", "revoke"])
def test_every_command_and_every_option_of_it_is_described(command: str) -> None:
    said = run(command, "--help").stdout
    assert said.startswith(f"Usage: ray-canary token {command} ")
    for parameter in token.commands[command].params:
        if parameter.param_type_name == "option":
            assert parameter.to_info_dict()["help"], parameter.name
            assert parameter.opts[0] in said


def test_a_list_shows_names_as_they_are_and_no_digest(keeper: Keeper, capsys: pytest.CaptureFixture[str]) -> None:
    lasting = keeper.create("[red]shop[/red]", None, None, "me@here").token
    short = keeper.create("", ("summaries", "words"), 60).token
    screens.tokens([lasting, short], NOW + 60)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == [lasting.id, "[red]shop[/red]", "all", "2027-01-15T08:00:00Z", "me@here", "never", "no"]
    assert lines[2][:5] == [short.id, "-", "summaries,", "words", "2027-01-15T08:00:00Z"]
    assert lines[2][-2:] == ["2027-01-15T08:01:00Z", "yes"]
    assert lasting.digest not in str(lines)
