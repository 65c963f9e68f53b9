"""Finds the batch size of a score pass: requests it from the sizer, and runs the probes that the sizer asks for.

A probe runs the worst-case batch of this configuration on the loaded model with real pixels: every row has the image
with the most vision tokens and the longest question of the trial's samples, and generates the full answer length.
Limit: all rows are equal, so a mixture of experts routes them equally; memory depends on the number of tokens and not
on their experts.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, final

import torch
from filelock import FileLock

from vlmprof.batch_size.coordinator import LEASE_S
from vlmprof.batch_size.protocol import Demand, Outcome, ProbeResult, SizeReply, SizeRequest, Source
from vlmprof.batch_size.search import HARD
from vlmprof.engine.device_errors import release
from vlmprof.engine.greedy import generate
from vlmprof.engine.vision_cache import prepare_each_row
from vlmprof.errors import OutOfMemory, UserError
from vlmprof.measure.attempt import attempted, attempted_within
from vlmprof.measure.memory import reset_peak
from vlmprof.measure.memory_headroom import MemoryHeadroom, PhasePeaks, memory_capped, read_headroom
from vlmprof.records import Prompt, Row
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.memory_key import memory_key_of
from vlmprof.trial.outcome import Sample
from vlmprof.trial.resolve import ResolvedTrial, planned_counts
from vlmprof.trial.samples import first_usable

if TYPE_CHECKING:
    from PIL.Image import Image


_INSTRUMENT = "memory_headroom"


class Sizer(Protocol):
    """The part of the batch sizer that a trial uses; see ``batch_size.sizer.BatchSizer``."""

    def ask(self, request: SizeRequest, about: Mapping[str, Any]) -> SizeReply: ...
    def renew(self, memory_key: str, configuration: str, token: int) -> None: ...
    def tell(self, result: ProbeResult) -> None: ...


@final
class CountingSizer:
    """Wraps a sizer and counts the probes and failures of one trial."""

    def __init__(self, sizer: Sizer) -> None:
        """Wrap ``sizer``; all counts start at 0."""
        self._sizer = sizer
        self._results: list[ProbeResult] = []
        self._source: Source | None = None

    def ask(self, request: SizeRequest, about: Mapping[str, Any]) -> SizeReply:
        reply = self._sizer.ask(request, about)
        if reply.action == "use":
            self._source = reply.source
        return reply

    def renew(self, memory_key: str, configuration: str, token: int) -> None:
        self._sizer.renew(memory_key, configuration, token)

    def tell(self, result: ProbeResult) -> None:
        self._results.append(result)
        self._sizer.tell(result)

    def columns(self) -> Row:
        """The trial's columns about its batch size."""
        outcomes = [result.outcome for result in self._results if result.worst_case]
        return {
            "batch_source": self._source,
            "batch_probes": len(outcomes),
            "batch_probes_oom": sum(outcome != "ran" for outcome in outcomes),
            "batches_split": sum(not result.worst_case and result.size > 1 for result in self._results),
        }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _ProbeAttempt:
    """One attempt at a probe."""

    outcome: Outcome
    seconds: float = 0.0
    phases: Mapping[str, int] = field(default_factory=dict)
    """Phase -> peak memory in bytes."""


@final
class WorstCaseProbe:
    """The batch sizes of one score pass: requested from the sizer, and probed here when it asks for a probe."""

    def __init__(
        self,
        resolved: ResolvedTrial,
        samples: Sequence[Sample],
        loaded: LoadedModel,
        max_new_tokens: int,
        sizer: Sizer,
        missing: MutableMapping[str, str] | None = None,
    ) -> None:
        """Prepare the request; nothing is run before ``size``.

        Args:
            resolved: The trial.
            samples: Its samples, the longest first.
            loaded: The loaded model, with the trial's knobs applied.
            max_new_tokens: Cap on the length of an answer, tokens.
            sizer: The sizer to request from; other trials may share it.
            missing: Takes why memory could not be read. The size is then assumed, as on a device without a reading.
        """
        self._plan, self._loaded, self._sizer, self._cap = resolved.plan, loaded, sizer, max_new_tokens
        self._device = loaded.model.device
        self._missing = {} if missing is None else missing
        self._samples = samples
        self._worst = worst_case_sample(resolved, samples)
        self._memory_key, self._about = memory_key_of(resolved.plan, loaded.model)
        picture = self._worst.prompt.picture
        self._counts = planned_counts(resolved, picture.height, picture.width)
        demand = demand_of(resolved, self._worst, loaded, max_new_tokens)
        self._size_request = SizeRequest(
            memory_key=self._memory_key,
            configuration=";".join(f"{axis}={amount:g}" for axis, amount in demand),
            demand=demand,
            max_size=self._plan.batch_max,
            maximize=self._plan.batch_maximize,
            requester=uuid.uuid4().hex,
        )
        self._size: int | None = None
        self._before_score_pass = True

    def size(self, remaining: int) -> int:
        """The size of the next batch, at most ``remaining``; runs probes if the sizer asks for them.

        Raises:
            OutOfMemory: not even one sample fits.
        """
        if self._plan.batch_size is not None:
            return min(remaining, self._plan.batch_size)
        if self._size is None:
            self._size = self._request()
            self._before_score_pass = False
        if not self._size:
            raise OutOfMemory(1, "not even one sample fits")
        return min(remaining, self._size)

    def failed(self, size: int, error: OutOfMemory) -> None:
        """Report that a batch of the score pass ran out of memory twice; ``size`` then returns a different size.

        Raises:
            OutOfMemory: the batch was a single sample, or its size is set by the job.
        """
        outcome: Outcome = "size_limit" if error.size_limit else "out_of_memory"
        headroom = self._readable_headroom()
        self._sizer.tell(self._result(size, outcome, worst_case=False, headroom=headroom))
        if size == 1 or self._plan.batch_size is not None:
            raise error
        self._size = None

    def _request(self) -> int:
        request, headroom = self._request_now()
        while True:
            reply = self._sizer.ask(request, self._about)
            if reply.action == "probe":
                # What decode steps hold would be counted as held and be used again by the probe.
                self._loaded.engine.forget_steps()
                request, headroom = self._request_now()
                reply = self._sizer.ask(request, self._about)
                if reply.action == "probe" and headroom is not None:
                    self._probe(reply, headroom)
                    # Asked before anything is freed: the score pass needs what a probe of its size has recorded.
                    reply = self._sizer.ask(request, self._about)
            if reply.action == "use":
                return reply.size
            if reply.action == "wait":
                time.sleep(reply.wait_s)

    def _request_now(self) -> tuple[SizeRequest, MemoryHeadroom | None]:
        """The request with the memory that there is now."""
        headroom = self._headroom()
        request = self._size_request
        if headroom is not None:
            request = replace(request, usable_bytes=headroom.usable_bytes, floor_bytes=headroom.held_bytes)
            request = replace(request, rule_of_thumb=self._rule_of_thumb(headroom))
        return request, headroom

    def _rule_of_thumb(self, headroom: MemoryHeadroom) -> int | None:
        """The batch size from the family's memory estimate: probing starts there; it is never used unprobed."""
        counts, estimate = self._counts, self._loaded.model.sample_bytes
        sample_bytes = estimate(counts.crops, counts.vision_tokens + len(self._worst.prompt.text), self._cap)
        return (
            None if sample_bytes is None else max(1, int((headroom.usable_bytes - headroom.held_bytes) / sample_bytes))
        )

    def _headroom(self) -> MemoryHeadroom | None:
        """Memory available now; on a GPU after releasing what this process has cached and does not use."""
        if self._device.startswith("cuda"):
            release()
        return self._readable_headroom()

    def _readable_headroom(self) -> MemoryHeadroom | None:
        """None too where a reading of memory has failed in this trial: a probe that cannot be read proves nothing."""
        if _INSTRUMENT in self._missing:
            return None
        return attempted(_INSTRUMENT, self._missing, partial(read_headroom, self._device))

    def _probe(self, reply: SizeReply, headroom: MemoryHeadroom) -> None:
        """Run the worst-case batch of the size that the sizer asks for, and report the result to the sizer."""
        prompts = [self._probed_prompt()] * reply.size
        capped = memory_capped(self._device, headroom, HARD)
        with (
            attempted_within("probe_lock", self._missing, _gpu_probe_lock(self._device)),
            self._leased(reply),
            attempted_within(_INSTRUMENT, self._missing, capped),
        ):
            attempt = self._attempt(prompts)
            if attempt.outcome == "out_of_memory":  # A single failure is not enough evidence: see score_pass.
                attempt = self._attempt(prompts)
        if self._before_score_pass:  # The peak of the score pass must not contain probes made before it.
            attempted("memory", self._missing, partial(reset_peak, self._device))
        result = self._result(reply.size, attempt.outcome, worst_case=True, headroom=headroom)
        result = replace(result, token=reply.token, predicted_bytes=reply.predicted_bytes, seconds=attempt.seconds)
        if attempt.outcome == "ran":
            peak = max(attempt.phases.values(), default=None)
            result = replace(result, phases=tuple(attempt.phases.items()), peak_bytes=peak)
        self._sizer.tell(result)

    def _probed_prompt(self) -> Prompt:
        """The prompt of a probe: the synthetic worst case, or the longest sample where the model refuses that one.

        A picture that cannot be decoded is replaced by a blank one of its size, which takes the same memory.

        Raises:
            UserError: the model takes none of the samples.
        """
        picture = self._worst.prompt.picture
        blank = replace(picture, load=partial(_blank, picture.width, picture.height), key="")
        blank_worst = replace(self._worst, prompt=replace(self._worst.prompt, picture=blank))
        candidates = [self._worst, blank_worst, *self._samples]
        usable = first_usable(self._loaded, candidates, 1, self._cap)
        if not usable.readable:
            raise UserError(f"no sample can be given to this model; the first: {usable.broken[0].error}")
        return usable.readable[0].prompt

    def _attempt(self, prompts: Sequence[Any]) -> _ProbeAttempt:
        peaks, loaded = PhasePeaks(self._device), self._loaded
        batch = prepare_each_row(loaded.model, prompts)  # in a score pass, another thread does this meanwhile
        run = partial(generate, loaded.model, max_new_tokens=self._cap, stop_at_eos=False, timed=False)
        began, recorded = time.perf_counter(), loaded.engine.recording_seconds()
        try:
            run(batch, clock=peaks, engine=loaded.engine)
        except OutOfMemory as error:
            return _ProbeAttempt(outcome="size_limit" if error.size_limit else "out_of_memory")
        self._missing.update(peaks.missing)
        seconds = time.perf_counter() - began - (loaded.engine.recording_seconds() - recorded)
        return _ProbeAttempt(outcome="ran", seconds=seconds, phases=peaks.peak_bytes)

    def _result(self, size: int, outcome: Outcome, *, worst_case: bool, headroom: MemoryHeadroom | None) -> ProbeResult:
        return ProbeResult(
            id=uuid.uuid4().hex,
            memory_key=self._memory_key,
            configuration=self._size_request.configuration,
            demand=self._size_request.demand,
            size=size,
            outcome=outcome,
            worst_case=worst_case,
            floor_bytes=headroom.held_bytes if headroom else 0,
            usable_bytes=headroom.usable_bytes if headroom else None,
        )

    @contextmanager
    def _leased(self, reply: SizeReply) -> Iterator[None]:
        """Keep renewing the probe's lease inside a ``with`` block, so that a long probe does not lose it."""
        finished = threading.Event()

        def renew() -> None:
            while not finished.wait(LEASE_S / 3):
                self._sizer.renew(self._memory_key, self._size_request.configuration, reply.token)

        renewal = threading.Thread(target=renew, daemon=True)
        renewal.start()
        try:
            yield
        finally:
            finished.set()
            renewal.join()


def _blank(width: int, height: int) -> Image:
    from PIL import Image as PillowImage

    return PillowImage.new("RGB", (width, height))


def worst_case_sample(resolved: ResolvedTrial, samples: Sequence[Sample]) -> Sample:
    """A synthetic worst-case sample: the largest image with the longest question."""

    def tokens(sample: Sample) -> tuple[int, int, int]:
        picture = sample.prompt.picture
        counts = planned_counts(resolved, picture.height, picture.width)
        # Of equals the one with the most pixels: where the device cuts, it holds them all.
        return counts.vision_tokens, counts.crops, picture.height * picture.width

    sound = [sample for sample in samples if not sample.prompt.picture.fault]
    longest = max(sound, key=lambda sample: len(sample.prompt.text))
    largest = max(sound, key=tokens)
    return replace(largest, prompt=replace(largest.prompt, text=longest.prompt.text))


def demand_of(resolved: ResolvedTrial, worst: Sample, loaded: LoadedModel, max_new_tokens: int) -> Demand:
    """The worst-case sample's amount on each axis that memory grows with, under the knobs that are applied now."""
    picture = worst.prompt.picture
    counts = planned_counts(resolved, picture.height, picture.width)
    model = loaded.model
    axes = {
        "blocks": len(model.decoder.layers),
        "crops": counts.crops,
        "experts": max((router.top_k for router in model.routers), default=1),
        "output_tokens": max_new_tokens,
        "prompt_characters": len(worst.prompt.text),
        "vision_tokens": counts.vision_tokens,
    }
    return tuple((axis, float(max(1, amount))) for axis, amount in axes.items())


@contextmanager
def _gpu_probe_lock(device: str) -> Iterator[None]:
    """Hold a lock inside a ``with`` block, so that no other process of this host probes on this GPU."""
    name = str(torch.cuda.get_device_properties(device).uuid)
    lock = Path(tempfile.gettempdir()) / f"vlmprof-probe-{os.getuid()}-{name}.lock"
    with FileLock(str(lock)):
        yield
