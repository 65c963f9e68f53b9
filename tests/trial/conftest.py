"""Plans of one trial, for tests that run it in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import small_job
from vlmprof.plan.point import TrialPlan


@pytest.fixture
def plan_of(tmp_path: Path, tiny_checkpoint: Path) -> Callable[..., TrialPlan]:
    """Sections of a job -> its first trial."""

    def make(**sections: Any) -> TrialPlan:
        return small_job(tmp_path, tiny_checkpoint, **sections).plans[0]

    return make
