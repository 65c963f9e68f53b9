import json
import re

import pytest

from vlmprof.monitor.grafana import PANELS, dashboard
from vlmprof.monitor.ray_metrics import SERIES

KNOWN = {one.exported: one for one in SERIES}


def expressions():
    return [panel["targets"][0]["expr"] for panel in dashboard()["panels"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_query_names_a_series_that_exists_by_tags_that_it_has(expression):
    [name] = re.findall(r"ray_\w+", expression)
    assert name in KNOWN
    named = {tag for group in re.findall(r"by \(([^)]*)\)", expression) for tag in group.split(", ")} - {"le"}
    assert named <= set(KNOWN[name].tags)
    assert "without (WorkerId)" in expression, "a collector that was restarted would be counted beside itself"
    assert expression.count("(") == expression.count(")")


def test_legends_name_tags_that_the_series_has():
    for panel in PANELS:
        assert set(re.findall(r"{{(\w+)}}", panel.legend)) <= set(panel.of.tags)
        assert panel.of.exported in panel.expression


def test_every_series_is_drawn():
    assert {panel.of.name for panel in PANELS} == {one.name for one in SERIES}


def test_panels_do_not_overlap_and_it_is_plain_json():
    told = json.loads(json.dumps(dashboard(), allow_nan=False))
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in told["panels"]}
    assert len(places) == len({panel["id"] for panel in told["panels"]}) == len(PANELS)
    assert "label_values(ray_vlmprof_trials, sweep)" in json.dumps(told["templating"])
