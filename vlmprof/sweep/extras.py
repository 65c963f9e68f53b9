"""``Extras``: where else a sweep writes what it finds, if a user asks: TensorBoard, MLflow, Weights & Biases.

Imports none of them; ``require`` says what is missing before anything runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import final

from vlmprof.errors import UserError
from vlmprof.records import Row


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What was asked for; nothing by default."""

    tensorboard: bool = False
    mlflow: str = ""
    """Tracking URI."""
    wandb: str = ""
    """Project."""

    def require(self, *, inline: bool) -> None:
        """Prove that what was asked for can be had.

        Raises:
            UserError: it is not installed, and how to get it; or it needs Ray, and the sweep runs ``inline``.
        """
        if inline and (self.mlflow or self.wandb):
            raise UserError("--mlflow and --wandb are callbacks of Ray Tune; leave --inline out to use them")
        asked = {"tensorboard": self.tensorboard, "mlflow": self.mlflow, "wandb": self.wandb}
        modules = {"tensorboard": "tensorboardX"}
        missing = [name for name, value in asked.items() if value and find_spec(modules.get(name, name)) is None]
        if missing:
            options = " and ".join(f"--{name}" for name in missing)
            raise UserError(f"{options}: not installed; 'pip install \"vlmprof[{','.join(missing)}]\"' brings it")


NONE = Extras()


def numbers(row: Row) -> Mapping[str, float]:
    """The columns of a row that are finite numbers: what a logger can plot. Yes and no are 1 and 0."""
    values = {name: value for name, value in row.items() if isinstance(value, (bool, int, float))}
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
