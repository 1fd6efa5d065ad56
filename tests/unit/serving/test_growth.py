"""An ingress replica's memory and time do not grow with the requests and keys that it has seen."""

import gc
import time
import tracemalloc

from ray_canary.serving.dispatch import Dispatcher, Reason
from ray_canary.serving.settings import IngressSettings
from ray_canary.serving.targets import Target
from ray_canary.serving.wire import Request
from ray_canary.splitter import Splitter
from tests.unit.serving.fakes import FakeTransport

REQUESTS = 1_000_000
PART = 100_000


class Silent:
    """Watches nothing."""

    def waited(self, target: str, seconds: float) -> None: ...

    def queued(self, target: str, seconds: float) -> None: ...
    def refused(self, target: str) -> None: ...
    def sent(self, target: str, way: str) -> None: ...
    def failed_over(self, target: str) -> None: ...

    def missed_key(self) -> None: ...

    def unavailable(self, target: str) -> None: ...


def dispatcher() -> Dispatcher:
    target = {"deployment": "Summarization", "bento": "summarization:v1", "timeout_s": 30, "capacity": 100}
    settings = IngressSettings.model_validate(
        {
            "deployment": "growth",
            "split": {"route_type": "query", "route_by": "feature", "weights": {"a": 20, "b": 30}},
            "targets": {key: {**target, "application": f"growth-{key}", "arm": key} for key in ("main", "a", "b")},
        }
    )
    targets = {key: Target(key, one, FakeTransport()) for key, one in settings.targets.items()}
    return Dispatcher(settings, targets, Splitter(settings.split.shares(), "growth"), Silent())


def decide(decided: Dispatcher, first: int, count: int) -> float:
    """Decide for `count` requests with keys of their own, and return the seconds of CPU that it took."""
    began = time.process_time()
    for number in range(first, first + count):
        request = Request("GET", "/summarize", b"/summarize", b"feature=user%d" % number, [], b"")
        _, reason = decided.choose(request)
        assert reason is Reason.KEYED
    return time.process_time() - began


def test_a_million_requests_with_a_million_keys_leave_the_decision_path_as_it_was() -> None:
    decided = dispatcher()
    decide(decided, 0, PART)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    decide(decided, PART, PART)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 4096, f"{PART} requests left {after - before} bytes behind"

    parts = [decide(decided, first, PART) for first in range(2 * PART, REQUESTS, PART)]
    # Not a speed limit: the last hundred thousand against the first, in the same process.
    assert min(parts[-3:]) < 2 * min(parts[:3]), f"seconds per {PART} requests: {parts}"
