"""Grafana's dashboard, made from the charts: `python -m ray_canary.grafana` writes `cluster/grafana.json`."""

import json
from pathlib import Path
from typing import Any, Final

from ray_canary import charts
from ray_canary.charts import Chart, Row
from ray_canary.metrics import CONFIGURED_WEIGHT, exported

PAGE: Final = Path(__file__).parents[1] / "cluster" / "grafana.json"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 12
_HEIGHT: Final = 8


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it (schema version 39, Grafana 10 and newer)."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in charts.ROWS:
        panels.append(_row(row, top, len(panels) + 1))
        for index, chart in enumerate(row.charts):
            left, down = index % 2 * _WIDTH, index // 2 * _HEIGHT
            panels.append(_panel(chart, left, top + 1 + down, len(panels) + 1))
        top += 1 + -(-len(row.charts) // 2) * _HEIGHT
    return {
        "uid": "ray-canary",
        "title": "ray-canary",
        "description": "One canary Deployment: its versions side by side.",
        "tags": ["ray", "bentoml", "canary"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "templating": {"list": [_datasource(), _deployments()]},
        "panels": panels,
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}


def _deployments() -> dict[str, Any]:
    values = f"label_values({exported(CONFIGURED_WEIGHT)}, canary_deployment)"
    return {
        "name": "deployment",
        "label": "Deployment",
        "type": "query",
        "datasource": _SOURCE,
        "definition": values,
        "query": {"query": values, "refId": "deployments"},
        "refresh": 2,
        "sort": 1,
        "current": {},
    }


def _row(row: Row, top: int, number: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": 2 * _WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": row.title, "gridPos": place, "collapsed": False, "panels": []}


def _panel(chart: Chart, left: int, top: int, number: int) -> dict[str, Any]:
    stacking = {"mode": "normal" if chart.stacked else "none", "group": "A"}
    style = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 30 if chart.stacked else 0, "showPoints": "never"}
    return {
        "id": number,
        "type": "timeseries",
        "title": chart.title,
        "description": chart.says,
        "datasource": _SOURCE,
        "gridPos": {"x": left, "y": top, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": chart.unit.value, "min": 0, "custom": {**style, "stacking": stacking}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": charts.filled(query.expression, "$deployment", "$__rate_interval"),
                "legendFormat": query.legend,
            }
            for index, query in enumerate(chart.queries)
        ],
    }


def text() -> str:
    """Return the dashboard's file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
