"""The hyperparameters of a training run: number of scenes, stages, learning rates, loss weights.

Chosen for about ten minutes on one data-centre GPU; MODEL_CARD.md has the results.
"""

import math
from dataclasses import dataclass
from typing import Final, final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that determines a training run, apart from code and hardware."""

    seed: int = 0
    easy_scenes: int = 6_000
    full_scenes: int = 64_000
    # Scene n is tiled under a limit of caps[n % 6] crops: training covers all tilings that a sweep can use, and the
    # default limit most often.
    caps: tuple[int, ...] = (9, 9, 6, 4, 2, 1)
    scenes_per_step: int = 128
    vision_steps: int = 1_500
    joint_steps: int = 12_000
    easy_share: float = 0.02
    vision_rate: float = 2e-3
    joint_rate: float = 1.5e-3
    final_rate_share: float = 0.02
    warmup_steps: int = 200
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    balance_weight: float = 0.01
    # Weight of a penalty on routers that concentrate on one expert, so that all of the top k contribute.
    concentration_weight: float = 0.01
    dense_weight: float = 0.5
    # The share of the joint stage after which the dense loss has weight 0. Digits need it longest.
    dense_until: float = 0.9
    # Probability that a block (except block 0) is skipped in a step, so that removing a block later degrades answers
    # only gradually.
    layer_drop: float = 0.05
    # On a GPU: matrix products in bf16; sums, losses and weights in float32.
    half: bool = True
    report_every: int = 200
    check_every: int = 2_000

    @property
    def steps(self) -> int:
        """Number of steps of both stages."""
        return self.vision_steps + self.joint_steps

    def rate(self, step: int) -> float:
        """The learning rate of a step: warm-up and constant (vision), warm-up and cosine decay (joint)."""
        if step < self.vision_steps:
            return self.vision_rate * min(1.0, (step + 1) / self.warmup_steps)
        done = (step - self.vision_steps) / self.joint_steps
        cosine = self.final_rate_share + (1 - self.final_rate_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.joint_rate * cosine * min(1.0, (step - self.vision_steps + 1) / self.warmup_steps)

    def dense_share(self, step: int) -> float:
        """The weight of the dense loss at a step: 1 in the vision stage, then decreasing linearly to 0."""
        if step < self.vision_steps:
            return 1.0
        done = (step - self.vision_steps) / self.joint_steps
        return self.dense_weight * max(0.0, 1.0 - done / self.dense_until)

    def is_easy(self, step: int) -> bool:
        """Whether a step uses the easy scenes (few, large objects)."""
        return self.vision_steps <= step < self.vision_steps + self.easy_share * self.joint_steps


RECIPE: Final = Recipe()
