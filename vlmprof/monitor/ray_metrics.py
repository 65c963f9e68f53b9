"""What a sweep tells Ray's metrics: one list of series, of which the gauge and the Grafana dashboard are both made.

Ray exports each as ``ray_<name>`` on every node's metrics port. Tags stay few: a trial's id is none, because every tag
value is a time series of its own for as long as the metrics server keeps data. Ray adds ``WorkerId``; a collector that
was restarted is a new worker, so queries sum ``without (WorkerId)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from vlmprof.analyze.status import Phase
from vlmprof.monitor.live_state import TrialLabel
from vlmprof.store.collector import TrialResult
from vlmprof.store.schema import STAGES

Kind = Literal["counter", "gauge", "histogram"]
MILLISECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000)
SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric."""

    name: str
    """As it is declared; Ray exports ``ray_<name>``, a counter as ``ray_<name>_total``."""
    kind: Kind
    about: str
    tags: tuple[str, ...]
    unit: str = ""
    """As Grafana spells it."""
    boundaries: tuple[float, ...] = ()
    """Of a histogram: upper ends of its buckets."""

    @property
    def exported(self) -> str:
        """The name that a metrics server sees; of a histogram, that of its buckets."""
        suffix = {"counter": "_total", "gauge": "", "histogram": "_bucket"}
        return f"ray_{self.name}{suffix[self.kind]}"


_OF = ("sweep", "model", "task")
SAMPLES = Series(name="vlmprof_samples_scored", kind="counter", about="Samples that were answered.", tags=_OF)
SAMPLES_PER_S = Series(
    name="vlmprof_samples_per_s",
    kind="gauge",
    about="Samples a second over the last minute, all trials together; 0 while nothing is scored.",
    tags=("sweep",),
)
TRIALS = Series(name="vlmprof_trials", kind="gauge", about="Trials by state.", tags=("sweep", "state"))
QUEUE = Series(name="vlmprof_queue", kind="gauge", about="Trials that wait for a free device.", tags=("sweep",))
ENDED = Series(
    name="vlmprof_trials_ended", kind="counter", about="Trials that ended in this run.", tags=(*_OF, "state")
)
OUT_OF_MEMORY = Series(
    name="vlmprof_out_of_memory",
    kind="counter",
    about="Trials of which not even one sample fitted in memory.",
    tags=_OF,
)
TRIAL_SECONDS = Series(
    name="vlmprof_trial_seconds",
    kind="histogram",
    about="How long a trial took, whatever its end.",
    tags=(*_OF, "state"),
    unit="s",
    boundaries=SECONDS,
)
BATCH_SIZE = Series(
    name="vlmprof_batch_size",
    kind="gauge",
    about="Largest batch of the score pass, of the trial that ended last.",
    tags=_OF,
)
STAGE_MS = Series(
    name="vlmprof_stage_ms",
    kind="histogram",
    about="Stages of each timed request, canaries left out; end_to_end is their sum.",
    tags=(*_OF, "stage"),
    unit="ms",
    boundaries=MILLISECONDS,
)
SERIES = (SAMPLES, SAMPLES_PER_S, TRIALS, QUEUE, ENDED, OUT_OF_MEMORY, TRIAL_SECONDS, BATCH_SIZE, STAGE_MS)


@final
class RayMetricSink:
    """Tells Ray's metrics what happens. For one process of a sweep, the collector's."""

    def __init__(self, sweep: str) -> None:
        """Declare every series."""
        from ray.util.metrics import Counter, Gauge, Histogram

        makers: dict[Kind, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
        self._told: dict[str, Any] = {}
        for one in SERIES:
            more = {"boundaries": list(one.boundaries)} if one.kind == "histogram" else {}
            told = makers[one.kind](one.name, description=one.about, tag_keys=one.tags, **more)
            self._told[one.name] = told.set_default_tags({"sweep": sweep})

    def scored(self, samples: int, label: TrialLabel) -> None:
        self._told[SAMPLES.name].inc(samples, {"model": label.model, "task": label.task})

    def ended(self, result: TrialResult) -> None:
        row = result.row
        of = {"model": str(row.get("model") or ""), "task": str(row.get("task") or "")}
        by_state = {**of, "state": result.state}
        self._told[ENDED.name].inc(1, by_state)
        if result.state == "oom":
            self._told[OUT_OF_MEMORY.name].inc(1, of)
        seconds, batch_size = row.get("seconds"), row.get("batch_size")
        if isinstance(seconds, (int, float)):
            self._told[TRIAL_SECONDS.name].observe(float(seconds), by_state)
        if isinstance(batch_size, (int, float)):
            self._told[BATCH_SIZE.name].set(float(batch_size), of)
        for stage, value in _stages(result):
            self._told[STAGE_MS.name].observe(value, {**of, "stage": stage})

    def standing(self, counts: Mapping[Phase, int], samples_per_s: float | None) -> None:
        for state, count in counts.items():
            self._told[TRIALS.name].set(count, {"state": state})
        self._told[QUEUE.name].set(counts["waiting"])
        self._told[SAMPLES_PER_S.name].set(samples_per_s or 0.0)


def _stages(result: TrialResult) -> Iterator[tuple[str, float]]:
    for timing in result.timings:
        for stage in (*STAGES, "end_to_end"):
            value = timing.get(f"{stage}_ms")
            if isinstance(value, (int, float)) and not timing.get("canary"):
                yield stage, float(value)
