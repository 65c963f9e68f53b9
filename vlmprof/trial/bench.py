"""``Bench``: what a loaded model keeps from trial to trial, so that a sweep does no work twice.

Its engine with the steps it has recorded; what its vision side made of images; and the answers it gave lately. All of
it serves answers that are scored. A timed generation shares the engine alone.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, final

from vlmprof.engine.engine import EAGER, AbstractEngine
from vlmprof.engine.greedy import generate
from vlmprof.engine.sights import Prepared, RowwiseVision, Sights, looking_at
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import TrialPlan
from vlmprof.records import Generation, Picture
from vlmprof.trial.load import but_for_length
from vlmprof.trial.samples import Asked, Opened, Scored, open_pictures

MOST_AHEAD = 4
"""Batches of pixels that the host holds at once."""
REMEMBERED = 8
"""Configurations whose answers are kept: a sweep's plan puts those that differ in ``output_tokens`` side by side."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """All answers of one score pass."""

    trial: str
    cap: int
    scored: tuple[Scored, ...]
    audited: tuple[Generation, ...]
    """The answers of the audit, at batch 1."""


@final
class Bench:
    """One loaded model with what it keeps."""

    def __init__(self, model: AbstractModel, *, engine: AbstractEngine = EAGER, sights: Sights | None = None) -> None:
        """Without ``sights`` nothing is kept of images."""
        self.model, self.engine = model, engine
        self.sights = Sights(0) if sights is None else sights
        self._said: OrderedDict[Hashable, Said] = OrderedDict()

    def answer(self, prepared: Callable[[], Prepared], asked: Sequence[Asked], cap: int) -> tuple[Generation, ...]:
        """Answer one batch of samples whose pictures are open."""
        prompts = [one.prompt for one in asked]
        look = looking_at(self.sights, prepared)
        return generate(self.model, prompts, max_new_tokens=cap, engine=self.engine, look=look).generations

    def prepare(self, asked: Sequence[Asked]) -> Prepared:
        """Encode a batch of samples whose pictures are open, as far as that is needed."""
        return self.sights.prepare(self.model, [one.prompt for one in asked])

    def answer_alone(self, asked: Asked, cap: int) -> Generation:
        """Answer one sample at batch 1, its picture looked at anew: what is kept was seen in a batch."""
        return generate(self.model, [asked.prompt], max_new_tokens=cap, engine=self.engine).generations[0]

    def remember(self, plan: TrialPlan, said: Said) -> None:
        """Keep the answers of a trial, unless some sample has none."""
        if any(one.generation is None for one in said.scored):
            return
        self._said[but_for_length(plan)] = said
        while len(self._said) > REMEMBERED:
            self._said.popitem(last=False)

    def recall(self, plan: TrialPlan, cap: int) -> Said | None:
        """Answers that were given at the same setting with no smaller cap, cut to this one; None where there are none.

        Exact, because a greedy answer at a cap is the beginning of the answer at a larger one.
        """
        said = self._said.get(but_for_length(plan))
        if said is None or said.cap < cap:
            return None
        scored = tuple(replace(one, generation=self._cut(one.generation, cap)) for one in said.scored)
        audited = tuple(self._cut(generation, cap) for generation in said.audited)
        return Said(trial=said.trial, cap=cap, scored=scored, audited=audited)

    def _cut(self, generation: Any, cap: int) -> Any:
        if generation.tokens <= cap:
            return generation
        ids = generation.ids[:cap]
        return replace(generation, ids=ids, tokens=cap, text=self.model.text(ids), end="cap")


@final
class NextBatch:
    """The batches after this one, opened and encoded beside the work of the device. On a CPU there is no beside.

    A context manager: what was begun has ended when it is left, so that it never sees the knobs of another trial.
    """

    def __init__(self, bench: Bench, wait: Callable[[Iterable[Picture]], None]) -> None:
        """``wait`` is called before pictures are opened: others may be decoding them. Several threads may call it."""
        self.bench, self._wait = bench, wait
        self.most = ahead(bench.model)
        """How many of the next batches are worked on while this one is."""
        self._workers = ThreadPoolExecutor(self.most) if self.most else None
        self._coming: dict[tuple[str, ...], Future[tuple[Opened, Prepared | None]]] = {}

    def __enter__(self) -> NextBatch:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._workers is not None:
            self._workers.shutdown(wait=True, cancel_futures=True)

    def take(self, asked: Sequence[Asked], left: Sequence[Asked]) -> tuple[Opened, Callable[[], Prepared]]:
        """This batch, and a start on those of the same size that will follow if all goes well.

        Args:
            asked: This batch.
            left: All that comes after it.
        """
        coming, self._coming = self._coming, {}
        waiting = coming.pop(_names(asked), None)
        if self._workers is not None:
            for batch in islice(batched(left, max(1, len(asked))), self.most):
                known = coming.pop(_names(batch), None)
                self._coming[_names(batch)] = known or self._workers.submit(self._prepare, batch)
        for other in coming.values():  # of another size, from before the sizes changed
            other.cancel()
        opened, prepared = waiting.result() if waiting is not None else (self._open(asked), None)
        if prepared is None:
            return opened, partial(self.bench.prepare, opened.readable)
        return opened, partial(_same, prepared)

    def _open(self, asked: Sequence[Asked]) -> Opened:
        self._wait(one.prompt.picture for one in asked)
        return open_pictures(asked)

    def _prepare(self, asked: Sequence[Asked]) -> tuple[Opened, Prepared | None]:
        opened = self._open(asked)
        return opened, self.bench.prepare(opened.readable) if opened.readable else None


def ahead(model: AbstractModel) -> int:
    """Batches that are encoded beside the work of the device, each by a thread of its own.

    Cutting a batch's images takes a core longer than the device needs to look at them; a quarter of the cores leaves
    room for other trials of the host. One thread where the encoding is a library's: its tokenizers change when they
    pad, and two threads must not do that at once.
    """
    if not model.device.startswith("cuda"):
        return 0
    return max(1, min(MOST_AHEAD, (os.cpu_count() or 1) // 4)) if isinstance(model, RowwiseVision) else 1


def _same(prepared: Prepared) -> Prepared:
    return prepared


def _names(asked: Sequence[Asked]) -> tuple[str, ...]:
    return tuple(one.example.id for one in asked)


def batched(asked: Sequence[Asked], size: int) -> Iterator[Sequence[Asked]]:
    """Consecutive batches; the last may be smaller."""
    return (asked[start : start + size] for start in range(0, len(asked), size))
