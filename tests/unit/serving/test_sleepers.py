"""Which targets stand at zero replicas on purpose."""

import asyncio

from ray_canary.serving.settings import TargetSettings
from ray_canary.serving.sleepers import Sleepers, Statuses
from ray_canary.serving.targets import Target
from tests.unit.serving.fakes import FakeTransport


def target(*, scales_to_zero: bool = True, routable: int = 0, seen: bool = False) -> Target:
    settings = TargetSettings(
        application="d-canary-a",
        deployment="Summarization",
        bento="summarization:v1",
        arm="a",
        timeout_s=30.0,
        capacity=10,
        scales_to_zero=scales_to_zero,
    )
    transport = FakeTransport()
    transport.routable, transport.seen = routable, seen
    return Target("a", settings, transport)


class Controller:
    """Says what it is told to, and counts how often it was asked."""

    def __init__(self, statuses: Statuses) -> None:
        self.statuses = statuses
        self.asked = 0

    def __call__(self) -> Statuses:
        self.asked += 1
        return self.statuses


def look(controller: Controller, *targets: Target, times: int = 1) -> None:
    async def run() -> None:
        sleepers = Sleepers(controller, "d")
        for _ in range(times):
            await sleepers.look(targets)

    asyncio.run(run())


def test_a_target_that_a_new_ingress_replica_has_never_seen_is_ready_if_it_is_healthy_at_zero() -> None:
    one = target()
    assert not one.ready
    look(Controller({("d-canary-a", "Summarization"): "HEALTHY"}), one)
    assert one.ready
    assert one.asleep


def test_a_target_that_crashed_is_not_taken_for_one_that_sleeps() -> None:
    one = target(seen=True)
    assert one.asleep
    look(Controller({("d-canary-a", "Summarization"): "UNHEALTHY"}), one)
    assert not one.ready


def test_what_the_controller_leaves_out_stays_as_it_was_known() -> None:
    one = target()
    one.may_sleep = True
    look(Controller({}), one)
    assert one.ready


def test_the_controller_is_asked_only_about_targets_that_could_be_asleep() -> None:
    controller = Controller({})
    look(controller, target(scales_to_zero=False), target(routable=1))
    assert controller.asked == 0


def test_the_controller_is_not_asked_again_before_a_second_is_over() -> None:
    controller = Controller({})
    look(controller, target(), times=5)
    assert controller.asked == 1
