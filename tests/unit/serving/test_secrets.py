"""Secrets on a node: what is found, what is refused and how, and where a Bento finds it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_canary.plan import SecretPlan
from ray_canary.serving.secrets import Found, SecretUnusable, look_up

NODE = "10.1.2.3"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


@pytest.fixture
def environment() -> Iterator[None]:
    """Put the process's environment back afterwards."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def secret(name: str, *keys: str, type: str = "env", path: str | None = None) -> SecretPlan:
    return SecretPlan.model_validate({"name": name, "type": type, "keys": keys, "path": path})


def write(root: Path, name: str, **values: str | bytes) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for key, value in values.items():
        (folder / key).write_bytes(value.encode() if isinstance(value, str) else value)
    return folder


def found(root: Path, *wanted: SecretPlan, **node: str) -> Found:
    return look_up(wanted, {"RAY_CANARY_SECRETS_DIR": str(root), **node}, NODE)


def refusal(root: Path, *wanted: SecretPlan, **node: str) -> str:
    with pytest.raises(SecretUnusable) as raised:
        found(root, *wanted, **node)
    return str(raised.value)


# Environment variables. -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("plain", "plain"),
        ("plain\n", "plain"),
        ("two\n\n", "two\n"),
        ("", ""),
        ("\n", ""),
        ("one\ntwo\n", "one\ntwo"),
        (" spaces and\ttabs ", " spaces and\ttabs "),
        ("$HOME 'x' \"y\" \\n {z} %s é 日\r\n", "$HOME 'x' \"y\" \\n {z} %s é 日\r"),
    ],
)
def test_a_file_becomes_a_variable_with_its_content_less_one_newline_at_the_end(
    root: Path, content: str, value: str
) -> None:
    write(root, "db", KEY=content)
    assert found(root, secret("db")).envs == {"KEY": value}


def test_a_kubernetes_mount_is_read_through_its_links(root: Path) -> None:
    real = write(root, "db/..2026_01_01", USER="u", PASSWORD="p")
    (root / "db" / "..data").symlink_to(real.name)
    for key in ("USER", "PASSWORD"):
        (root / "db" / key).symlink_to(f"..data/{key}")
    (root / "db" / "folder").mkdir()
    assert found(root, secret("db")).envs == {"PASSWORD": "p", "USER": "u"}


def test_keys_choose_what_is_taken_and_the_folder_wins_over_the_nodes_environment(root: Path) -> None:
    write(root, "db", A="folder", B="folder", **{"tls.crt": "not a variable"})
    assert found(root, secret("db", "A"), A="node").envs == {"A": "folder"}


def test_without_a_folder_the_declared_keys_are_the_nodes_variables(root: Path) -> None:
    assert found(root, secret("db", "A", "B"), A="1", B="2\n", C="3").envs == {"A": "1", "B": "2\n"}


def test_of_two_secrets_with_one_key_the_later_wins(root: Path) -> None:
    write(root, "x", A="x", X="x")
    write(root, "y", A="y")
    assert found(root, secret("x"), secret("y")).envs == {"A": "y", "X": "x"}
    assert found(root, secret("y"), secret("x")).envs == {"A": "x", "X": "x"}


def test_no_secrets_need_no_folder(root: Path) -> None:
    assert found(root) == Found({}, {}, ())


def test_the_default_folder_is_that_of_kubernetes_mounts() -> None:
    with pytest.raises(SecretUnusable, match="there is no folder /etc/ray-canary/secrets/surely-not-there"):
        look_up([secret("surely-not-there")], {}, NODE)


# What can't be used, in one sentence that says which, where and what to do. -------------------------------------------


def test_a_secret_that_is_not_there_is_named_with_its_node_and_folder(root: Path) -> None:
    assert refusal(root, secret("db")) == (
        f"Secret 'db' can't be used on node 10.1.2.3: there is no folder {root}/db. "
        "What to do: mount the secret there, with a file for each key. "
        "Secrets are looked up in $RAY_CANARY_SECRETS_DIR of the node, by default /etc/ray-canary/secrets."
    )
    assert f"there is no folder {root}/db" in refusal(root, secret("db", type="file"))


def test_a_declared_key_that_is_nowhere_is_named(root: Path) -> None:
    said = refusal(root, secret("db", "A", "B"), A="the value of A")
    assert f"there is neither a folder {root}/db nor an environment variable B" in said
    assert "the value of A" not in said
    write(root, "db", A="the value of A")
    said = refusal(root, secret("db", "A", "B"), B="not asked")
    assert f"{root}/db has no B, but A." in said
    assert "the value" not in said


@pytest.mark.parametrize(
    ("key", "content", "why"),
    [
        ("tls.crt", b"x", "its key tls.crt in {} is not the name of a variable"),
        ("BENTOML_HOME", b"x", "its key BENTOML_HOME in {} is reserved for the replica's host"),
        ("RAY_CANARY_SECRETS_DIR", b"x", "is reserved"),
        ("KEY", b"\xff\xfe", "{}/KEY is not text in UTF-8"),
        ("KEY", b"nul\0nul", "{}/KEY has a NUL byte"),
    ],
)
def test_what_can_not_be_a_variable_is_refused_without_its_value(
    root: Path, key: str, content: bytes, why: str
) -> None:
    folder = write(root, "db", **{key: content})
    said = refusal(root, secret("db"))
    assert why.format(folder) in said
    assert "type: file" in said
    assert "nul" not in said


def test_what_can_not_be_read_is_named(root: Path) -> None:
    (write(root, "db") / "KEY").symlink_to("KEY")
    assert found(root, secret("db")).envs == {}, "a link to itself is no file"


# Files. ---------------------------------------------------------------------------------------------------------------


def home_of(tmp_path: Path) -> Path:
    home = tmp_path / "bentoml"
    (home / "bentos" / "b").mkdir(parents=True)
    (home / "app").mkdir()
    (home / "app" / "settings").write_text("x")
    return home


@pytest.mark.usefixtures("environment")
def test_the_files_are_links_in_a_home_of_the_replicas_own_beside_links_to_the_real_one(
    root: Path, tmp_path: Path
) -> None:
    home = home_of(tmp_path)
    write(root, "cert", **{"tls.crt": "certificate"})
    write(root, "deep", key="key")
    os.environ["BENTOML_HOME"] = str(home)
    wanted = secret("cert", type="file", path="certs"), secret("deep", type="file", path="app/inner/deep")
    homes = []
    for replica in ("one", "two"):
        own = tmp_path / replica
        own.mkdir()
        os.environ["BENTOML_HOME"] = str(home)
        found(root, *wanted).use(own, frozenset())
        homes.append(Path(os.environ["BENTOML_HOME"]))
    for own in homes:
        assert (own / "certs" / "tls.crt").read_text() == "certificate"
        assert (own / "app" / "inner" / "deep" / "key").read_text() == "key"
        assert (own / "app" / "settings").read_text() == "x"
        assert (own / "bentos" / "b").is_dir()
        (own / "models" / own.parent.name).mkdir()
        assert not any(path.is_file() and not path.is_symlink() for path in own.rglob("*") if path.parent == own)
    assert homes[0] != homes[1]
    assert sorted(path.name for path in home.iterdir()) == ["app", "bentos", "models"], "the real home has no secret"
    assert sorted(path.name for path in (home / "models").iterdir()) == ["one", "two"], "what it downloads is kept"


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("path", ["app", "app/settings"])
def test_a_place_that_is_taken_is_refused(root: Path, tmp_path: Path, path: str) -> None:
    home = home_of(tmp_path)
    write(root, "cert", key="key")
    os.environ["BENTOML_HOME"] = str(home)
    with pytest.raises(SecretUnusable, match=f"there is {home}/{path}. Choose another path"):
        found(root, secret("cert", type="file", path=path)).use(tmp_path, frozenset())


@pytest.mark.usefixtures("environment")
def test_variables_win_over_the_processes_own_but_not_over_those_of_the_deployment_file(root: Path) -> None:
    write(root, "db", A="secret", B="secret")
    os.environ |= {"A": "node", "B": "file", "BENTOML_HOME": "/here"}
    found(root, secret("db")).use(root, frozenset({"B"}))
    assert (os.environ["A"], os.environ["B"], os.environ["BENTOML_HOME"]) == ("secret", "file", "/here")


def test_all_values_are_known_for_hiding_and_none_is_shown(root: Path) -> None:
    write(root, "db", A="value-of-a")
    write(root, "cert", text="value-of-text\n", binary=b"\xff")
    both = found(root, secret("db"), secret("cert", type="file", path="c"), secret("n", "N"), N="value-of-n")
    assert set(both.values) == {"value-of-a", "value-of-text\n", "value-of-n"}
    assert "value" not in f"{both!r} {both} {[both]}"
