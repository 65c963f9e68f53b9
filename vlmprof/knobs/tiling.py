"""The same tiling for every image, whatever its size, so that every image is the same amount of work.

Under a cap, a wide image and a square one differ in crops, tokens and time, which is noise in a latency. This knob
removes that noise. It also changes the input: an image is letterboxed onto a canvas with another aspect ratio, which
the model was not trained on, so accuracies measured under this knob are those of the changed input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

from vlmprof.errors import KnobValueError, as_written
from vlmprof.knobs.knob import AbstractKnob, require_integer
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, FreeTiling, TokenCounts

BEYOND_TRAINING = 4
"""More crops than this many times the trained cap are refused as a typing error."""


@final
class Tiling(AbstractKnob):
    """``[rows, columns]`` of crops for every image; the global view is not counted."""

    needs = FreeTiling

    def check(self, value: Any, anatomy: Anatomy) -> None:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise KnobValueError(f"tiling: expected [rows, columns], got {as_written(value)}")
        for side in value:
            require_integer(side, low=1, name="tiling")
        limit = BEYOND_TRAINING * anatomy.max_crops
        if value[0] * value[1] > limit:
            raise KnobValueError(f"tiling: expected at most {limit} crops, got {value[0]} x {value[1]}")

    def conflict(self, value: Any, others: Mapping[str, Any], anatomy: Anatomy) -> str | None:
        # The tiling would silently override a smaller limit.
        crops, counts = value[0] * value[1], self.counts(value, anatomy, 1, 1)
        required = {"max_crops": crops, "vision_tokens": counts.vision_tokens if counts else 0}
        for knob, count in required.items():
            if others.get(knob, count) < count:
                return (
                    f"tiling: {value[0]} x {value[1]} needs {knob} of at least {count}, but the same point sets {knob}"
                    f" to {others[knob]}; remove one of the two knobs, or sweep them in two jobs"
                )
        return None

    def axis(self, value: Any) -> float:
        return float(value[0] * value[1])

    def counts(self, value: Any, anatomy: Anatomy, height: int, width: int) -> TokenCounts | None:
        return anatomy.count_tiling((value[0], value[1])) if anatomy.count_tiling else None

    @contextmanager
    def applied(self, model: FreeTiling, value: Sequence[int]) -> Iterator[None]:
        before = model.tiling
        model.tiling = (value[0], value[1])
        try:
            yield
        finally:
            model.tiling = before

    def effect(self, value: Sequence[int], anatomy: Anatomy, observed: Observation) -> Effect:
        if observed.tilings != {(value[0], value[1])}:
            return "mismatch"
        return "effective" if observed.capped_share > 0 else "no-op"


KNOB = Tiling()
