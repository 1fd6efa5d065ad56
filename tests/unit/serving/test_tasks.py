"""Requests about a task find the replica that has it, or a sentence."""

import re
from typing import Any

import pytest

from ray_canary.serving.dispatch import Reason, Unanswered
from ray_canary.serving.tasks import Place, Task, asked_for, bentos_own
from ray_canary.serving.transport import Broken, Gone
from ray_canary.serving.wire import Request
from tests.unit.serving.fakes import FakeTransport, Script, World, run

PLACE = Place("d-a", "Größe/x.y", "ab12")
OWN = "0123456789abcdef" * 2
ID = f"{PLACE.prefix()}.{OWN}"


def about(path: str = "/job/status", method: str = "GET", task: str | None = ID) -> Request:
    query = b"" if task is None else f"task_id={task}".encode()
    return Request(method, path, path.encode(), query, [], b"")


def test_an_id_says_where_its_task_is_and_needs_no_escaping() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", ID)
    assert asked_for(about()) == Task(ID, PLACE)
    assert bentos_own(ID) == OWN


@pytest.mark.parametrize(("method", "what"), [("GET", "status"), ("GET", "get"), ("POST", "retry"), ("PUT", "cancel")])
def test_every_request_that_bentoml_takes_about_a_task_is_about_one(method: str, what: str) -> None:
    assert asked_for(about(f"/deep/job/{what}", method)) is not None


@pytest.mark.parametrize(
    ("method", "path", "task"),
    [
        ("POST", "/job/submit", ID),
        ("POST", "/job/get", ID),
        ("GET", "/job", ID),
        ("GET", "/job/get", None),
        ("GET", "/job/get", ""),
        ("GET", "/job/get", "7"),
        ("GET", "/job/get", OWN),
        ("GET", "/job/get", f"a.{OWN}"),
        ("GET", "/job/get", f"{Place('a', '', 'b').prefix()}.{OWN}"),
        ("GET", "/job/get", f"____.{OWN}"),
    ],
)
def test_nothing_else_is(method: str, path: str, task: str | None) -> None:
    assert asked_for(about(path, method, task)) is None


def world(*scripts: Script, **transports: Any) -> World:
    """A Deployment whose `a` took the task; every other request is main's."""
    a, main = FakeTransport(*scripts, **transports), FakeTransport()
    a.place, main.place = (PLACE.application, PLACE.deployment), ("d-main", "S")
    return World({"main": main, "a": a})


def refusal(here: World, pinned: str | None = None) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        run(here.dispatcher.answer(about(), 0.0 + 1e12, pinned))
    return caught.value


@pytest.mark.parametrize("pinned", [None, "a"])
def test_a_request_about_a_task_goes_to_the_replica_that_has_it(pinned: str | None) -> None:
    here = world()
    answer = run(here.dispatcher.answer(about(), 1e12, pinned))
    assert (answer.target.key, answer.reason) == ("a", Reason.PINNED if pinned else Reason.TASK)
    (call,) = here.transports["a"].calls
    assert call.request.replica == "ab12"


def test_it_goes_there_though_the_version_is_not_ready() -> None:
    here = world(routable=0)
    assert run(here.dispatcher.answer(about(), 1e12)).target.key == "a"


def test_a_version_that_sleeps_is_not_woken_for_a_task_that_has_gone() -> None:
    here = world(Script(takes=False, answer=Gone("gone")), routable=0)
    scales = here.targets["a"].settings.model_copy(update={"scales_to_zero": True})
    here.targets["a"].settings = scales
    assert refusal(here).status == 404


def test_a_replica_that_has_gone_is_named_and_nobody_else_is_asked() -> None:
    here = world(Script(takes=False, answer=Gone("gone")))
    error = refusal(here)
    assert (error.status, error.target) == (404, "a")
    assert "replica ab12 of a had this task and has gone" in str(error)
    assert not here.transports["main"].calls
    assert here.in_flight == 0


def test_a_replica_that_breaks_is_a_bad_gateway() -> None:
    assert refusal(world(Script(answer=Broken("died")))).status == 502


def test_a_version_that_is_no_longer_there_is_named() -> None:
    here = world()
    here.transports["a"].place = ("another", "S")
    error = refusal(here)
    assert error.status == 404
    assert "submitted to application d-a" in str(error)


def test_a_pinned_request_about_another_versions_task_is_told_so() -> None:
    error = refusal(world(), pinned="main")
    assert (error.status, error.target, error.reason) == (404, "main", Reason.PINNED)
