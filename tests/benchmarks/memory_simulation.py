"""Simulated devices and models for the benchmark of the batch sizer: how much memory a batch takes, and no more.

A world is one device and one model. The memory of a batch is the most that any of three phases takes (vision encoder;
prefill with its activations and experts; decode with the whole cache), each linear in the batch, plus workspaces that
appear in three steps as the batch grows, plus what the process holds anyway. A run of it takes a little more than that,
never twice the same: fragmentation of 0.5 to 2 %, a half-normal 1 %, and growth with every distinct size and every
out-of-memory error the process has been through. With ``jitter`` each configuration's slope is off by its own random
share, which breaks every order between configurations.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

GIB = 2**30
CROPS, TOP_K, BLOCKS = (2, 4, 6, 9, 12), (1, 2, 4, 6, 8), (8, 10, 12, 14, 16)
GRID = list(itertools.product(CROPS, TOP_K, BLOCKS))
SAMPLES = 1000
"""Questions a configuration answers in production."""
MOST = 2048


@dataclass(frozen=True)
class Config:
    crops: int
    top_k: int
    blocks: int

    @property
    def tokens(self) -> float:
        return 144 + 110 * self.crops + 60


class World:
    """One device with one model; ``peak`` is a run of it."""

    def __init__(self, seed: int, jitter: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.total = float(rng.choice([16, 24, 40, 48, 80])) * GIB
        self.floor = self.total * rng.uniform(0.1, 0.45)
        self._coefficients = self._phases(rng)
        middle = Config(6, 4, 12)
        room = self.total - self.floor
        # So that the largest configuration holds 6 to 40 samples.
        per_sample = room / rng.uniform(6, 40)
        scale = per_sample / self._slope(Config(12, 8, 16))
        self._coefficients = {name: value * scale for name, value in self._coefficients.items()}
        thresholds = np.exp(rng.uniform(np.log(2), np.log(200), 3)) * middle.tokens
        self._steps = [(t, self.total * rng.uniform(0.003, 0.012)) for t in thresholds]
        self._jitter = {config: 1 + jitter * rng.standard_normal() for config in GRID}
        self._saturated = rng.uniform(0.1, 0.9)
        self._rng = rng

    @staticmethod
    def _phases(rng: np.random.Generator) -> dict[str, float]:
        """Coefficients in arbitrary units; each phase comes within a factor of two of the others in the middle."""
        middle = Config(6, 4, 12)
        vision = rng.uniform(0.4, 1.0) / middle.crops
        activations = rng.uniform(0.5, 1.0) / middle.tokens
        expert_share, cache_share = rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.5)
        rest = max(0.1, 1 - expert_share - cache_share)
        return {
            "vision": vision,
            "hidden": activations * rest,
            "expert": activations * expert_share / middle.top_k,
            "cache": activations * cache_share / middle.blocks,
            "logits": rng.uniform(0.0, 0.15),
            "cache_decode": rng.uniform(0.5, 1.0) / middle.tokens / middle.blocks * rng.uniform(0.5, 1.0),
        }

    def _slopes(self, config: Config) -> dict[str, float]:
        c, tokens = self._coefficients, config.tokens
        vision = c["vision"] * config.crops
        prefill = tokens * (c["hidden"] + c["expert"] * config.top_k + c["cache"] * config.blocks)
        decode = c["logits"] + c["cache_decode"] * (tokens + 30) * config.blocks
        return {"vision": float(vision), "prefill": float(prefill), "decode": float(decode)}

    def _slope(self, config: Config) -> float:
        return max(self._slopes(config).values())

    def clean(self, point: tuple[int, int, int], size: int) -> float:
        """Bytes of a worst-case batch on a fresh device."""
        return max(self.clean_phases(point, size).values())

    def clean_phases(self, point: tuple[int, int, int], size: int) -> dict[str, float]:
        """The same of each phase; workspaces, once made, are there in all of them."""
        config, jitter = Config(*point), max(self._jitter[point], 0.5)
        steps = sum(extra for threshold, extra in self._steps if size * config.tokens > threshold)
        return {phase: self.floor + size * slope * jitter + steps for phase, slope in self._slopes(config).items()}

    def true_maximum(self, point: tuple[int, int, int]) -> int:
        """The largest batch whose worst case fits on a fresh device."""
        low, high = 0, MOST
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.clean(point, middle) <= self.total else (low, middle - 1)
        return low

    def process(self) -> Process:
        return Process(self, np.random.default_rng(self._rng.integers(2**63)))

    def production(self, point: tuple[int, int, int], size: int, process: Process) -> bool:
        """Whether a score pass at this size goes through: every batch in which most questions are the largest."""
        if size < 1:
            return True
        full = int(self._saturated * SAMPLES / size)
        peaks = [process.peak(point, min(size, SAMPLES)) for _ in range(max(full, 1))]
        return max(peaks) <= self.total


class Process:
    """A process on the device, with its fragmentation."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self._world, self._rng = world, rng
        self._apart = np.random.default_rng(rng.bit_generator.seed_seq.spawn(1)[0])  # type: ignore[attr-defined]
        self._sizes: set[int] = set()
        self._failures = 0

    def peak(self, point: tuple[int, int, int], size: int) -> float:
        """Bytes at the peak of one run; above the device's total it ran out of memory."""
        clean, floor = self._world.clean(point, size), self._world.floor
        self._sizes.add(size)
        wear = min(0.005, 0.00005 * len(self._sizes) + 0.0005 * self._failures)
        extra = self._rng.uniform(0.005, 0.02) + abs(self._rng.normal(0, 0.01)) + wear
        peak = floor + (clean - floor) * (1 + extra)
        self._failures += peak > self._world.total
        return float(peak)

    def phases(self, point: tuple[int, int, int], size: int, peak: float) -> dict[str, float]:
        """What a run with this peak took in each of its phases: each has wear of its own, none is above the peak."""
        clean, floor = self._world.clean_phases(point, size), self._world.floor
        highest = max(clean, key=lambda phase: clean[phase])

        def worn(bytes_: float) -> float:
            extra = self._apart.uniform(0.005, 0.02) + abs(self._apart.normal(0, 0.01))
            return min(float(floor + (bytes_ - floor) * (1 + extra)), peak)

        return {phase: peak if phase == highest else worn(bytes_) for phase, bytes_ in clean.items()}
