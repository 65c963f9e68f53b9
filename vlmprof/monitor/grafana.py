"""A Grafana dashboard for the series of ``telemetry``: made of the same list, so that the two cannot drift apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from vlmprof.monitor.ray_metrics import (
    BATCH_SIZE,
    ENDED,
    OUT_OF_MEMORY,
    QUEUE,
    SAMPLES,
    SAMPLES_PER_S,
    STAGE_MS,
    TRIAL_SECONDS,
    TRIALS,
    Series,
)

CHOSEN = '{sweep=~"$sweep"}'
"""What every query asks for: the sweeps chosen at the top of the dashboard."""
WIDTH, HEIGHT = 12, 8
"""Of a panel, in Grafana's units; a dashboard is 24 wide."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardPanel:
    """One panel."""

    title: str
    of: Series
    expression: str
    legend: str
    kind: str = "timeseries"
    unit: str = ""


def _now(series: Series) -> str:
    """The value of each set of tags, whichever process told it last."""
    return f"sum without (WorkerId) ({series.exported}{CHOSEN})"


def _rate(series: Series, by: str) -> str:
    return f"sum by ({by}) (sum without (WorkerId) (rate({series.exported}{CHOSEN}[$__rate_interval])))"


def _total(series: Series, by: str) -> str:
    return f"sum by ({by}) (sum without (WorkerId) (increase({series.exported}{CHOSEN}[$__range])))"


def _quantile(share: float, series: Series, by: str) -> str:
    buckets = f"sum without (WorkerId) (rate({series.exported}{CHOSEN}[$__rate_interval]))"
    return f"histogram_quantile({share}, sum by (le, {by}) ({buckets}))"


PANELS = (
    DashboardPanel(
        title="Trials by state", of=TRIALS, expression=_now(TRIALS), legend="{{sweep}} {{state}}", kind="bargauge"
    ),
    DashboardPanel(title="Trials that wait", of=QUEUE, expression=_now(QUEUE), legend="{{sweep}}"),
    DashboardPanel(
        title="Samples a second, last minute", of=SAMPLES_PER_S, expression=_now(SAMPLES_PER_S), legend="{{sweep}}"
    ),
    DashboardPanel(
        title="Samples a second by model and task",
        of=SAMPLES,
        expression=_rate(SAMPLES, "sweep, model, task"),
        legend="{{model}} {{task}}",
    ),
    DashboardPanel(
        title="Trials that ended, in this range",
        of=ENDED,
        expression=_total(ENDED, "sweep, state"),
        legend="{{sweep}} {{state}}",
        kind="stat",
    ),
    DashboardPanel(
        title="Trials out of memory, in this range",
        of=OUT_OF_MEMORY,
        expression=_total(OUT_OF_MEMORY, "sweep, model, task"),
        legend="{{model}} {{task}}",
        kind="stat",
    ),
    DashboardPanel(
        title="Stage latency, median of the buckets",
        of=STAGE_MS,
        expression=_quantile(0.5, STAGE_MS, "model, task, stage"),
        legend="{{model}} {{task}} {{stage}}",
        unit=STAGE_MS.unit,
    ),
    DashboardPanel(
        title="Stage latency, 95 % of the buckets",
        of=STAGE_MS,
        expression=_quantile(0.95, STAGE_MS, "model, task, stage"),
        legend="{{model}} {{task}} {{stage}}",
        unit=STAGE_MS.unit,
    ),
    DashboardPanel(title="Batch size", of=BATCH_SIZE, expression=_now(BATCH_SIZE), legend="{{model}} {{task}}"),
    DashboardPanel(
        title="Seconds a trial, median of the buckets",
        of=TRIAL_SECONDS,
        expression=_quantile(0.5, TRIAL_SECONDS, "model, task, state"),
        legend="{{model}} {{task}} {{state}}",
        unit=TRIAL_SECONDS.unit,
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it; the data source is chosen there."""
    return {
        "title": "vlmprof",
        "uid": "vlmprof-sweeps",
        "tags": ["vlmprof"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_data_source(), _sweep()]},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _sweep() -> dict[str, Any]:
    return {
        "name": "sweep",
        "label": "Sweep",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": f"label_values({TRIALS.exported}, sweep)",
        "refresh": 2,  # whenever the time range changes
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(number: int, panel: DashboardPanel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    query = {"refId": "A", "datasource": source, "expr": panel.expression, "legendFormat": panel.legend}
    instant = panel.kind != "timeseries"
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.of.about,
        "datasource": source,
        "gridPos": {"x": number % 2 * WIDTH, "y": number // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit or "short"}, "overrides": []},
        "targets": [{**query, "instant": instant, "range": not instant}],
    }
