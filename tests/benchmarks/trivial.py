"""Trials that take no time: plans as a job makes them, rows as a trial gives them, and no model between."""

from __future__ import annotations

import itertools
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.builders import trial_row
from vlmprof.plan.point import TrialPlan
from vlmprof.store.collector import TrialResult
from vlmprof.trial.columns.identity import identity
from vlmprof.trial.resolve import Job, prepare

GRID = {
    "max_crops": list(range(1, 10)),
    "moe_top_k": list(range(1, 9)),
    "active_blocks": [{"keep": keep, "policy": "prefix"} for keep in range(1, 9)],
    "output_tokens": list(range(1, 19)),
}
"""10,368 points of the demo model; a benchmark takes the first so many."""
SAMPLES, TIMINGS = 16, 8
"""Rows of a trial in the two other tables."""


def job(folder: Path) -> Job:
    """The job of all points, as its file is read, checked and expanded."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.yaml"
    sections = {
        "name": "overhead",
        "models": ["demo"],
        "tasks": [{"name": "shapes_qa", "samples": SAMPLES}],
        "knobs": GRID,
        "timing": {"exclusive": False},
        "storage": str(folder / "results"),
    }
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
    return prepare(path, allow_many=True)


_MEASURED = {
    key: value
    for key, value in trial_row({}).items()
    if key not in {"trial", "sweep", "state", "point", "model", "family", "model_fingerprint", "task", "split", "seed"}
}


def result(plan: TrialPlan) -> TrialResult:
    """What a trial would have given, in the columns of a real one; ``started`` is seconds since 1970."""
    trial = plan.id
    row = {**_MEASURED, **identity(plan), "state": "done", "started": repr(time.time()), "work_key": trial}
    samples = tuple({**_SAMPLE, "trial": trial, "sample": f"held_out/{number:06d}/q0"} for number in range(SAMPLES))
    timings = tuple({**_TIMING, "trial": trial, "repeat": number} for number in range(TIMINGS))
    knobs = tuple(dict(plan.point))
    return TrialResult(trial=trial, knobs=knobs, state="done", row=row, samples=samples, timings=timings)


_SAMPLE: Mapping[str, Any] = {
    "cluster": "held_out/000001",
    "question_type": "colour",
    "prediction": "red",
    "score": 1.0,
    "parsed": True,
    "end": "eos",
    "tokens_generated": 3,
    "tiling_rows": 1,
    "tiling_cols": 2,
    "capped": False,
    "crops": 3,
    "vision_tokens": 48,
    "prompt_tokens": 80,
    "effective_key": "0123456789ab",
    "batch_size": 4,
}
_STAGES = ("preprocess", "transfer", "vision", "connector", "prefill", "decode")
_TIMING: Mapping[str, Any] = {
    "session": 0,
    "block": 0,
    "canary": False,
    "request": 0,
    "batch_size": 1,
    "output_tokens": 4,
    **{f"{stage}_ms": 1.5 for stage in _STAGES},
    "step_ms": [0.5, 0.5, 0.5, 0.5],
    "end_to_end_ms": 9.0,
}


class Executor:
    """With the face of ``vlmprof.trial.executor.Executor``: reports once, answers at once."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def run(self, plan: TrialPlan, report: Callable[[Any], None], *_: object, **__: object) -> TrialResult:
        from vlmprof.trial.progress import Progress

        report(Progress(phase="score", done=0, total=SAMPLES))
        return result(plan)


def instead_of_models() -> None:
    """In a worker, before it runs anything: whoever imports the executor gets the one above."""
    fake = types.ModuleType("vlmprof.trial.executor")
    fake.Executor = Executor  # type: ignore[attr-defined]
    sys.modules[fake.__name__] = fake


def pace_ms(starts: list[float]) -> dict[str, Any]:
    """Milliseconds a trial from the times at which trials began: in all, and in each tenth of the sweep."""
    ordered = sorted(starts)
    tenth = max(2, len(ordered) // 10)
    parts = [ordered[at : at + tenth + 1] for at in range(0, len(ordered) - tenth, tenth)]
    between = [1000 * (part[-1] - part[0]) / (len(part) - 1) for part in parts if len(part) > 1]
    gaps = sorted(1000 * (b - a) for a, b in itertools.pairwise(ordered))
    steady = 1000 * (ordered[-1] - ordered[0]) / (len(ordered) - 1)
    return {"steady_ms": steady, "tenths_ms": [round(one, 2) for one in between], "gap_ms_p50": gaps[len(gaps) // 2]}
