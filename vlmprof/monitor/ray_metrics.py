"""The metrics that a sweep reports to Ray; ``grafana_dashboard.json`` draws them.

Ray exports each series as ``ray_<name>`` on every node's metrics port. Tags are few: a trial's id is not one of them,
because every value of a tag is a time series of its own for as long as the metrics server keeps data. Ray adds
``WorkerId``; a restarted collector is a new worker, so queries sum ``without (WorkerId)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

from vlmprof.analyze.status import Phase
from vlmprof.store.collector import TrialResult
from vlmprof.store.schema import STAGES

if TYPE_CHECKING:
    from vlmprof.monitor.live_state import TrialLabel

Kind = Literal["counter", "gauge", "histogram"]
MILLISECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000)
SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric."""

    name: str
    """As declared. Ray exports ``ray_<name>``, with ``_total`` for a counter and ``_bucket`` for a histogram."""
    kind: Kind
    description: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()
    """Upper ends of the buckets, for a histogram."""


_TRIAL_TAGS = ("sweep", "model", "task")
SAMPLES = Series(
    name="vlmprof_samples_scored", kind="counter", description="Samples that were scored.", tags=_TRIAL_TAGS
)
SAMPLES_PER_S = Series(
    name="vlmprof_samples_per_s",
    kind="gauge",
    description="Samples scored per second over the last minute, summed over all trials; 0 while nothing is scored.",
    tags=("sweep",),
)
TRIALS = Series(
    name="vlmprof_trials",
    kind="gauge",
    description="Number of trials in each state: waiting, running, done, oom, failed.",
    tags=("sweep", "state"),
)
QUEUE = Series(name="vlmprof_queue", kind="gauge", description="Trials that wait for a free device.", tags=("sweep",))
ENDED = Series(
    name="vlmprof_trials_ended",
    kind="counter",
    description="Trials that ended in this run.",
    tags=(*_TRIAL_TAGS, "state"),
)
OUT_OF_MEMORY = Series(
    name="vlmprof_out_of_memory",
    kind="counter",
    description="Trials that ended because not even one sample fitted in memory.",
    tags=_TRIAL_TAGS,
)
TRIAL_SECONDS = Series(
    name="vlmprof_trial_seconds",
    kind="histogram",
    description="Duration of a trial, however it ended.",
    tags=(*_TRIAL_TAGS, "state"),
    boundaries=SECONDS,
)
BATCH_SIZE = Series(
    name="vlmprof_batch_size",
    kind="gauge",
    description="Largest batch of the score pass in the trial that ended last.",
    tags=_TRIAL_TAGS,
)
STAGE_MS = Series(
    name="vlmprof_stage_ms",
    kind="histogram",
    description="Stage latency of each timed request, canaries excluded; end_to_end is the sum of the stages.",
    tags=(*_TRIAL_TAGS, "stage"),
    boundaries=MILLISECONDS,
)
SERIES = (SAMPLES, SAMPLES_PER_S, TRIALS, QUEUE, ENDED, OUT_OF_MEMORY, TRIAL_SECONDS, BATCH_SIZE, STAGE_MS)


@final
class RayMetricSink:
    """Reports to Ray's metrics; made once in a sweep, in the process of the collector."""

    def __init__(self, sweep: str) -> None:
        """Declare every series, with the sweep's name as a tag of each."""
        from ray.util.metrics import Counter, Gauge, Histogram

        makers: dict[Kind, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
        self._metrics: dict[str, Any] = {}
        for series in SERIES:
            buckets = {"boundaries": list(series.boundaries)} if series.kind == "histogram" else {}
            make = makers[series.kind]
            metric = make(series.name, description=series.description, tag_keys=series.tags, **buckets)
            self._metrics[series.name] = metric.set_default_tags({"sweep": sweep})

    def scored(self, samples: int, label: TrialLabel) -> None:
        self._metrics[SAMPLES.name].inc(samples, {"model": label.model, "task": label.task})

    def ended(self, result: TrialResult) -> None:
        row = result.row
        tags = {"model": str(row.get("model") or ""), "task": str(row.get("task") or "")}
        by_state = {**tags, "state": result.state}
        self._metrics[ENDED.name].inc(1, by_state)
        if result.state == "oom":
            self._metrics[OUT_OF_MEMORY.name].inc(1, tags)
        seconds, batch_size = row.get("seconds"), row.get("batch_size")
        if isinstance(seconds, (int, float)):
            self._metrics[TRIAL_SECONDS.name].observe(float(seconds), by_state)
        if isinstance(batch_size, (int, float)):
            self._metrics[BATCH_SIZE.name].set(float(batch_size), tags)
        for stage, value in _stages(result):
            self._metrics[STAGE_MS.name].observe(value, {**tags, "stage": stage})

    def standing(self, counts: Mapping[Phase, int], samples_per_s: float | None) -> None:
        for state, count in counts.items():
            self._metrics[TRIALS.name].set(count, {"state": state})
        self._metrics[QUEUE.name].set(counts["waiting"])
        self._metrics[SAMPLES_PER_S.name].set(samples_per_s or 0.0)


def _stages(result: TrialResult) -> Iterator[tuple[str, float]]:
    for timing in result.timings:
        for stage in (*STAGES, "end_to_end"):
            value = timing.get(f"{stage}_ms")
            if isinstance(value, (int, float)) and not timing.get("canary"):
                yield stage, float(value)
