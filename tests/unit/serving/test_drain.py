"""Draining a node: what is left on it, and how long that is waited for."""

from collections.abc import Iterator, Mapping
from typing import Any

from ray_canary.errors import ClusterError
from ray_canary.serving import drain
from tests.unit.serving import details as shape

HERE, THERE = "n1", "n2"


def serve(*nodes: str, proxies: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return Serve's details with one replica on each of these nodes."""
    replicas = [shape.replica("STOPPING", f"r{index}", 1, node) for index, node in enumerate(nodes)]
    application = shape.application("d-main", shape.deployment("S", *replicas))
    return {
        "applications": {"d-main": application},
        "proxies": {node: {"status": status} for node, status in (proxies or {}).items()},
    }


class Clock:
    """Seconds that pass when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


class Drained:
    """A drain of node n1 that sees the given replies in turn; the last stays."""

    def __init__(self, *replies: Mapping[str, Any] | ClusterError) -> None:
        self.clock, self.said = Clock(), list[str]()
        self._replies: Iterator[Mapping[str, Any] | ClusterError] = iter(replies)
        self._last = replies[-1]

    def _look(self) -> Mapping[str, Any]:
        reply = next(self._replies, self._last)
        if isinstance(reply, ClusterError):
            raise reply
        return reply

    def wait(self, seconds: float = 100) -> bool:
        return drain.wait(self._look, HERE, seconds, self.said.append, self.clock, self.clock.pause)


def test_what_is_left_are_the_nodes_own_replicas_and_its_proxy() -> None:
    there = serve(HERE, THERE, HERE, proxies={HERE: "DRAINING", THERE: "HEALTHY"})
    assert drain.left(there, HERE) == ("d-main/S (STOPPING)", "d-main/S (STOPPING)", "its proxy (DRAINING)")
    assert drain.left(there, "n3") == ()
    assert drain.left({}, HERE) == ()


def test_a_node_without_anything_is_not_waited_for() -> None:
    drained = Drained(serve(THERE))
    assert drained.wait()
    assert (drained.clock.now, drained.said) == (0, [])


def test_it_waits_until_the_last_has_gone_and_says_each_change_once() -> None:
    both, proxy = serve(HERE, proxies={HERE: "HEALTHY"}), serve(THERE, proxies={HERE: "DRAINING"})
    drained = Drained(both, both, proxy, serve(THERE))
    assert drained.wait()
    assert drained.clock.now == 6
    assert drained.said == ["Still here: d-main/S (STOPPING), its proxy (HEALTHY)", "Still here: its proxy (DRAINING)"]


def test_it_ends_with_the_time_that_there_is_and_says_what_is_cut_off() -> None:
    drained = Drained(serve(HERE))
    assert not drained.wait(seconds=10)
    assert drained.clock.now == 10
    assert drained.said[-1] == "After 10 s, this is cut off: d-main/S (STOPPING)"


def test_a_head_that_restarts_is_waited_for() -> None:
    away = ClusterError("away")
    assert Drained(serve(HERE), away, away, serve(THERE)).wait()


def test_a_head_that_is_gone_for_good_moves_nobody() -> None:
    drained = Drained(ClusterError("gone"))
    assert not drained.wait(seconds=700)
    assert drained.clock.now < 130
    assert drained.said == ["Nobody moves the replicas of this node any more: gone"]


def test_a_head_that_starts_again_within_a_minute_is_waited_for() -> None:
    replies = [serve(HERE)] * 15 + [ClusterError("away")] * 30 + [serve(THERE)]
    assert Drained(*replies).wait()


def test_rays_own_command_is_used() -> None:
    program, *arguments = drain.command("head:6379", "abc", 750.0)
    assert program.endswith("/ray")
    assert arguments[:3] == ["drain-node", "--address=head:6379", "--node-id=abc"]
    assert "--deadline-remaining-seconds=750" in arguments


def test_ray_has_that_command_with_these_options() -> None:
    # It is hidden in Ray's help: this fails when it moves (ray 2.60.0).
    from ray.scripts.scripts import cli

    program, name, *arguments = drain.command("head:6379", "abc", 750.0)
    parsed = cli.commands[name].make_context(name, arguments)
    assert parsed.params["node_id"] == "abc"
