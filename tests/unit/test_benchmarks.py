"""The pure parts of the benchmarks: what load generators say, medians and ratios, goals, the page."""

import asyncio
import os
from pathlib import Path

import pytest

from ray_canary import config
from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import applications, cells, decision, load, meter, profile, report, stream
from tests.benchmarks.goals import verdicts
from tests.benchmarks.load import Load
from tests.benchmarks.meter import Side
from tests.benchmarks.results import Figure, Group, Measured, Results, Sample, Spread
from tests.benchmarks.settings import Settings
from tests.benchmarks.stream import Stream

ROOT = Path(__file__).parents[2]

WRK = """\
Running 2s test @ http://127.0.0.1:28200/plain/count
  1 threads and 32 connections
  Socket errors: connect 0, read 1, write 0, timeout 0
  Non-2xx or 3xx responses: 20
Requests/sec:    510.00
RESULT {"answers": 1020, "refused": 20, "lost": 1, "duration_us": 2000000, "p50_us": 1500.0, "p99_us": 9250.0}
"""


def samples(figure: Figure, *values: float) -> list[Sample]:
    return [Sample(values={figure: value}, done=100) for value in values]


def rates(name: str, **sides: list[Sample]) -> Measured:
    return Measured(name=name, base=next(iter(sides)), samples=sides)


def run(*groups: Group) -> Results:
    machine = {
        "date": "2026-01-01",
        "cores": "2",
        "processor": "a CPU",
        "memory": "8 GiB",
        "system": "Linux",
        "wrk": "4",
    }
    return Results(machine=machine, rounds=3, seconds=1, groups=list(groups))


def of(group: str, name: str, figure: Figure, **medians: float) -> Group:
    names = {"plain": cells.PLAIN, "two": cells.TWO, "nginx": cells.NGINX, "sixteen": cells.SIXTEEN}
    found = {names[side]: samples(figure, value) for side, value in medians.items()}
    return Group(name=group, cells=[Measured(name=name, base=next(iter(found)), samples=found)])


# What load generators say. --------------------------------------------------------------------------------------------


def test_only_answers_that_say_yes_count_in_the_rate_and_all_others_have_failed() -> None:
    sample = load.parse(WRK)
    assert sample.values == {Figure.RATE: 500, Figure.P50: 1.5, Figure.P99: 9.25}
    assert (sample.done, sample.failed) == (1000, 21)


def test_a_wrk_that_says_nothing_is_no_result() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        load.parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_the_script_of_wrk_gets_the_size_of_the_body_and_whether_requests_have_keys() -> None:
    command = Load(32, 1000, keyed=True).command("http://127.0.0.1:1/side", 4)
    assert command[command.index("--") - 1 :] == ["http://127.0.0.1:1/side/count", "--", "1000", "keyed"]
    assert {"-c32", "-d4s"} <= set(command)


def answer(body: bytes, status: bytes = b"200 OK") -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    reader.feed_eof()
    return reader


def read(body: bytes, status: bytes = b"200 OK") -> Stream:
    async def reading() -> Stream:
        return await stream.read(answer(body, status), asked=0.0)

    return asyncio.run(reading())


def test_of_a_stream_each_line_and_each_chunk_is_noted() -> None:
    found = read(b"4\r\n1.5\n\r\n8\r\n2.5\n3.5\n\r\n0\r\n\r\n")
    assert [made for made, _ in found.lines] == [1.5, 2.5, 3.5]
    assert found.pieces == 2
    assert not found.whole


@pytest.mark.parametrize("body", [b"4\r\n1.5\n\r\n8\r\n2.5\n", b""], ids=["in a chunk", "before the first"])
def test_a_stream_that_breaks_off_has_failed(body: bytes) -> None:
    with pytest.raises((EOFError, ValueError)):
        read(body)


def test_an_answer_that_says_no_is_no_stream() -> None:
    with pytest.raises(ValueError, match="503"):
        read(b"0\r\n\r\n", b"503 Service Unavailable")


def test_slow_streams_show_how_late_a_chunk_is_and_fast_ones_how_many_come() -> None:
    one = Stream(asked=10.0, ended=12.0, pieces=150, lines=[(10.0 + n / 100, 10.001 + n / 100) for n in range(200)])
    slow, fast = stream.figures([one], 0.005), stream.figures([one], 0)
    assert slow[Figure.DELAY] == pytest.approx(1.0)
    assert slow[Figure.MERGED] == 50
    assert fast[Figure.CHUNKS] == 100
    assert fast[Figure.FIRST] == pytest.approx(1.0)


# Medians and ratios. --------------------------------------------------------------------------------------------------


def test_a_spread_is_the_median_the_least_and_the_most_of_the_rounds() -> None:
    cell = rates("one", a=samples(Figure.RATE, 30, 10, 20))
    assert cell.spread("a", Figure.RATE) == Spread(20, 10, 30)
    assert cell.spread("a", Figure.P50) is None
    assert cell.spread("b", Figure.RATE) is None


def test_a_ratio_is_that_of_the_medians_to_the_base() -> None:
    cell = rates("one", a=samples(Figure.RATE, 100, 200, 900), b=samples(Figure.RATE, 150), c=samples(Figure.P50, 1))
    assert cell.ratio("b", Figure.RATE) == 0.75
    assert cell.ratio("c", Figure.RATE) is None


def test_there_is_no_ratio_to_nothing() -> None:
    assert rates("one", a=samples(Figure.RATE, 0), b=samples(Figure.RATE, 150)).ratio("b", Figure.RATE) is None


def test_results_outlive_a_file() -> None:
    results = run(of("bento", cells.AT_32, Figure.RATE, plain=100, two=95))
    assert Results.model_validate_json(results.model_dump_json()) == results


# Goals. ---------------------------------------------------------------------------------------------------------------


def verdict(results: Results, beginning: str) -> tuple[str, bool | None]:
    (found,) = [one for one in verdicts(results) if one.goal.startswith(beginning)]
    return found.measured, found.met


@pytest.mark.parametrize(("two", "met"), [(95, True), (94, False)])
def test_a_rate_is_met_by_the_least_ratio(two: float, met: bool) -> None:
    results = run(of("bento", cells.AT_32, Figure.RATE, plain=100, two=two))
    assert verdict(results, "requests/s against plain Serve, `bento`") == (
        f"{two / 100:.2f} ({two / 100:.2f}..{two / 100:.2f})",
        met,
    )


@pytest.mark.parametrize(("two", "met"), [(1.5, True), (1.6, False), (0.9, True)])
def test_a_delay_is_met_by_the_greatest_difference(two: float, met: bool) -> None:
    results = run(of("bento", cells.AT_1, Figure.P50, plain=1.0, two=two))
    assert verdict(results, "p50, ms, 1 connections") == (f"{two - 1:+.2f} ms ({two - 1:+.2f}..{two - 1:+.2f})", met)


@pytest.mark.parametrize(("rounds", "close"), [((90, 96, 99), True), ((95, 96, 99), False), ((80, 94, 96), True)])
def test_a_verdict_says_whether_some_rounds_say_otherwise(rounds: tuple[float, ...], close: bool) -> None:
    group = of("bento", cells.AT_32, Figure.RATE, plain=100, two=0)
    group.cells[0].samples = {
        cells.PLAIN: samples(Figure.RATE, 100, 100, 100),
        cells.TWO: samples(Figure.RATE, *rounds),
    }
    (found,) = [one for one in verdicts(run(group)) if one.goal.startswith("requests/s against plain Serve, `bento`")]
    assert found.close is close
    assert ("; some rounds say otherwise" in report.page(run(group))) is close


def test_what_a_missed_goal_costs_and_whom_is_on_the_page() -> None:
    group = of("trivial", cells.AT_64, Figure.RATE, plain=4000, two=1500)
    for side, costs in {cells.PLAIN: (0.0, 0.22, 0.28), cells.TWO: (0.49, 0.33, 0.52)}.items():
        figures = (Figure.INGRESS_CPU, Figure.VERSIONS_CPU, Figure.ELSE_CPU)
        found = {figure: cost for figure, cost in zip(figures, costs, strict=True) if cost}
        group.cells[0].samples[side].append(Sample(values=found))
    page = " ".join(report.page(run(group)).split())
    assert "plain Serve 0.50 (the versions 0.22, all else 0.28)" in page
    assert "ray-canary, 2 versions 1.34 (the ingress 0.49, the versions 0.33, all else 0.52)" in page


@pytest.mark.parametrize(("grown", "met"), [(16, True), (17, False)])
def test_the_growth_of_the_ingress_is_met_by_its_worst_round(grown: float, met: bool) -> None:
    group = of("bento", cells.MB_20, Figure.GROWTH, two=grown)
    group.cells[0].samples[cells.TWO] += samples(Figure.GROWTH, 1, 2)
    assert verdict(run(group), "growth of the ingress")[1] is met


@pytest.mark.parametrize(("two", "met"), [((0, 0, 2), True), ((0, 1, 2), False)])
def test_chunks_may_arrive_in_another_ones_as_often_as_with_plain_serve(two: tuple[float, ...], met: bool) -> None:
    group = of("bento", cells.TOKENS, Figure.MERGED, plain=0, two=0)
    group.cells[0].samples = {cells.PLAIN: samples(Figure.MERGED, 0, 0, 0), cells.TWO: samples(Figure.MERGED, *two)}
    assert verdict(run(group), f"{Figure.MERGED}, {cells.TOKENS}")[1] is met


@pytest.mark.parametrize(("two", "busy", "met"), [(110, 1.0, True), (90, 1.0, False), (90, 1.9, True)])
def test_a_second_ingress_replica_brings_more_unless_the_cores_are_busy(two: float, busy: float, met: bool) -> None:
    group = of("trivial", cells.AT_64, Figure.RATE, two=two)
    group.cells[0].samples[cells.ONE_INGRESS] = [Sample(values={Figure.RATE: 100, Figure.BUSY: busy})]
    assert verdict(run(group), "requests/s with 2 ingress replicas")[1] is met


def test_goals_that_are_missed_for_one_reason_share_its_paragraph() -> None:
    group = of("bento", cells.TOKENS, Figure.FIRST, plain=1, two=9)
    for side, delay in {cells.PLAIN: 1, cells.TWO: 9}.items():
        group.cells[0].samples[side] += samples(Figure.DELAY_99, delay)
    page = " ".join(report.page(run(group)).split())
    assert page.count("last equally long") == 1
    assert f"- **{Figure.FIRST}, {cells.TOKENS}" in page
    assert f"**{Figure.DELAY_99}, {cells.TOKENS}" in page


def test_what_was_not_run_is_neither_met_nor_missed() -> None:
    assert {(one.measured, one.met) for one in verdicts(run())} == {("not measured", None)}


def test_every_numbered_goal_that_load_can_show_is_judged() -> None:
    assert {one.number for one in verdicts(run())} == {"1", "2", "3", "4", "5", "5.3"}


# The page. ------------------------------------------------------------------------------------------------------------


def test_a_field_has_the_median_the_spread_and_the_ratio() -> None:
    cell = rates("one", a=samples(Figure.RATE, 1000), b=samples(Figure.RATE, 900, 1234.5, 2000))
    assert report.field(cell, "a", Figure.RATE) == "1,000 (1,000..1,000)"
    assert report.field(cell, "b", Figure.RATE) == "1,234 (900..2,000) x1.23"
    assert report.field(cell, "c", Figure.RATE) == ""


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")])
def test_a_number_has_as_many_digits_as_count(value: float, text: str) -> None:
    assert report.number(value) == text


def test_failures_are_on_the_page_wherever_they_were() -> None:
    group = of("bento", cells.AT_32, Figure.RATE, plain=100, two=95)
    group.cells[0].samples[cells.TWO][0].failed = 7
    page = report.page(run(group))
    assert "**7 failed**" in page
    assert f"- `bento`, {cells.AT_32}, {cells.TWO}: 7 of 107" in page


def test_a_page_says_that_nothing_failed() -> None:
    assert "None, anywhere." in report.page(run(of("bento", cells.AT_32, Figure.RATE, plain=100, two=95)))


def test_every_group_has_its_table_and_says_what_it_is() -> None:
    names = [decision.NAME, *(stage.name for stage in cells.STAGES), profile.NAME]
    page = report.page(run(*(of(name, "a cell", Figure.RATE, plain=100, two=95) for name in names)))
    assert page.count("| a cell | 100 (100..100) | 95.0 (95.0..95.0) x0.95 |") == len(names)


def test_the_page_in_the_docs_is_that_of_its_numbers() -> None:
    numbers, page = ROOT / "docs" / "benchmarks.json", ROOT / "docs" / "benchmarks.md"
    assert numbers.exists() == page.exists()
    if numbers.exists():
        results = Results.model_validate_json(numbers.read_text(encoding="utf-8"))
        assert page.read_text(encoding="utf-8") == report.page(results), "run `python -m tests.benchmarks page`"


# The profile. ---------------------------------------------------------------------------------------------------------

_SITE = "/venv/lib/python3.11/site-packages"
_THREAD = "Thread._bootstrap (/lib/python3.11/threading.py:1002)"


@pytest.mark.parametrize(
    ("frames", "owner"),
    [
        ([_THREAD, f"send ({_SITE}/uvicorn/protocols/http/httptools_impl.py:5)"], "uvicorn"),
        (
            [_THREAD, f"run ({_SITE}/ray/serve/_private/replica.py:5)", "info (/lib/logging/__init__.py:9)"],
            "Serve and Ray",
        ),
        ([_THREAD, f"run ({_SITE}/ray/serve/x.py:5)", "head (/here/ray_canary/serving/direct.py:9)"], "ray-canary"),
        ([_THREAD, f"api ({_SITE}/_bentoml_impl/server/app.py:1)", "bind (/lib/inspect.py:3)"], "BentoML"),
        ([_THREAD, f"use_span ({_SITE}/opentelemetry/trace/__init__.py:632)"], "OpenTelemetry"),
        ([_THREAD, f"app ({_SITE}/starlette/routing.py:7)"], "Starlette, pydantic and others"),
        ([_THREAD], profile.LOOP),
        ([_THREAD, "wait (/lib/python3.11/asyncio/tasks.py:4)"], profile.OTHERS),
    ],
)
def test_a_sample_is_the_innermost_frames_that_is_somebodys(frames: list[str], owner: str) -> None:
    assert profile.owner(frames) == owner


def test_the_shares_of_a_profile_add_up() -> None:
    stacks = [f"{_THREAD};send ({_SITE}/uvicorn/x.py:5) 3", f"{_THREAD} 1"]
    assert profile.shares(stacks) == {"uvicorn": 0.75, profile.LOOP: 0.25}
    with pytest.raises(ValueError, match="nothing at work"):
        profile.shares([])


# What is run. ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 16, 100])
def test_weights_add_up_at_every_number_of_versions(count: int) -> None:
    keys = decision.keys(count)
    assert keys[0] == "main"
    assert len(set(keys)) == count
    assert sum(decision.weights(keys).values()) == 100


@pytest.mark.parametrize("route_type", ["random", "header", "query"])
def test_deployments_are_legal(route_type: str) -> None:
    config.parse(applications.deployment("bench", 16, route_type=route_type))


def test_every_cell_of_a_stage_has_a_name_of_its_own() -> None:
    for stage in cells.STAGES:
        names = [cell.name for cell in stage.cells]
        assert len(names) == len(set(names))


def test_a_run_of_some_stages_keeps_what_the_page_has_of_the_others(tmp_path: Path) -> None:
    settings = Settings(rounds=3, seconds=1, only=("bento",), folder=tmp_path)
    assert benchmarks._kept(settings) == []
    earlier = run(of("trivial", cells.AT_64, Figure.RATE, plain=100, two=50))
    (tmp_path / benchmarks.NUMBERS).write_text(earlier.model_dump_json())
    assert benchmarks._kept(settings) == earlier.groups
    with pytest.raises(SystemExit, match="3 rounds of 1 s"):
        benchmarks._kept(Settings(rounds=5, seconds=4, only=("bento",), folder=tmp_path))


def test_what_an_ingress_takes_counts_from_the_beginning_of_a_round() -> None:
    side = Side(url="", ingress=(os.getpid(),))
    held = []

    def load() -> Sample:
        held.append(bytearray(os.urandom(30_000_000)))
        return Sample(values={}, done=1)

    for _ in range(2):
        assert 25 < meter.with_memory(side, load).values[Figure.GROWTH] < 100


def test_settings_are_read_from_the_environment() -> None:
    read = Settings.read({"RAY_CANARY_BENCH_ROUNDS": "1", "RAY_CANARY_BENCH_ONLY": "bento, splits"})
    assert (read.rounds, read.seconds, read.only) == (1, 4, ("bento", "splits"))
