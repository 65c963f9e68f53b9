"""One tiling for every image, whatever its size: equal work on every image.

With a cap, a wide image and a square one differ in crops, tokens and time. For latency that is noise; this knob takes
it away. It also distorts: an image is letterboxed onto a canvas whose shape is not its own, which the model was not
trained on, so accuracies under it are those of the distorted input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

from vlmprof.errors import KnobValueError
from vlmprof.knobs.knob import AbstractKnob, require_whole
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, FreeTiling, TokenCounts

BEYOND_TRAINING = 4
"""More crops than this many times the trained cap are a slip of the keyboard, not an experiment."""


@final
class Tiling(AbstractKnob):
    """``[rows, columns]`` of crops for every image; the global view comes on top."""

    needs = FreeTiling

    def check(self, value: Any, anatomy: Anatomy) -> None:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise KnobValueError(f"tiling: expected [rows, columns], got {value!r}")
        for side in value:
            require_whole(side, low=1, of="tiling")
        most = BEYOND_TRAINING * anatomy.max_crops
        if value[0] * value[1] > most:
            raise KnobValueError(f"tiling: expected at most {most} crops, got {value[0]} x {value[1]}")

    def conflict(self, value: Any, others: Mapping[str, Any], anatomy: Anatomy) -> str | None:
        # The tiling would win without a word over any limit that is smaller.
        crops, counts = value[0] * value[1], self.counts(value, anatomy, 1, 1)
        made = {"max_crops": crops, "vision_tokens": counts.vision_tokens if counts else 0}
        for limit, many in made.items():
            if others.get(limit, many) < many:
                return (
                    f"tiling: {value[0]} x {value[1]} makes {many}, more than {limit} {others[limit]} beside it allows;"
                    " leave one of the two out, or take their values apart into two jobs"
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

    def effect(self, value: Sequence[int], anatomy: Anatomy, seen: Observation) -> Effect:
        if seen.tilings != {(value[0], value[1])}:
            return "mismatch"
        return "effective" if seen.capped_share > 0 else "no-op"


KNOB = Tiling()
