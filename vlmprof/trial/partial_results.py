"""``PartialResults``: the answers of a running trial on their way to the collector, and back after its process died.

Answers are kept at the end of a batch, so that a resumed trial has the batches that it would have had. The generation
is what comes back; the metric judges it again, with the same result. Limits: at most ``ChunkSpec.seconds`` of scoring
are lost with a process; the audit and the timing pass start again.
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
from vlmprof.trial.samples import failed_sample, judge_answer

LEAST_SECONDS = 1.0
"""Less scoring than this is not written as a chunk of its own when the score pass is over."""


class AnswerStore(Protocol):
    """Keeps the answers of trials that have not ended; see ``store.collector.Collector``."""

    def under_way(self, trial: str, attempt: str, samples: Sequence[str]) -> None: ...
    def keep(self, chunk: Chunk) -> None: ...


@final
@dataclass(slots=True)
class _Pending:
    scored: list[ScoredSample] = field(default_factory=list)
    since: float = 0.0


@final
class PartialResults:
    """The answers of one attempt at a trial. A context manager around its score pass."""

    def __init__(
        self,
        attempt: AttemptStart,
        answer_store: AnswerStore | None,
        trial: str,
        policy: ChunkSpec,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is sent yet.

        Args:
            attempt: The collector's reply when the trial began: earlier answers, suspect and quarantined samples.
            answer_store: Takes the answers; None keeps nothing.
            trial: Its id.
            policy: When a chunk is full.
            clock: Seconds.
        """
        self._attempt, self._answer_store, self._trial = attempt, answer_store, trial
        self._policy, self._clock = policy, clock
        self._pending = _Pending()
        self._number = 0
        self._added = 0
        self._restored: list[Chunk] = []
        self._loaded: LoadedModel | None = None

    @classmethod
    def discarding(cls) -> PartialResults:
        """For a trial whose answers are not kept before it ends."""
        return cls(AttemptStart(attempt=""), None, "", ChunkSpec())

    def is_suspect(self, sample: Sample) -> bool:
        """Whether processes have died while they answered this sample: it is then answered in a batch of its own."""
        return sample.example.id in self._attempt.alone

    def not_quarantined(self, samples: Iterable[Sample]) -> list[Sample]:
        """The samples without those that ended every process that answered them."""
        return [sample for sample in samples if sample.example.id not in self._attempt.quarantined]

    def __enter__(self) -> PartialResults:
        self._pending = _Pending(since=self._clock())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what is pending, also when the pass was interrupted; not when the exception ends the trial."""
        if kind is None:
            if self._seconds() >= LEAST_SECONDS:
                self.flush()
            self._announce([])
        elif not issubclass(kind, OutOfMemory | Uncollected):
            with suppress(Uncollected):  # the exception under way is the one to report
                self.flush()

    def restore(
        self, resolved: ResolvedTrial, samples: Iterable[Sample], loaded: LoadedModel
    ) -> dict[str, ScoredSample]:
        """By sample id, the answers that earlier attempts have given, and the quarantined samples as failed."""
        self._loaded = loaded
        examples = {sample.example.id: sample.example for sample in samples}
        restored: dict[str, ScoredSample] = {}
        for chunk in self._attempt.chunks:
            rows = [row for row in chunk.rows if row["sample"] in examples and row["sample"] not in restored]
            restored |= {str(row["sample"]): _scored(resolved, examples[str(row["sample"])], row) for row in rows}
            self._restored += [chunk] if rows else []
        for sample in self._attempt.quarantined.keys() & examples.keys() - restored.keys():
            reason = f"quarantined: {self._attempt.quarantined[sample]}"
            restored[sample] = failed_sample(examples[sample], reason, quarantined=True)
        return restored

    def announce(self, samples: Sequence[Sample]) -> None:
        """Say which samples are answered next: if the process dies now, one of them may be the cause.

        Raises:
            Uncollected: the collector refuses.
        """
        self._announce([sample.example.id for sample in samples])

    def add(self, scored: Sequence[ScoredSample]) -> None:
        """Take the answers of a batch.

        Raises:
            Uncollected: the collector refuses.
        """
        self._added += len(scored)
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
        assert self._loaded is not None, "restore() comes first"
        peak = read_peak(self._loaded.model.device)
        chunk = Chunk(
            trial=self._trial,
            attempt=self._attempt.attempt,
            number=self._number,
            rows=tuple(_row(answered) for answered in pending.scored),
            seconds=self._seconds(),
            peak_bytes=peak.peak_bytes if peak else None,
            made_on=_made_on(self._loaded),
            software=software(),
        )
        try:
            answer_store.keep(chunk)
        except Exception as error:
            raise Uncollected(str(error)) from error
        self._number += 1
        self._pending = _Pending(since=self._clock())

    def merged(self) -> MergedAttempts:
        """Which attempts the answers come from, once all are there."""
        if not self._restored:
            return NOT_MERGED
        here = [_made_on(self._loaded)] if self._added and self._loaded else []
        mixed = _differences([*(chunk.made_on for chunk in self._restored), *here])
        peaks = [chunk.peak_bytes for chunk in self._restored if chunk.peak_bytes is not None]
        return MergedAttempts(
            samples=sum(len(chunk.rows) for chunk in self._restored),
            processes=len({chunk.attempt for chunk in self._restored}) + bool(self._added),
            mixed=mixed,
            peak_bytes=max(peaks) if peaks and "device" not in mixed else None,
        )

    def _seconds(self) -> float:
        return self._clock() - self._pending.since

    def _announce(self, samples: Sequence[str]) -> None:
        if self._answer_store is None:
            return
        try:
            self._answer_store.under_way(self._trial, self._attempt.attempt, samples)
        except Exception as error:
            raise Uncollected(str(error)) from error


def _row(answered: ScoredSample) -> Row:
    row: dict[str, Any] = {
        "sample": answered.example.id,
        "batch_size": answered.batch_size,
        "error": answered.error or None,
    }
    if answered.generation is None:
        return row
    generation, encoding = answered.generation, answered.generation.encoding
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
        return failed_sample(example, row["error"], batch_size=row["batch_size"])
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
    engine, preprocess = loaded.engine.describe()["engine"], loaded.model.preprocess
    return {"device": device_name(device), "engine": engine, "preprocess": preprocess, **loaded.model.kernels}


def _differences(made_on: Sequence[Mapping[str, str]]) -> str:
    made_on = [{"preprocess": "host", **origin} for origin in made_on]  # as all answers before there was a choice
    columns = dict.fromkeys(column for origin in made_on for column in origin)
    values = {column: sorted({origin.get(column, "") for origin in made_on}) for column in columns}
    return "; ".join(f"{column}: {', '.join(differing)}" for column, differing in values.items() if len(differing) > 1)
