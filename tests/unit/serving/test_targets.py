"""When a target is ready, how long it may take, and when it has room for another's requests."""

from typing import Any

import pytest

from ray_canary.serving.gate import OPEN
from ray_canary.serving.queue import Limits
from ray_canary.serving.settings import TargetSettings
from ray_canary.serving.targets import Connections, Queues, Target
from ray_canary.serving.transport import Scaled
from tests.unit.serving.fakes import FakeTransport, target_config


def target(routable: int = 1, seen: bool = True, in_flight: int = 0, **given: Any) -> Target:
    settings = TargetSettings.model_validate(target_config(**given))
    return Target("a", settings, FakeTransport(routable=routable, seen=seen), in_flight)


@pytest.mark.parametrize(
    ("routable", "seen", "scales_to_zero", "ready", "asleep"),
    [
        (0, False, False, False, False),
        (0, True, False, False, False),
        (1, True, False, True, False),
        (9, True, False, True, False),
        (0, False, True, False, False),
        (0, True, True, True, True),
        (1, True, True, True, False),
    ],
)
def test_a_target_is_ready_if_it_has_a_replica_or_sleeps_after_having_started_once(
    routable: int, seen: bool, scales_to_zero: bool, ready: bool, asleep: bool
) -> None:
    one = target(routable, seen, scales_to_zero=scales_to_zero)
    assert (one.ready, one.asleep) == (ready, asleep)


@pytest.mark.parametrize(
    ("routable", "capacity", "ingress_replicas", "room"),
    [
        (0, 4, 1, 1),
        (1, 1, 1, 1),
        (1, 1, 2, 1),
        (1, 4, 1, 4),
        (1, 4, 2, 2),
        (1, 4, 3, 2),
        (2, 4, 1, 8),
        (10, 100, 4, 250),
    ],
)
def test_each_ingress_replica_gives_away_its_part_of_the_capacity_and_at_least_one_place(
    routable: int, capacity: int, ingress_replicas: int, room: int
) -> None:
    assert target(routable, capacity=capacity, in_flight=room - 1).has_room(ingress_replicas)
    assert not target(routable, capacity=capacity, in_flight=room).has_room(ingress_replicas)


def test_a_process_opens_one_transport_to_each_place_and_keeps_it() -> None:
    opened: list[tuple[str | None, str]] = []

    def connect(application: str | None, deployment: str) -> Scaled:
        opened.append((application, deployment))
        return FakeTransport()

    def settings(**given: Any) -> TargetSettings:
        return TargetSettings.model_validate(target_config(**given))

    connections = Connections(connect)
    first = connections.to(settings(application="d-main"))
    assert connections.to(settings(application="d-main", timeout_s=1, arm="b", bento="s:2")) is first
    assert connections.to(settings(application="d-canary-a")) is not first
    assert connections.to(settings(application=None)) is not first
    assert connections.to(settings(application="d-main", deployment="T")) is not first
    assert opened == [("d-main", "S"), ("d-canary-a", "S"), (None, "S"), ("d-main", "T")]


class FakeQueue:
    """A queue that remembers its limits."""

    def __init__(self, target: Target, limits: Limits) -> None:
        self.limits = limits
        self.closed = False

    def change(self, limits: Limits) -> None:
        self.limits = limits

    def close(self) -> None:
        self.closed = True


def queues() -> tuple[Queues, list[FakeQueue]]:
    made: list[FakeQueue] = []

    def make(target: Target, limits: Limits) -> Any:
        made.append(FakeQueue(target, limits))
        return made[-1]

    return Queues(make), made


def test_a_target_has_a_queue_only_if_its_settings_say_so() -> None:
    found, made = queues()
    assert found.put_in_front(target(), 2) is OPEN
    queued = target(max_queue_depth=9)
    assert found.put_in_front(queued, 2) is queued.gate is made[0]  # type: ignore[comparison-overlap]
    assert made[0].limits == Limits(concurrency=4, max_depth=9, clients=2)


def test_a_queue_belongs_to_a_place_so_that_a_version_that_becomes_main_takes_it_along() -> None:
    found, made = queues()
    found.put_in_front(target(application="d-a", max_queue_depth=9), 1)
    found.put_in_front(target(application="d-a", max_queue_depth=10, arm="main"), 1)
    assert [queue.limits.max_depth for queue in made] == [10]


def test_a_queue_that_no_target_uses_any_more_is_closed_and_a_later_one_is_new() -> None:
    found, made = queues()
    kept = found.put_in_front(target(application="d-a", max_queue_depth=9), 1)
    found.put_in_front(target(application="d-b", max_queue_depth=9), 1)
    found.close_others([kept, OPEN])
    assert [queue.closed for queue in made] == [False, True]
    found.put_in_front(target(application="d-b", max_queue_depth=9), 1)
    assert len(made) == 3
