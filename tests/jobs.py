"""Job files for tests, as a person would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vlmprof.trial.resolve import Job, prepare

QUICK = {
    "repeats": 6,
    "max_repeats": 6,
    "warmup": 1,
    "warmup_seconds": 0,
    "requests": 1,
    "output_tokens": 2,
    "exclusive": False,
}
"""The least that gives every column."""


def job_file(folder: Path, checkpoint: Path | str, **sections: Any) -> Path:
    """A small job in ``folder``, with its results beside it; any section can be replaced."""
    job = {
        "name": "small",
        "models": [{"family": "demo", "checkpoint": str(checkpoint)}],
        "tasks": [{"name": "shapes_qa", "samples": 12, "seed": 3}],
        "knobs": {"max_crops": [1, 4], "moe_top_k": [1, 4]},
        "timing": QUICK,
        "batch": {"audit_samples": 0},  # the audit has tests of its own
        "storage": str(folder / "results"),
        **sections,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def small_job(folder: Path, checkpoint: Path | str, **sections: Any) -> Job:
    """The same, read and expanded."""
    return prepare(job_file(folder, checkpoint, **sections))
