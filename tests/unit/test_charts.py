"""The charts, and Grafana's dashboard that is made of them. `tests/e2e/test_prometheus.py` runs their queries."""

import json
import re

import pytest

from ray_canary import charts, grafana, metrics
from ray_canary.charts import Chart

CHARTS = list(charts.charts())


def test_the_dashboard_in_the_repo_is_the_one_that_the_charts_make() -> None:
    assert grafana.PAGE.read_text(encoding="utf-8") == grafana.text(), "run `make docs`"


@pytest.mark.parametrize("metric", metrics.ALL, ids=lambda metric: metric.name)
def test_every_metric_is_looked_at(metric: metrics.Metric) -> None:
    expressions = [query.expression for chart in CHARTS for query in chart.queries]
    assert [one for one in expressions if re.search(rf"\b{metrics.exported(metric)}(_bucket)?\{{", one)]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_a_chart_is_of_one_deployment_and_says_what_it_shows(chart: Chart) -> None:
    assert chart.says.endswith(".")
    for query in chart.queries:
        said = charts.filled(query.expression, "d", "5m")
        assert 'canary_deployment="d"' in said
        assert "{deployment}" not in said
        assert "{window}" not in said
        assert said.count("(") == said.count(")")


def test_the_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = json.loads(grafana.text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert taken.isdisjoint(cells), panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_dashboard_lets_one_choose_the_prometheus_and_the_deployment() -> None:
    variables = grafana.dashboard()["templating"]["list"]
    assert [variable["name"] for variable in variables] == ["datasource", "deployment"]
    targets = [target for panel in grafana.dashboard()["panels"] for target in panel.get("targets", ())]
    assert all("$deployment" in target["expr"] for target in targets)
    assert {target["datasource"]["uid"] for target in targets} == {"${datasource}"}
