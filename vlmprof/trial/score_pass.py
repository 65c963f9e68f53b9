"""The score pass: every sample is answered once, at whatever batch size is safe, and some again at batch 1.

``ScorePass.run`` gives all answers of a trial and their audit: computed now, or taken from earlier trials of this
process that did the same work (``trial.answer_cache``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from vlmprof.engine.vision_cache import PreparedBatch
from vlmprof.errors import Mismatch, OutOfMemory
from vlmprof.records import Generation
from vlmprof.tasks._data.prefetch import PicturePrefetcher
from vlmprof.trial.answer_cache import VISION_SURFACES, KnownAnswer, Recheck, is_rechecked, work_of
from vlmprof.trial.audit import audit, audited_answers
from vlmprof.trial.load_key import key_without_length, load_arguments
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import OpenedSamples, Sample, ScoredSample, ScoreResult
from vlmprof.trial.partial_results import PartialResults
from vlmprof.trial.prefetch import BatchPrefetcher
from vlmprof.trial.progress import Phase, Progress
from vlmprof.trial.resolve import ResolvedTrial, planned_counts
from vlmprof.trial.samples import encode_samples, judge_answer, legal_samples
from vlmprof.trial.worst_case_probe import Sizer, WorstCaseProbe


def _ignore(progress: Progress) -> None:
    """For a pass whose progress nobody watches."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePass:
    """The score pass of one configuration, on a loaded model whose knobs are already applied."""

    resolved: ResolvedTrial
    loaded: LoadedModel
    samples: Sequence[Sample]
    max_new_tokens: int
    """The longest answer, an end-of-sequence token included."""
    sizer: Sizer
    report: Callable[[Progress], None] = _ignore
    partial_results: PartialResults = field(default_factory=PartialResults.discarding)
    """Brings the answers of earlier attempts, and takes those of this one."""
    missing: MutableMapping[str, str] = field(default_factory=dict)
    """Takes, by instrument, why it measured nothing."""
    recheck: Recheck = field(default_factory=Recheck)
    """Compares some of the answers that need not be computed with new ones."""

    def run(self) -> ScoreResult:
        """Answer, score and audit all samples.

        Raises:
            OutOfMemory: not even one sample fits.
            Uncollected: the collector refuses an answer.
        """
        plan = self.resolved.plan
        began = time.perf_counter()
        by_id = {answered.example.id: answered for answered in self.scored()}
        seconds = time.perf_counter() - began
        # In the order of the subset, which neither batches nor interruptions change.
        scored = tuple(by_id[sample.example.id] for sample in self.samples)
        self._tell("audit", 0, plan.audit_samples)
        audited = audited_answers(self.resolved, self.samples, scored, self.loaded, self.max_new_tokens)
        sources = {answered.answered_by for answered in scored}
        return ScoreResult(
            scored=scored,
            audit=audit(self.resolved, self.samples, scored, audited),
            scored_by=sources.pop() if len(sources) == 1 else None,
            rechecked=self.recheck.result(exact=load_arguments(plan)["dtype"] == "float32"),
            merged=self.partial_results.merged(),
            seconds=seconds,
        )

    def scored(self) -> Iterator[ScoredSample]:
        """Answer and score all samples, the longest prompts first: a batch that fits them fits all that follow.

        Samples that ``partial_results`` has answers for are not answered again.

        Raises:
            OutOfMemory: not even one sample fits.
            Uncollected: the collector refuses an answer.
        """
        legal, refused = legal_samples(self.samples)
        yield from refused
        ordered = longest_first(self.resolved, legal)
        kept = self.partial_results.restore(self.resolved, ordered, self.loaded)
        yield from kept.values()
        works = {sample.example.id: work_of(self.resolved, self.loaded.model, sample) for sample in ordered}
        self._keep(kept.values(), works)
        shared = self._shared([sample for sample in ordered if sample.example.id not in kept], works)
        yield from shared.values()
        answered_already = {*kept, *shared}
        remaining = [sample for sample in ordered if sample.example.id not in answered_already]
        done = len(kept) + len(shared) + len(refused)
        self._tell("score", done, len(self.samples))
        if not remaining:
            with self.partial_results:  # a shard's answers have to reach its trial
                self.partial_results.add(list(shared.values()))
            return
        # From all samples and not from the remaining ones, so that a resumed trial requests the size it had before.
        probe = WorstCaseProbe(self.resolved, ordered, self.loaded, self.max_new_tokens, self.sizer, self.missing)
        pictures = [sample.prompt.picture for sample in remaining]
        with (
            self.partial_results,
            PicturePrefetcher(pictures, reader_processes(self.resolved, self.loaded.model.device)) as decoded,
            BatchPrefetcher(self._encode, decoded.wait, self.loaded.has_features) as prefetcher,
        ):
            self.partial_results.add(list(shared.values()))
            if not all(self.partial_results.is_suspect(sample) for sample in remaining):
                self._tell("probe", 0, 1)
                probe.size(len(remaining))
                self._tell("score", done, len(self.samples))
            for answered in self._batches(remaining, prefetcher, probe):
                self.partial_results.add(answered)
                self._keep(answered, works)
                yield from answered
                done += len(answered)
                self._tell("score", done, len(self.samples))

    def _batches(
        self, remaining: Sequence[Sample], prefetcher: BatchPrefetcher, probe: WorstCaseProbe
    ) -> Iterator[Sequence[ScoredSample]]:
        """Batch by batch. Samples that a process may have died of come last, each in a batch of its own."""
        is_suspect = self.partial_results.is_suspect
        queue = [sample for sample in remaining if not is_suspect(sample)]
        while queue:
            size = probe.size(len(queue))
            batch, later = queue[:size], queue[size:]
            self.partial_results.announce([*batch, *later[: prefetcher.most * size]])
            yield from self._answer_batch(batch, later, prefetcher, probe)
            queue = later
        for sample in filter(is_suspect, remaining):
            self.partial_results.flush()
            self.partial_results.announce([sample])
            yield from self._answer_batch([sample], [], prefetcher, probe)

    def _answer_batch(
        self, batch: Sequence[Sample], later: Sequence[Sample], prefetcher: BatchPrefetcher, probe: WorstCaseProbe
    ) -> Iterator[Sequence[ScoredSample]]:
        opened, prepared = prefetcher.take(batch, later)
        yield opened.broken
        yield from self._answer_despite_memory(opened.readable, prepared, probe)

    def _answer_despite_memory(
        self, samples: Sequence[Sample], prepared: PreparedBatch | None, probe: WorstCaseProbe
    ) -> Iterator[Sequence[ScoredSample]]:
        """Answer a batch; where memory fails, once more at the same size, then in halves.

        Raises:
            OutOfMemory: one sample alone does not fit, or the batch size that the job pins.
        """
        pieces, retried, most = [(samples, prepared)], False, len(samples)
        while pieces:
            piece, ready = pieces.pop(0)
            failure = None
            if len(piece) <= most:
                try:
                    yield self._answer(piece, ready)
                    continue
                except OutOfMemory as error:
                    failure = error
            if failure is not None and not retried:
                # The allocator can fail while a block that fits is free (pytorch issue 189504), so one failure proves
                # nothing.
                retried = True
                pieces.insert(0, (piece, None))
                continue
            if failure is not None:
                probe.failed(len(piece), failure)
                most = len(piece) - 1
            half = (len(piece) + 1) // 2
            pieces[:0] = [(part, None) for part in (piece[:half], piece[half:]) if part]

    def _encode(self, opened: OpenedSamples) -> tuple[OpenedSamples, PreparedBatch | None]:
        return encode_samples(self.loaded, opened, self.max_new_tokens)

    def _answer(self, samples: Sequence[Sample], prepared: PreparedBatch | None) -> list[ScoredSample]:
        if not samples:
            return []
        batch = self.loaded.prepare(samples) if prepared is None else prepared
        generations = self.loaded.answer(batch, self.max_new_tokens)
        require_planned_counts(self.resolved, samples, generations)
        return [
            judge_answer(self.resolved, sample.example, generation, len(samples))
            for sample, generation in zip(samples, generations, strict=True)
        ]

    def _shared(self, samples: Sequence[Sample], works: Mapping[str, Hashable]) -> dict[str, ScoredSample]:
        """Sample -> its answer, where a configuration that does the same work has given it; not those to recheck."""
        shared, settings = {}, key_without_length(self.resolved.plan)
        for sample in samples:
            name = sample.example.id
            known = self.loaded.answers.get(works[name], self.max_new_tokens, self.loaded.model.text)
            if known is None:
                continue
            if known.settings != settings and is_rechecked(name):
                self.recheck.expect(name, known)
                continue
            require_planned_counts(self.resolved, [sample], [known.generation])
            answered = judge_answer(self.resolved, sample.example, known.generation, known.batch_size)
            shared[name] = replace(answered, answered_by=known.trial)
        return shared

    def _keep(self, answers: Iterable[ScoredSample], works: Mapping[str, Hashable]) -> None:
        """Keep answers for configurations that do the same work, after those that were known have been compared."""
        settings = key_without_length(self.resolved.plan)
        for answered in answers:
            if answered.generation is None:
                continue
            name = answered.example.id
            self.recheck.compare(name, answered.generation)
            known = KnownAnswer(
                generation=answered.generation,
                batch_size=answered.batch_size,
                trial=self.resolved.plan.id,
                settings=settings,
            )
            self.loaded.answers.add(works[name], known)

    def _tell(self, phase: Phase, done: int, total: int) -> None:
        self.report(Progress(phase=phase, done=done, total=total))


def require_planned_counts(
    resolved: ResolvedTrial, samples: Sequence[Sample], generations: Sequence[Generation]
) -> None:
    """Hold what ran against the plan, which is made from the checkpoint's files and shares nothing with the model.

    Where several knobs limit the vision tokens of one image, the plan only bounds them, and nothing is compared.

    Raises:
        Mismatch: an image became another number of vision tokens than was planned.
    """
    limits = [setting for setting in resolved.settings if setting.knob.needs in VISION_SURFACES]
    if len(limits) > 1:
        return
    for sample, generation in zip(samples, generations, strict=True):
        picture, made = sample.prompt.picture, generation.encoding.vision_tokens
        planned = planned_counts(resolved, picture.height, picture.width).vision_tokens
        if planned != made:
            raise Mismatch(
                f"sample {sample.example.id}: an image of {picture.height} x {picture.width} was planned as {planned}"
                f" vision tokens and ran as {made}"
            )


def reader_processes(resolved: ResolvedTrial, device: str) -> int:
    """Processes that decode pictures ahead: as the job says; else two where a GPU computes, none on a CPU."""
    asked_for = resolved.plan.readers
    return asked_for if asked_for is not None else 2 * (device == "cuda")


def samples_of_shard(resolved: ResolvedTrial, samples: Sequence[Sample], part: slice) -> list[Sample]:
    """The samples of one shard: every so many blocks of the order in which samples are scored.

    A block is as long as a batch can be, so the batches of all shards are those of a score pass that is not split
    (where the sizer chooses a divisor of ``batch.max``, or the job pins a size); blocks are shorter where there are few
    samples.
    """
    ordered = longest_first(resolved, legal_samples(samples)[0])
    most = resolved.plan.batch_size or resolved.plan.batch_max
    block = max(1, min(most, len(ordered) // part.step))
    return [sample for start in range(0, len(ordered), block)[part] for sample in ordered[start : start + block]]


def longest_first(resolved: ResolvedTrial, samples: Sequence[Sample]) -> list[Sample]:
    """The order in which samples are scored: most vision tokens and characters of the prompt first, faulty last."""

    def length(sample: Sample) -> int:
        picture = sample.prompt.picture
        if picture.fault:
            return 0
        return planned_counts(resolved, picture.height, picture.width).vision_tokens + len(sample.prompt.text)

    return sorted(samples, key=length, reverse=True)
