"""Lines of replicas' logs."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary.loglines import LogLine, lines, merged, of_request, time_of

ID = "f137d131-8b1a-4c6e-82e8-43ac8834de46"
SERVES = f"INFO 2026-11-27 07:46:19,024 shop-a_Shop 3bx1j1lw {ID} -- POST __call__ 200 5.3ms"
BENTOML = f"[shop-a_Shop 3bx1j1lw {ID}] 2026-11-27T07:46:20+0000 [ERROR] [entry_service:shop:1] Exception on /buy"


def read(text: str, stream: str = "log", replica: str = "r") -> list[LogLine]:
    return list(lines(text, 100.0, "a", replica, stream))


def test_the_times_of_serves_and_of_bentomls_lines_are_read() -> None:
    serves, bentoml = time_of(SERVES), time_of(BENTOML)
    assert serves is not None
    assert serves % 1 == pytest.approx(0.024, abs=1e-6)
    assert bentoml == 1795765580.0
    assert time_of(BENTOML.partition("] ")[2]) == 1795765580.0


@pytest.mark.parametrize(
    "line", ["", "hello", "INFO 2026-99-27 07:46:19,024 a r -- x", "2026-11-27T99:46:20+0000 [INFO]"]
)
def test_a_line_without_a_time_has_none(line: str) -> None:
    assert time_of(line) is None


@given(st.text())
def test_no_line_whatever_it_holds_stops_the_reading(text: str) -> None:
    time_of(text)
    read(text)


def test_lines_without_a_time_have_that_of_the_line_before_and_the_first_the_replicas_start() -> None:
    found = read(f"print\n{BENTOML}\nTraceback (most recent call last):\n  File\nValueError: no")
    assert [line.at for line in found] == [100.0, *[1795765580.0] * 4]


def test_rays_own_marks_are_no_lines() -> None:
    assert [line.text for line in read(":job_id:01000000\n:actor_name:ServeReplica:shop\nhello")] == ["hello"]


def test_several_files_are_in_the_order_of_time_and_a_traceback_stays_together() -> None:
    late = read(f"{BENTOML}\nTraceback\n  File\nValueError: no", "out")
    early = read(SERVES)
    assert [line.text.split()[0] for line in merged([late, early])] == [
        "INFO",
        "[shop-a_Shop",
        "Traceback",
        "File",
        "ValueError:",
    ]


def test_what_serve_writes_twice_is_shown_once_and_what_a_service_says_twice_is_shown_twice() -> None:
    found = merged([read(f"{SERVES}\nmine\nmine", "err"), read(SERVES)])
    assert sorted(line.text for line in found) == sorted([SERVES, "mine", "mine"])
    others = merged([read(SERVES, "err", "another"), read(SERVES)])
    assert len(others) == 2


def test_a_requests_lines_are_those_that_name_it_and_the_traceback_after_them() -> None:
    other = BENTOML.replace(ID, "another")

    def found() -> Iterator[LogLine]:
        yield from read(f"{other}\nTraceback\nKeyError\n{BENTOML}\nTraceback\nValueError: no\n{other}\nKeyError", "out")

    assert [line.text for line in of_request(found(), ID)] == [BENTOML, "Traceback", "ValueError: no"]
