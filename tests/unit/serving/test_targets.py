"""When a target is ready, how long it may take, and when it has room for another's requests."""

from typing import Any

import pytest

from ray_canary.serving.settings import TargetSettings
from ray_canary.serving.targets import Connections, Target
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
