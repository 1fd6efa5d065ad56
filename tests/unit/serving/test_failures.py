"""The Bento's own traceback: described where it failed, and found again in whatever Serve makes of it."""

import asyncio
import importlib.util
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from ray_canary.serving.failures import BentoFailed, describe, find


def load(path: Path, source: str) -> ModuleType:
    """Write a Bento's module and import it as `importlib` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("service", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def failure(path: Path, source: str) -> str:
    """Return what is found again of a failure to import `source`."""
    try:
        load(path, source)
    except BaseException as error:
        text = describe("s:1", "Summarization", without_ours(error))
    else:
        raise AssertionError("it did not fail")
    assert text.startswith("Summarization of Bento s:1 failed to start\n")
    found = find(as_serve_reports(text))
    assert found is not None
    assert found == find(text)
    assert "<frozen importlib" not in found
    return found


def without_ours(error: BaseException) -> BaseException:
    """Take this file's own frames off, which stand where those of the host do."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return error.with_traceback(trace)


def as_serve_reports(text: str) -> str:
    """Return the message of a deployment that failed, as Serve's status shows it."""
    raised = f"ray_canary.serving.failures.BentoFailed: {text}"
    stack = 'Traceback (most recent call last):\n  File "ray/serve/_private/deployment_state.py", line 830\n'
    return f"The deployment failed to start 3 times in a row.\nError:\n{stack}{raised}\n\nRetrying 2 more times."


def test_a_failure_ends_with_what_was_raised_and_where_in_the_bento(tmp_path: Path) -> None:
    path = tmp_path / "service.py"
    found = failure(path, "def weights():\n    raise ValueError('no weights')\n\nweights()\n")
    assert found == (
        "Traceback (most recent call last):\n"
        f'  File "{path}", line 4, in <module>\n    weights()\n'
        f'  File "{path}", line 2, in weights\n'
        "    raise ValueError('no weights')\n"
        "ValueError: no weights"
    )


@pytest.mark.parametrize(
    "folder",
    [
        "home/ray/bentoml/bentos/s/1/src",
        "home/u/bentoml/bentos/s/1/src",
        "ray/starlette/asyncio/importlib",
        "work/ray_canary/demo",
        "opt/env/lib/python3.11/site-packages/raylib",
    ],
)
def test_a_bento_keeps_its_own_frames_whatever_the_folder_it_lies_in(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "service.py"
    assert f'File "{path}", line 1, in <module>' in failure(path, "1 / 0\n")


@pytest.mark.parametrize(
    "folder",
    [
        "lib/python3.11/site-packages/ray/serve",
        "lib/python3.11/site-packages/bentoml",
        "lib/python3/dist-packages/starlette",
        "lib/python3.11/asyncio",
        "lib64/python3.12/concurrent/futures",
    ],
)
def test_frames_of_the_machinery_are_left_out(tmp_path: Path, folder: str) -> None:
    machinery = load(tmp_path / folder / "runner.py", "def run(function):\n    function()\n")
    bento = load(tmp_path / "bento" / "service.py", "def oops():\n    raise KeyError('k')\n")
    with pytest.raises(KeyError) as caught:
        machinery.run(bento.oops)
    text = describe("s:1", "S", caught.value)
    assert "runner.py" not in text
    assert "service.py" in text


def test_frames_of_our_own_serving_layer_are_left_out() -> None:
    from ray_canary.serving.wire import Withdrawn
    from tests.unit.serving.fakes import request

    kept = request()
    kept.withdraw()
    with pytest.raises(Withdrawn) as caught:
        kept.__reduce__()
    assert "wire.py" in "".join(str(entry.path) for entry in caught.traceback)
    assert "wire.py" not in describe("s:1", "S", caught.value)


def test_a_syntax_error_shows_the_line(tmp_path: Path) -> None:
    path = tmp_path / "service.py"
    found = failure(path, "x = 1\ndef broken(:\n    pass\n")
    assert f'File "{path}", line 2' in found
    assert "def broken(:" in found
    assert found.endswith("SyntaxError: invalid syntax")


def test_a_module_that_is_missing_is_named(tmp_path: Path) -> None:
    found = failure(tmp_path / "service.py", "import surely_not_installed\n")
    assert "import surely_not_installed" in found
    assert found.endswith("ModuleNotFoundError: No module named 'surely_not_installed'")


def test_a_system_exit_is_a_failure_too(tmp_path: Path) -> None:
    found = failure(tmp_path / "service.py", "import sys\nsys.exit('no licence')\n")
    assert "sys.exit('no licence')" in found
    assert found.endswith("SystemExit: no licence")


def test_the_causes_of_a_failure_are_shown(tmp_path: Path) -> None:
    source = """
        def inner():
            {}["key"]

        try:
            inner()
        except KeyError as error:
            raise RuntimeError("no config") from error
    """
    found = failure(tmp_path / "service.py", source)
    assert found.index("KeyError: 'key'") < found.index("direct cause") < found.index("RuntimeError: no config")
    assert 'in inner\n    {}["key"]' in found


def test_a_failure_while_handling_another_shows_both(tmp_path: Path) -> None:
    found = failure(tmp_path / "service.py", "try:\n    1 / 0\nexcept ZeroDivisionError:\n    undefined\n")
    assert found.index("ZeroDivisionError") < found.index("During handling") < found.index("NameError")


def test_every_member_of_a_group_is_shown_without_the_machinery(tmp_path: Path) -> None:
    bento = load(tmp_path / "service.py", "async def oops(n):\n    raise ValueError(f'number {n}')\n")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            for number in (1, 2):
                group.create_task(bento.oops(number))

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(both())
    text = describe("s:1", "S", caught.value)
    assert "ValueError: number 1" in text
    assert "ValueError: number 2" in text
    assert "taskgroups.py" not in text


def test_a_long_chain_of_failures_is_described() -> None:
    error = ValueError("0")
    for number in range(1, 5000):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    assert "ValueError: 4999" in describe("s:1", "S", error)


def test_a_failure_with_no_frame_of_the_bento_still_says_what_was_raised() -> None:
    assert find(describe("s:1", "S", ValueError("text over\ntwo lines"))) == "ValueError: text over\ntwo lines"


def test_a_failure_that_can_not_be_printed_is_described() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    found = find(describe("s:1", "S", Mute()))
    assert found is not None
    assert "Mute" in found


#: What Serve says of a replica whose environment uv could not build (ray 2.60.0, shortened).
NO_ENVIRONMENT = """\
The deployment failed to start 3 times in a row. Error:
Exception when allocating Replica(id='f', deployment='S', app='d-main'): Failed to set up runtime environment.
Could not create the actor because its associated runtime env failed to be created.
[Node 127.0.0.1] Traceback (most recent call last):
  File "uv.py", line 371, in create
    uv_dir_bytes = await task
SubprocessCalledProcessError: Run cmd[22] failed with the following details.
Command '['python', '-m', 'uv', 'pip', 'install', '-r', 'r.txt']' returned non-zero exit status 1.
Last 50 lines of stdout:
    Using Python 3.11.7 environment at: /tmp/ray/virtualenv
    error: No solution found when resolving dependencies
      cause: Because there is no version of humanize==0.0.0.dev1 and you require humanize==0.0.0.dev1.

And more.
"""


def test_an_environment_that_could_not_be_built_is_told_in_the_installers_words() -> None:
    assert find(NO_ENVIRONMENT) == (
        "The Python environment of its own could not be built:\n"
        "error: No solution found when resolving dependencies\n"
        "  cause: Because there is no version of humanize==0.0.0.dev1 and you require humanize==0.0.0.dev1."
    )


def test_an_environment_that_took_too_long_is_told() -> None:
    message = NO_ENVIRONMENT.split("SubprocessCalled")[0] + (
        "Failed to install runtime_env within the timeout of 600 seconds. Consider increasing the timeout."
    )
    assert find(message) == "The Python environment of its own could not be built:\nit took longer than 600 seconds"


def test_of_a_process_that_was_killed_while_it_started_it_is_told_where_to_look() -> None:
    said = find(
        "The deployment failed to start 3 times in a row. See controller logs for details. Error:\nActorDiedError()"
    )
    assert said is not None
    assert "`ray-canary logs` shows its last lines" in said
    own = describe("s:1", "S", ValueError("oops"))
    assert find(f"ActorDiedError()\n{own}") == "ValueError: oops", "the Bento's own words are better"


@pytest.mark.parametrize("message", ["", "The deployment failed to start.", "Bento failed"])
def test_nothing_is_found_where_no_bento_failed(message: str) -> None:
    assert find(message) is None


def test_a_message_that_was_cut_off_gives_what_is_left_of_it() -> None:
    text = describe("s:1", "S", ValueError("oops"))
    assert find(text.split("oops")[0]) == "ValueError: "


def test_of_several_failures_in_one_message_the_first_is_found() -> None:
    first, second = (describe("s:1", "S", ValueError(word)) for word in ("one", "two"))
    assert find(f"{first}\n{second}") == "ValueError: one"


def test_a_failure_carries_its_text() -> None:
    text = describe("s:1", "S", ValueError("oops"))
    assert find(str(BentoFailed(text))) == "ValueError: oops"
