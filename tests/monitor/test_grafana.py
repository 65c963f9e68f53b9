"""The Grafana dashboard that is shipped: it can be imported, and its queries ask for series and tags that exist."""

import json
import re
from importlib.resources import files
from itertools import combinations

import pytest

from tests.monitor.exported_names import exported_name
from vlmprof.monitor.ray_metrics import SERIES

DASHBOARD = json.loads(files("vlmprof.monitor").joinpath("grafana_dashboard.json").read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
BY_NAME = {exported_name(series): series for series in SERIES}
OF_RAY = {"WorkerId", "le"}
"""Labels that Ray and histograms add."""
CHOSEN = '{sweep=~"$sweep"}'

each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def series_of(expression: str):
    """The one series that a query reads."""
    [name] = set(re.findall(r"ray_\w+", expression))
    assert name in BY_NAME, f"{name} is not among the series of ray_metrics"
    return BY_NAME[name]


def labels_of(expression: str) -> set[str]:
    """Every label that a query groups or filters by."""
    grouped = re.findall(r"\b(?:by|without) \(([^)]*)\)", expression)
    filtered = re.findall(r"\{([^}]*)\}", expression)
    labels = {label.strip() for group in grouped for label in group.split(",")}
    return labels | {re.split(r"[=!~]", matcher)[0].strip() for group in filtered for matcher in group.split(",")}


@each_panel
def test_every_query_reads_a_series_that_exists_by_tags_that_it_has(panel):
    for target in panel["targets"]:
        expression = target["expr"]
        series = series_of(expression)
        assert labels_of(expression) <= {*series.tags, *OF_RAY}
        assert CHOSEN in expression, "the sweeps chosen at the top of the dashboard"
        assert "without (WorkerId)" in expression, "a restarted collector would be drawn as a second series"
        assert expression.count("(") == expression.count(")")


@each_panel
def test_a_query_suits_the_kind_of_its_series(panel):
    for target in panel["targets"]:
        kind, expression = series_of(target["expr"]).kind, target["expr"]
        assert ("histogram_quantile(" in expression) == (kind == "histogram")
        assert (re.search(r"\b(rate|increase)\(", expression) is not None) == (kind != "gauge")
        assert ("le" in labels_of(expression)) == (kind == "histogram")


@each_panel
def test_a_legend_names_labels_that_are_left_after_grouping(panel):
    for target in panel["targets"]:
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        grouped = re.search(r"\bby \(([^)]*)\)", target["expr"])
        kept = set(grouped[1].split(", ")) if grouped else set(series_of(target["expr"]).tags)
        assert named and named <= kept - {"le"}


@each_panel
def test_a_panel_says_what_it_shows_in_the_unit_of_its_series(panel):
    [series] = {series_of(target["expr"]) for target in panel["targets"]}
    assert panel["description"] == series.description
    unit = {"ms": "ms", "seconds": "s"}.get(series.name.rsplit("_", 1)[-1], "short")
    assert panel["fieldConfig"]["defaults"]["unit"] == unit


def test_every_series_is_drawn():
    drawn = {series_of(target["expr"]).name for panel in PANELS for target in panel["targets"]}
    assert drawn == {series.name for series in SERIES}


def test_grafana_can_import_it():
    """What Grafana's import needs: a title, a schema, panels of known types with their own ids and a place."""
    assert DASHBOARD["title"] and DASHBOARD["uid"] and len(DASHBOARD["uid"]) <= 40
    assert isinstance(DASHBOARD["schemaVersion"], int) and DASHBOARD["schemaVersion"] >= 36, "data sources as objects"
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["type"] in {"timeseries", "bargauge", "stat"}
        names = [target["refId"] for target in panel["targets"]]
        assert names and len(set(names)) == len(names)


def test_panels_lie_on_the_grid_and_do_not_overlap():
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0 for place in places)
    for a, b in combinations(places, 2):
        apart_across = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_down = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_across or apart_down, (a, b)


def test_the_data_source_is_chosen_in_grafana():
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert VARIABLES["datasource"]["type"] == "datasource" and VARIABLES["datasource"]["query"] == "prometheus"
    asked = [panel["datasource"] for panel in PANELS]
    asked += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    assert all(one == source for one in [*asked, VARIABLES["sweep"]["datasource"]])


def test_variables_are_declared_and_the_sweeps_are_those_of_a_series():
    built_in = {"__rate_interval", "__range", "__all"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used - built_in == set(VARIABLES)
    name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", VARIABLES["sweep"]["query"]).groups()
    assert label in BY_NAME[name].tags
