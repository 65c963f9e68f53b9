"""The numbers of a training run, in one place: how many scenes, which stages, which rates.

Made for one data-centre GPU and about ten minutes; MODEL_CARD.md says what it gave.
"""

import math
from dataclasses import dataclass
from typing import Final, final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a run but the code and the machine."""

    seed: int = 0
    easy_scenes: int = 6_000
    full_scenes: int = 64_000
    # Scene n is tiled under caps[n % 6]: the model sees every tiling it can be asked to use, the trained cap most
    # often.
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
    # A price on routers that are sure of one expert, so that each of the top k carries its share.
    concentration_weight: float = 0.01
    dense_weight: float = 0.5
    # The share of the joint stage after which the dense heads have no more say. Digits need them longest.
    dense_until: float = 0.9
    # Blocks 1.. are each left out of a step this often, so that losing one later degrades answers and does not end
    # them.
    layer_drop: float = 0.05
    # On a GPU products in bf16; sums, losses and weights in float32.
    half: bool = True
    report_every: int = 200
    check_every: int = 2_000

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return self.vision_steps + self.joint_steps

    def rate(self, step: int) -> float:
        """The learning rate of a step: warm-up and plateau for vision, warm-up and cosine for the joint stage."""
        if step < self.vision_steps:
            return self.vision_rate * min(1.0, (step + 1) / self.warmup_steps)
        done = (step - self.vision_steps) / self.joint_steps
        cosine = self.final_rate_share + (1 - self.final_rate_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.joint_rate * cosine * min(1.0, (step - self.vision_steps + 1) / self.warmup_steps)

    def dense_share(self, step: int) -> float:
        """The weight of the dense heads' loss at a step: 1 alone, then falling to 0."""
        if step < self.vision_steps:
            return 1.0
        done = (step - self.vision_steps) / self.joint_steps
        return self.dense_weight * max(0.0, 1.0 - done / self.dense_until)

    def is_easy(self, step: int) -> bool:
        """Whether a step draws from the easy scenes (few, large objects)."""
        return self.vision_steps <= step < self.vision_steps + self.easy_share * self.joint_steps


RECIPE: Final = Recipe()
