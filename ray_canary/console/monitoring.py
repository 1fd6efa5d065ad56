"""The Monitoring page: live charts of each version, from Prometheus or from Ray's own metrics."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from nicegui import run, ui

from ray_canary.console import parts
from ray_canary.console.desk import Desk
from ray_canary.errors import RayCanaryError
from ray_canary.readings import COLUMNS, Reading, Readings, cells

#: Seconds between two drawings.
EVERY_S: Final = 5.0
#: The time ranges that can be chosen, in seconds.
RANGES: Final = {300: "5 min", 900: "15 min", 3600: "1 h"}
MORE_RANGES: Final = {6 * 3600: "6 h", 24 * 3600: "1 day", 7 * 24 * 3600: "7 days"}

Value = Callable[[Reading], float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One line for each version: what it is called beside the version, its value, and how it is drawn."""

    legend: str
    value: Value
    style: str = "solid"


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    top: float | None = None


def _milliseconds(value: float | None) -> float | None:
    return None if value is None else 1000 * value


_PANELS: Final = (
    Panel(
        "Requests per second",
        "/s",
        (
            Line("", lambda one: one.rate - one.rates.get("4xx", 0.0) - one.rates.get("5xx", 0.0)),
            Line("4xx", lambda one: one.rates.get("4xx") or None, "dashed"),
            Line("5xx", lambda one: one.rates.get("5xx") or None, "dotted"),
        ),
    ),
    Panel(
        "Latency",
        "ms",
        (
            Line("p50", lambda one: _milliseconds(one.p50)),
            Line("p95", lambda one: _milliseconds(one.p95), "dashed"),
            Line("p99", lambda one: _milliseconds(one.p99), "dotted"),
        ),
    ),
    Panel(
        "Share against weight",
        "%",
        (
            Line("observed", lambda one: one.share),
            Line("weight", lambda one: one.weight, "dashed"),
            Line("in force", lambda one: one.effective, "dotted"),
        ),
        100,
    ),
    Panel("Success rate", "%", (Line("", lambda one: None if one.success is None else 100 * one.success),), 100),
    Panel(
        "In flight and queued",
        "",
        (Line("", lambda one: one.in_flight), Line("queued", lambda one: one.queued, "dashed")),
    ),
    Panel("Replicas", "", (Line("", lambda one: one.replicas),)),
    Panel("CPU (100 % is one core)", "%", (Line("", lambda one: one.cpu),)),
    Panel("Memory", "Mi", (Line("", lambda one: None if one.memory is None else one.memory / 2**20),)),
)


async def show(desk: Desk, name: str) -> None:
    """Show the page of one Deployment."""
    ranges = RANGES | (MORE_RANGES if desk.prometheus else {})
    with ui.row().classes("items-center gap-4"):
        chosen = ui.select(ranges, value=300, label="Time range").classes("w-32")
        ui.label(f"From {desk.source}, every {EVERY_S:g} s.")
    trouble = ui.column().classes("w-full")
    charts = []
    with ui.grid(columns="repeat(auto-fit, minmax(420px, 1fr))").classes("w-full gap-4"):
        for panel in _PANELS:
            with ui.card().classes("w-full"):
                ui.label(panel.title).classes("font-semibold").props('role="heading" aria-level="2"')
                chart = ui.echart(_options(panel, (), 300)).classes("w-full h-64")
                charts.append(chart.props(f'role="img" aria-label="{panel.title}: the numbers are in the table below"'))
    table = ui.column().classes("w-full").props('data-area="now"')
    drawn: list[float] = []

    async def draw() -> None:
        span = int(chosen.value)
        try:
            found = await run.io_bound(desk.readings, name, time.time() - span, time.time())
        except RayCanaryError as error:
            if parts.gone(table):
                return
            trouble.clear()
            with trouble:
                parts.alert(str(error))
            return
        if found is None or parts.gone(table):
            return
        trouble.clear()
        if drawn == [key := found[-1].at if found else 0.0, float(span)]:
            return
        drawn[:] = [key, float(span)]
        for panel, chart in zip(_PANELS, charts, strict=True):
            chart.options.clear()
            chart.options.update(_options(panel, found, span))
            chart.update()
        table.clear()
        with table:
            if found:
                _now(found[-1])
            else:
                ui.label("The first numbers come within half a minute.")

    await draw()
    ui.timer(EVERY_S, draw)
    chosen.on_value_change(lambda: asyncio.ensure_future(draw()))


def _options(panel: Panel, found: tuple[Readings, ...], span: float) -> dict[str, Any]:
    """Return one chart as ECharts takes it: a colour for each version, a style for each line."""
    versions = list(found[-1].versions) if found else []
    now = found[-1].at if found else time.time()
    series = []
    for index, version in enumerate(versions):
        for line in panel.lines:
            points = [
                [1000 * each.at, round(value, 4)]
                for each in found
                if version in each.versions and (value := line.value(each.versions[version])) is not None
            ]
            if points:
                series.append(_series(f"{version} {line.legend}".strip(), points, parts.colour(index), line.style))
    grey = "#888888"
    return {
        "animation": False,
        "grid": {"left": 56, "right": 16, "top": 16, "bottom": 48},
        "tooltip": {"trigger": "axis"},
        "legend": {"bottom": 0, "type": "scroll", "textStyle": {"color": grey}},
        "xAxis": {
            "type": "time",
            "min": 1000 * (now - span),
            "max": 1000 * now,
            "axisLabel": {"color": grey, "hideOverlap": True},
        },
        "yAxis": {
            "type": "value",
            "min": 0,
            "max": panel.top,
            "axisLabel": {"color": grey, "formatter": f"{{value}} {panel.unit}".strip()},
            "splitLine": {"lineStyle": {"color": grey, "opacity": 0.3}},
        },
        "series": series,
    }


def _series(name: str, points: list[list[float]], colour: str, style: str) -> dict[str, Any]:
    line = {"type": style, "color": colour, "width": 2 if style == "solid" else 1.5}
    return {"name": name, "type": "line", "showSymbol": False, "data": points, "color": colour, "lineStyle": line}


def _now(found: Readings) -> None:
    """Draw the last numbers as a table, for who reads rather than looks."""
    rows = [(version, *cells(one)) for version, one in found.versions.items()]
    parts.table(f"Over the last {found.seconds:.0f} s", ("Version", *COLUMNS), rows)
