"""A Bento's requirements: how they are read, and how they compare with an environment."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ray_canary import config, edits, requirements
from ray_canary.bentos import BentoStore
from ray_canary.errors import PlanError
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.requirements import HELD, PYTHON, Difference, Environment, Requirements, differences, read
from ray_canary.resolving import resolve
from ray_canary.serving import compile
from tests.unit.bento_store import write_bento

LOCK = """\
--index-url https://@PUBLIC@/simple
--extra-index-url https://me:hunter2@wheels.example.com/simple

bentoml==1.4.39
humanize==4.8.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via service.py
Starlette==1.0.0  # a comment
tomli==2.0.0 ; python_version < "3.11"
torch==2.3.0
""".replace("@PUBLIC@", ".".join(("pypi", "org")))


def environment(**versions: str) -> Environment:
    installed = {name.replace("_", "-"): version for name, version in versions.items()}
    markers = {"python_version": "3.11", "python_full_version": "3.11.7", "sys_platform": "linux", "extra": ""}
    return Environment("3.11.7", installed.get, markers, {"numpy": {"ray-canary": SpecifierSet(">=1.26")}})


def compared(text: str, **versions: str) -> list[tuple[str, str, str | None]]:
    found = differences(read(text), "", environment(**versions))
    return [(one.package, one.wanted, one.here) for one in found]


def test_a_lock_is_read_with_its_options_comments_markers_and_hashes() -> None:
    found = read(LOCK)
    assert [one.name for one in found.wanted] == ["bentoml", "humanize", "starlette", "tomli", "torch"]
    assert found.locked
    assert found.unread == ()
    assert found.to_install() == (
        "humanize==4.8.0 --hash=sha256:aa --hash=sha256:bb",
        'tomli==2.0.0 ; python_version < "3.11"',
        "torch==2.3.0",
    )


def test_what_differs_is_named_with_what_is_here_and_markers_count() -> None:
    here = {"bentoml": "1.4.39", "humanize": "4.8.0", "starlette": "1.1.0"}
    assert compared(LOCK, **here) == [("torch", "==2.3.0", None), ("starlette", "==1.0.0", "1.1.0")]


def test_nothing_differs_where_the_bento_was_built() -> None:
    assert compared("numpy>=1.26\nhumanize\n", numpy="2.4.6", humanize="4.9.0") == []


@pytest.mark.parametrize(
    ("line", "here", "fits"),
    [
        ("torch==2.3.0", "2.3.0+cu121", True),
        ("torch==2.3.0+cpu", "2.3.0+cu121", False),
        ("scikit_learn>=1.5,<2", "1.6.1", True),
        ("scikit-learn[all]~=1.5", "2.0", False),
        ("x", "0.1.dev1", True),
        ("x==1.*", "1.9rc1", True),
        ("x==1", "not a version", False),
        ("https://example.com/x-1.0-py3-none-any.whl", "1.0", True),
        ("x @ https://example.com/x-1.0-py3-none-any.whl#sha256=aa", "1.1", False),
        ("./wheels/x-1.0.tar.gz", "1.0", True),
        ("x @ git+https://example.com/x.git@main", "1.0", False),
    ],
)
def test_a_version_fits_or_not(line: str, here: str, fits: bool) -> None:
    name = "scikit_learn" if line.startswith("scikit") else "torch" if line.startswith("torch") else "x"
    assert (compared(line, **{name: here}) == []) is fits


def test_another_python_comes_first_and_then_what_is_missing_and_what_the_author_named() -> None:
    wanted = read("a==1\nb==1\nc==1\n")
    found = differences(wanted, "3.12", environment(a="2", c="2"), first=("c",))
    assert [one.package for one in found] == [PYTHON, "b", "c", "a"]
    assert found[0] == Difference(PYTHON, "3.12", "3.11.7", held=True)
    assert differences(wanted, "3.11", environment(a="1", b="1", c="1")) == ()


def test_a_password_in_a_url_is_not_shown() -> None:
    found = read(
        "--index-url https://me:hunter2@a.example\nx @ https://me:hunter2@b.example/x.git\n-e https://me:hunter2@c\n"
    )
    assert found.private_indexes() == ("a.example",)
    assert "hunter2" not in repr(differences(found, "", environment()))
    assert "hunter2" not in repr(found.unread)
    # The installer needs it: it is in what the Bento's author wrote.
    assert found.to_install() == ("x @ https://me:hunter2@b.example/x.git",)


def test_a_file_that_only_the_image_has_is_told() -> None:
    assert read("./wheels/x-1.0-py3-none-any.whl\nnonsense line\n").only_in_image() == (
        "./wheels/x-1.0-py3-none-any.whl",
        "nonsense line",
    )
    assert read("./wheels/bentoml-1.4.39.tar.gz\n").only_in_image() == (), "the cluster's bentoml is used anyway"


@pytest.mark.parametrize("text", ["", "\n\n# nothing\n", "--no-binary :all:\n"])
def test_no_requirements_are_none(text: str) -> None:
    assert read(text) == Requirements()
    assert not read(text).locked


@pytest.mark.parametrize("text", ["bentoml==1\nstarlette>=1\n", "bentoml==1\nhumanize==1\n", "starlette==1\n"])
def test_a_list_that_leaves_something_open_is_no_lock(text: str) -> None:
    assert not read(text).locked


def test_what_ray_serve_and_bentoml_are_made_of_is_held_and_the_rest_is_named_here() -> None:
    """A dependency that Ray or BentoML gets one day has to be thought about: may a Bento bring its own?"""
    free = {
        *("aiohttp", "aiohttp-cors", "aiosqlite", "click", "click-option-group", "colorful", "filelock", "fsspec"),
        *("httpx", "httpx-ws", "jinja2", "jsonschema", "numpy", "nvidia-ml-py", "pathspec", "pip-requirements-parser"),
        *("psutil", "py-spy", "python-dateutil", "python-json-logger", "python-multipart", "pyyaml", "requests"),
        *("rich", "rich-toolkit", "ruamel-yaml", "schema", "smart-open", "tomli-w", "watchfiles"),
    }
    needed = set(Environment.here().needs)
    held = {name for name in needed if name in HELD or name.startswith("opentelemetry-")}
    assert needed - held <= free
    assert {"ray", "bentoml", "ray-canary"} <= HELD


def test_every_held_name_is_spelled_as_indexes_spell_it() -> None:
    assert all(name == canonicalize_name(name) for name in HELD)


def test_this_environment_is_read_from_what_is_installed() -> None:
    here = Environment.here()
    assert here.version_of("bentoml") == metadata.version("bentoml")
    assert here.version_of("no-such-package-at-all") is None
    assert all(Requirement(f"x{needed}") for each in here.needs.values() for needed in each.values())


# In a plan. ----------------------------------------------------------------------------------------------------------


def planned(store: Path, dependencies: Any, text: str = LOCK, **versions: str) -> Plan:
    write_bento(store, "s:1", {"S": {}, "T": {}}, requirements=text)
    write_bento(store, "s:2", {"S": {}, "T": {}}, requirements="bentoml==1.4.39")
    canary = {"route_type": "random", "versions": {"a": {"bento": "s:2", "weight": 1}}}
    data = {"name": "d", "bento": "s:1", "canary": canary, "ray": {"dependencies": dependencies}}
    here = environment(**({"bentoml": "1.4.39", "starlette": "1.0.0"} | versions))
    return resolve(config.parse(data), BentoStore(store), Catalogue.default(), here)


def uv(plan: Plan) -> Mapping[str, list[Any]]:
    """Return the uv block of each deployment, by application."""
    return {
        application["name"]: [one["ray_actor_options"]["runtime_env"].get("uv") for one in application["deployments"]]
        for application in compile.serve_config(plan)["applications"][1:]
    }


def test_a_version_that_shares_is_warned_about_in_one_sentence_and_gets_no_environment(tmp_path: Path) -> None:
    plan = planned(tmp_path, "shared")
    assert plan.warnings == (
        "bento: 2 packages that s:1 was built with differ from this machine's: humanize ==4.8.0 (missing here), "
        "torch ==2.3.0 (missing here). It will run with what the cluster has; "
        "`ray: {dependencies: {main: isolated}}` gives it its own, a new build of the Bento takes what is here",
    )
    assert uv(plan) == {"d-main": [None, None], "d-canary-a": [None, None]}
    assert [one["package"] for one in plan.to_dict()["targets"]["main"]["dependencies"]["differences"]] == [
        "humanize",
        "torch",
    ]


def test_only_a_few_differences_are_named(tmp_path: Path) -> None:
    (said,) = planned(tmp_path, "shared", "\n".join(f"p{number}==1" for number in range(9))).warnings
    assert "9 packages" in said
    assert "p2 ==1 (missing here), and 6 more." in said


def test_an_isolated_version_installs_its_lock_as_it_is_and_no_other_version_does(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"main": "isolated"})
    block = {"packages": list(read(LOCK).to_install()), "uv_pip_install_options": ["--no-deps"]}
    assert uv(plan) == {"d-main": [block, block], "d-canary-a": [None, None]}
    (said,) = plan.warnings
    assert said.startswith("bento: s:1 was locked with packages of wheels.example.com, which the cluster's nodes")
    assert "hunter2" not in str(compile.serve_config(plan))


def test_a_list_that_is_no_lock_is_installed_with_what_it_needs(tmp_path: Path) -> None:
    plan = planned(tmp_path, "isolated", "humanize>=4\nbentoml==1.4.39")
    block = {"packages": ["humanize>=4"], "uv_pip_install_options": []}
    assert uv(plan) == {"d-main": [block, block], "d-canary-a": [None, None]}
    assert plan.warnings == (
        "canary.versions.a.bento: s:2 is isolated, but requires nothing of its own: "
        "it runs in the cluster's environment",
    )


def test_what_an_isolated_version_keeps_of_the_clusters_is_told(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"main": "isolated"}, "humanize==4.8.0\npydantic==1.10.0\n", pydantic="2.14.3")
    (said,) = plan.warnings
    assert said.startswith("bento: s:1 is isolated, but keeps the cluster's pydantic ==1.10.0 (here 2.14.3)")


def test_what_an_isolated_version_brings_and_the_host_can_not_use_is_told(tmp_path: Path) -> None:
    (said,) = planned(tmp_path, {"main": "isolated"}, "numpy==1.20.0\n", numpy="2.4.6").warnings
    assert said.startswith("bento: s:1 will bring numpy ==1.20.0 (ray-canary needs >=1.26)")


def test_an_isolated_version_with_a_file_in_its_image_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"bento: Bento s:1 needs \./wheels/x-1\.0\.tar\.gz, which can't be installed"):
        planned(tmp_path, "isolated", "./wheels/x-1.0.tar.gz")


def test_requirements_of_the_older_layout_are_read_from_their_lock(tmp_path: Path) -> None:
    write_bento(tmp_path, "old:1", {"S": {}})
    python = tmp_path / "old" / "1" / "env" / "python"
    python.mkdir(parents=True)
    (python / "requirements.txt").write_text("humanize\n")
    assert BentoStore(tmp_path).get("old:1").requirements == "humanize\n"
    (python / "requirements.lock.txt").write_text("humanize==4.8.0\n")
    assert BentoStore(tmp_path).get("old:1").requirements == "humanize==4.8.0\n"


def test_what_a_difference_says_is_short() -> None:
    found = (Difference(PYTHON, "3.12", "3.11.7", held=True), Difference("x", "==1", None, held=False))
    assert requirements.told(found) == "Python 3.12 (here 3.11.7), x ==1 (missing here)"


@pytest.mark.parametrize(
    ("said", "then"),
    [
        ({"a": "isolated"}, {"main": "isolated"}),
        ({"main": "isolated", "b": "isolated"}, {"b": "isolated"}),
        ({"main": "isolated"}, None),
        ("isolated", "isolated"),
    ],
)
def test_a_promoted_version_takes_its_environment_along(said: Any, then: Any) -> None:
    versions = {"a": {"bento": "s:2", "weight": 1}, "b": {"bento": "s:3", "weight": 1}}
    canary = {"route_type": "random", "versions": versions}
    file = {"name": "d", "bento": "s:1", "canary": canary, "ray": {"dependencies": said}}
    after = edits.promoted(file, "a", bento="s:2", applications={}, arms={}, services=())
    assert (after.get("ray") or {}).get("dependencies") == then
