"""Inner services that may stand at zero sleep only while their caller does."""

import asyncio

import pytest

from ray_canary.serving import sleeping
from ray_canary.serving.sleeping import Awake
from tests.unit.serving.fakes import FakeTransport, run, settle


def test_a_replica_waits_for_the_inner_services_that_may_sleep_and_for_no_other() -> None:
    async def test() -> None:
        asleep, other = FakeTransport(routable=0), FakeTransport(routable=0)
        awake = Awake({"asleep": asleep, "other": other}, lambda: True)
        starting = asyncio.ensure_future(awake.use(["asleep"]))
        await settle()
        assert (starting.done(), asleep.waiting, other.waiting) == (False, 1, 0)
        asleep.routable = 1
        await starting
        awake.stop()
        await settle()

    run(test())


@pytest.mark.parametrize("first", [True, False])
def test_the_first_replica_holds_them_awake_and_the_others_let_go(first: bool) -> None:
    async def test() -> None:
        inner = FakeTransport()
        awake = Awake({"inner": inner}, lambda: first)
        await awake.use(["inner"])
        await settle()
        assert inner.waiting == int(first)
        awake.stop()
        await settle()
        assert inner.waiting == 0

    run(test())


def test_what_may_sleep_can_change_while_a_replica_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleeping, "LOOK_EVERY_S", 0.001)

    async def test() -> None:
        inner = FakeTransport(routable=0)
        awake = Awake({"inner": inner}, lambda: True)
        for sleepers, waiting in (([], 0), (["inner"], 1), ([], 0), (["inner", "unknown"], 1)):
            await awake.use(sleepers)
            while inner.waiting != waiting:
                await asyncio.sleep(0.001)
        awake.stop()
        await settle()

    run(test())


def test_one_that_never_starts_does_not_keep_its_caller_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleeping, "WAKE_S", 0.05)

    async def test() -> None:
        awake = Awake({"inner": FakeTransport(routable=0)}, lambda: True)
        await awake.use(["inner"])
        awake.stop()
        await settle()

    run(test())
