"""``PartialResults``: the answers of a running trial on their way to the collector, and back after its process died.

Answers are kept at the end of a batch, so that the batches of a resumed trial are those it would have had. What comes
back is the generation; the metric judges it again, which gives the same. Limits: at most ``ChunkSpec.seconds`` of
scoring are lost with a process; the audit and the timing pass begin anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, final

from vlmprof.errors import OutOfMemory, Uncollected
from vlmprof.job.spec import ChunkSpec
from vlmprof.measure.environment import device_name
from vlmprof.measure.memory import read_peak
from vlmprof.measure.versions import software
from vlmprof.records import Encoding, Generation, Row
from vlmprof.store.attempts import AttemptStart, Chunk
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import NOT_MERGED, MergedAttempts, Sample, ScoredSample
from vlmprof.trial.resolve import ResolvedTrial
from vlmprof.trial.samples import judge_answer

WORTH_S = 1.0
"""Less scoring than this is not worth a file of its own when the pass is over."""


class AnswerStore(Protocol):
    """Who keeps the answers of trials that have not ended; see ``store.collector.Collector``."""

    def under_way(self, trial: str, attempt: str, samples: Sequence[str]) -> None: ...
    def keep(self, chunk: Chunk) -> None: ...


@final
@dataclass(slots=True)
class _Pending:
    scored: list[ScoredSample] = field(default_factory=list)
    since: float = 0.0


@final
class PartialResults:
    """The answers of one attempt. A context manager around its score pass."""

    def __init__(
        self,
        begun: AttemptStart,
        answer_store: AnswerStore | None,
        trial: str,
        policy: ChunkSpec,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is sent yet.

        Args:
            begun: What the collector said when the trial began.
            answer_store: Takes what is answered; None keeps nothing.
            trial: Its id.
            policy: When a chunk is full.
            clock: Seconds.
        """
        self._begun, self._answer_store, self._trial, self._policy, self._clock = (
            begun,
            answer_store,
            trial,
            policy,
            clock,
        )
        self._pending = _Pending()
        self._number = 0
        self._own = 0
        self._used: list[Chunk] = []
        self._bench: LoadedModel | None = None

    @classmethod
    def discarding(cls) -> PartialResults:
        """Of a trial whose answers nobody keeps."""
        return cls(AttemptStart(attempt=""), None, "", ChunkSpec())

    def alone(self, asked: Sample) -> bool:
        """Whether a sample is to be scored by itself: processes have died with it under way."""
        return asked.example.id in self._begun.alone

    def sound(self, asked: Iterable[Sample]) -> list[Sample]:
        """Those that have not ended every process that scored them."""
        return [one for one in asked if one.example.id not in self._begun.quarantined]

    def __enter__(self) -> PartialResults:
        self._pending = _Pending(since=self._clock())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is pending is kept, also where the pass was cut off; not where it ended the trial."""
        if kind is None:
            if self._seconds() >= WORTH_S:
                self.flush()
            self._tell([])
        elif not issubclass(kind, OutOfMemory | Uncollected):
            with suppress(Uncollected):  # what is being raised says more
                self.flush()

    def known(self, resolved: ResolvedTrial, asked: Iterable[Sample], loaded: LoadedModel) -> dict[str, ScoredSample]:
        """Sample -> what is known of it already: kept by an earlier attempt, or quarantined."""
        self._bench = loaded
        examples = {one.example.id: one.example for one in asked}
        found: dict[str, ScoredSample] = {}
        for chunk in self._begun.chunks:
            rows = [row for row in chunk.rows if row["sample"] in examples and row["sample"] not in found]
            found |= {str(row["sample"]): _scored(resolved, examples[str(row["sample"])], row) for row in rows}
            self._used += [chunk] if rows else []
        for sample in self._begun.quarantined.keys() & examples.keys() - found.keys():
            reason = f"quarantined: {self._begun.quarantined[sample]}"
            found[sample] = ScoredSample(
                example=examples[sample], generation=None, score=None, batch_size=0, error=reason, quarantined=True
            )
        return found

    def announce(self, asked: Sequence[Sample]) -> None:
        """These are scored next: if the process dies now, it died of one of them.

        Raises:
            Uncollected: the collector refuses.
        """
        self._tell([one.example.id for one in asked])

    def add(self, scored: Sequence[ScoredSample]) -> None:
        """The end of a batch.

        Raises:
            Uncollected: the collector refuses.
        """
        self._own += len(scored)
        self._pending.scored += scored
        if len(self._pending.scored) >= self._policy.answers or self._seconds() >= self._policy.seconds:
            self.flush()

    def flush(self) -> None:
        """Send what is pending.

        Raises:
            Uncollected: the collector refuses.
        """
        answer_store, pending = self._answer_store, self._pending
        if answer_store is None or not pending.scored:
            return
        assert self._bench is not None, "known() comes first"
        peak = read_peak(self._bench.model.device)
        chunk = Chunk(
            trial=self._trial,
            attempt=self._begun.attempt,
            number=self._number,
            rows=tuple(_row(one) for one in pending.scored),
            seconds=self._seconds(),
            peak_bytes=peak.peak_bytes if peak else None,
            made_on=_made_on(self._bench),
            software=software(),
        )
        try:
            answer_store.keep(chunk)
        except Exception as error:
            raise Uncollected(str(error)) from error
        self._number += 1
        self._pending = _Pending(since=self._clock())

    def merged(self) -> MergedAttempts:
        """Whose answers they are, now that all are there."""
        if not self._used:
            return NOT_MERGED
        here = [_made_on(self._bench)] if self._own and self._bench else []
        mixed = _differences([*(chunk.made_on for chunk in self._used), *here])
        peaks = [chunk.peak_bytes for chunk in self._used if chunk.peak_bytes is not None]
        return MergedAttempts(
            samples=sum(len(chunk.rows) for chunk in self._used),
            processes=len({chunk.attempt for chunk in self._used}) + bool(self._own),
            mixed=mixed,
            peak_bytes=max(peaks) if peaks and "device" not in mixed else None,
        )

    def _seconds(self) -> float:
        return self._clock() - self._pending.since

    def _tell(self, samples: Sequence[str]) -> None:
        if self._answer_store is None:
            return
        try:
            self._answer_store.under_way(self._trial, self._begun.attempt, samples)
        except Exception as error:
            raise Uncollected(str(error)) from error


def _row(one: ScoredSample) -> Row:
    row: dict[str, Any] = {"sample": one.example.id, "batch_size": one.batch_size, "error": one.error or None}
    if one.generation is None:
        return row
    generation, encoding = one.generation, one.generation.encoding
    return {
        **row,
        "text": generation.text,
        "ids": generation.ids,
        "end": generation.end,
        "tokens": generation.tokens,
        "tiling_rows": encoding.tiling[0],
        "tiling_cols": encoding.tiling[1],
        "natural_rows": encoding.natural_tiling[0],
        "natural_cols": encoding.natural_tiling[1],
        "crops": encoding.crops,
        "vision_tokens": encoding.vision_tokens,
        "prompt_tokens": encoding.prompt_tokens,
    }


def _scored(resolved: ResolvedTrial, example: Any, row: Mapping[str, Any]) -> ScoredSample:
    if row["error"]:
        return ScoredSample(
            example=example, generation=None, score=None, batch_size=row["batch_size"], error=row["error"]
        )
    generation = Generation(
        text=row["text"],
        tokens=row["tokens"],
        end=row["end"],
        ids=tuple(row["ids"]),
        encoding=Encoding(
            tiling=(row["tiling_rows"], row["tiling_cols"]),
            natural_tiling=(row["natural_rows"], row["natural_cols"]),
            crops=row["crops"],
            vision_tokens=row["vision_tokens"],
            prompt_tokens=row["prompt_tokens"],
        ),
    )
    return judge_answer(resolved, example, generation, row["batch_size"])


def _made_on(loaded: LoadedModel) -> dict[str, str]:
    """What may differ between processes that score one trial under the same software."""
    device = loaded.model.device
    return {"device": device_name(device), "engine": loaded.engine.describe()["engine"], **loaded.model.kernels}


def _differences(made_on: Sequence[Mapping[str, str]]) -> str:
    columns = dict.fromkeys(column for one in made_on for column in one)
    values = {column: sorted({one.get(column, "") for one in made_on}) for column in columns}
    return "; ".join(f"{column}: {', '.join(found)}" for column, found in values.items() if len(found) > 1)
