"""The batch size of a score pass: requested from the sizer, and probed on the real model with real pixels.

A probe runs the worst batch that this configuration can meet: in every row the image with the most vision tokens and
the longest question of the trial's samples, to the full length of an answer. Limit: all rows are equal, so a mixture of
experts routes them equally; memory depends on the number of tokens and not on their experts.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, final

import torch
from filelock import FileLock

from vlmprof.batch_size.coordinator import LEASE_S
from vlmprof.batch_size.protocol import Demand, Outcome, ProbeResult, SizeReply, SizeRequest, Source
from vlmprof.batch_size.search import HARD
from vlmprof.engine.device_errors import release
from vlmprof.engine.greedy import generate
from vlmprof.engine.vision_cache import prepare_each_row
from vlmprof.errors import OutOfMemory, UserError
from vlmprof.measure.memory import reset_peak
from vlmprof.measure.memory_headroom import MemoryHeadroom, PhasePeaks, memory_capped, read_headroom
from vlmprof.records import Row
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.memory_key import memory_key_of
from vlmprof.trial.outcome import Sample
from vlmprof.trial.resolve import ResolvedTrial, planned_counts
from vlmprof.trial.samples import first_usable


class Sizer(Protocol):
    """The part of the batch sizer that a trial uses; see ``batch_size.sizer.BatchSizer``."""

    def ask(self, question: SizeRequest, about: Mapping[str, Any]) -> SizeReply: ...
    def renew(self, world: str, configuration: str, token: int) -> None: ...
    def tell(self, told: ProbeResult) -> None: ...


@final
class CountingSizer:
    """A sizer that counts the requests and results of one trial."""

    def __init__(self, sizer: Sizer) -> None:
        """Count from zero."""
        self._sizer = sizer
        self._told: list[ProbeResult] = []
        self._source: Source | None = None

    def ask(self, question: SizeRequest, about: Mapping[str, Any]) -> SizeReply:
        answer = self._sizer.ask(question, about)
        if answer.action == "use":
            self._source = answer.source
        return answer

    def renew(self, world: str, configuration: str, token: int) -> None:
        self._sizer.renew(world, configuration, token)

    def tell(self, told: ProbeResult) -> None:
        self._told.append(told)
        self._sizer.tell(told)

    def columns(self) -> Row:
        """The trial's columns about its batch size."""
        probes = [told.outcome for told in self._told if told.worst_case]
        return {
            "batch_source": self._source,
            "batch_probes": len(probes),
            "batch_probes_oom": sum(outcome != "ran" for outcome in probes),
            "batches_split": sum(not told.worst_case and told.size > 1 for told in self._told),
        }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _ProbeAttempt:
    """One attempt at a probe."""

    outcome: Outcome
    seconds: float = 0.0
    phases: Mapping[str, int] = field(default_factory=dict)
    """Phase -> bytes at its peak."""


@final
class WorstCaseProbe:
    """The batch sizes of one score pass: requested from the sizer, probed here where it wants a probe."""

    def __init__(
        self, resolved: ResolvedTrial, samples: Sequence[Sample], loaded: LoadedModel, max_new_tokens: int, sizer: Sizer
    ) -> None:
        """Nothing runs yet.

        Args:
            resolved: The trial.
            samples: Its samples, the longest first.
            loaded: The loaded model, its knobs applied.
            max_new_tokens: The longest answer.
            sizer: Shared with other trials or not.
        """
        self._plan, self._loaded, self._sizer, self._cap = resolved.plan, loaded, sizer, max_new_tokens
        self._device = loaded.model.device
        self._samples = samples
        self._worst = worst_case_sample(resolved, samples)
        self._world, self._about = memory_key_of(resolved.plan, loaded.model)
        picture = self._worst.prompt.picture
        self._counts = planned_counts(resolved, picture.height, picture.width)
        demand = demand_of(resolved, self._worst, loaded, max_new_tokens)
        self._question = SizeRequest(
            world=self._world,
            configuration=";".join(f"{axis}={amount:g}" for axis, amount in demand),
            demand=demand,
            most=self._plan.batch_max,
            maximize=self._plan.batch_maximize,
            asker=uuid.uuid4().hex,
        )
        self._size: int | None = None
        self._fresh = True

    def size(self, remaining: int) -> int:
        """The size of the next batch, at most ``remaining``; probes are made here.

        Raises:
            OutOfMemory: not even one sample fits.
        """
        if self._plan.batch_size is not None:
            return min(remaining, self._plan.batch_size)
        if self._size is None:
            self._size = self._request()
            self._fresh = False
        if not self._size:
            raise OutOfMemory(1, "not even one sample fits")
        return min(remaining, self._size)

    def failed(self, size: int, error: OutOfMemory) -> None:
        """A batch of the score pass did not fit, twice; the next size will be another.

        Raises:
            OutOfMemory: it was one sample, or the size the job pins.
        """
        outcome: Outcome = "size_limit" if error.size_limit else "out_of_memory"
        self._sizer.tell(self._told(size, outcome, worst_case=False, room=read_headroom(self._device)))
        if size == 1 or self._plan.batch_size is not None:
            raise error
        self._size = None

    def _request(self) -> int:
        while True:
            room = self._room()
            question = self._question
            if room is not None:
                question = replace(question, usable_bytes=room.usable_bytes, floor_bytes=room.held_bytes)
                question = replace(question, prior=self._rule_of_thumb(room))
            answer = self._sizer.ask(question, self._about)
            if answer.action == "use":
                return answer.size
            if answer.action == "wait" or room is None:
                time.sleep(answer.wait_s)
                continue
            self._probe(answer, room)

    def _rule_of_thumb(self, room: MemoryHeadroom) -> int | None:
        """The batch size that the family's estimate gives: where probing starts, never used without a probe."""
        counts, estimate = self._counts, self._loaded.model.sample_bytes
        sample_bytes = estimate(counts.crops, counts.vision_tokens + len(self._worst.prompt.text), self._cap)
        return None if sample_bytes is None else max(1, int((room.usable_bytes - room.held_bytes) / sample_bytes))

    def _room(self) -> MemoryHeadroom | None:
        """What is free now; on a GPU after giving back what this process holds unused."""
        if self._device.startswith("cuda"):
            release()
        return read_headroom(self._device)

    def _probe(self, answer: SizeReply, room: MemoryHeadroom) -> None:
        prompts = [self._probed().prompt] * answer.size
        with _gpu_probe_lock(self._device), self._leased(answer), memory_capped(self._device, room, HARD):
            tried = self._tried(prompts)
            if tried.outcome == "out_of_memory":  # One failure proves nothing: see score_pass.
                tried = self._tried(prompts)
        self._loaded.engine.forget()
        release()
        if self._fresh:  # The peak of the score pass must not contain probes made before it.
            reset_peak(self._device)
        told = self._told(answer.size, tried.outcome, worst_case=True, room=room)
        told = replace(told, token=answer.token, predicted_bytes=answer.predicted_bytes, seconds=tried.seconds)
        if tried.outcome == "ran":
            told = replace(told, phases=tuple(tried.phases.items()), peak_bytes=max(tried.phases.values()))
        self._sizer.tell(told)

    def _probed(self) -> Sample:
        """The sample that is probed: the synthetic worst case, or where the model refuses it the longest that it takes.

        Raises:
            UserError: it takes none.
        """
        found = first_usable(self._loaded, [self._worst, *self._samples], 1, self._cap)
        if not found.readable:
            raise UserError(f"no sample can be given to this model; the first: {found.broken[0].error}")
        return found.readable[0]

    def _tried(self, prompts: Sequence[Any]) -> _ProbeAttempt:
        peaks, loaded = PhasePeaks(self._device), self._loaded
        began = time.perf_counter()
        try:
            batch = prepare_each_row(loaded.model, prompts)
            generate(
                loaded.model, batch, max_new_tokens=self._cap, stop_at_eos=False, clock=peaks, engine=loaded.engine
            )
        except OutOfMemory as error:
            return _ProbeAttempt(outcome="size_limit" if error.size_limit else "out_of_memory")
        return _ProbeAttempt(outcome="ran", seconds=time.perf_counter() - began, phases=peaks.peak_bytes)

    def _told(self, size: int, outcome: Outcome, *, worst_case: bool, room: MemoryHeadroom | None) -> ProbeResult:
        return ProbeResult(
            id=uuid.uuid4().hex,
            world=self._world,
            configuration=self._question.configuration,
            demand=self._question.demand,
            size=size,
            outcome=outcome,
            worst_case=worst_case,
            floor_bytes=room.held_bytes if room else 0,
            usable_bytes=room.usable_bytes if room else None,
        )

    @contextmanager
    def _leased(self, answer: SizeReply) -> Iterator[None]:
        """Renew the lease inside a ``with`` block, so that a long probe is not taken for a dead one."""
        finished = threading.Event()

        def renew() -> None:
            while not finished.wait(LEASE_S / 3):
                self._sizer.renew(self._world, self._question.configuration, answer.token)

        renewal = threading.Thread(target=renew, daemon=True)
        renewal.start()
        try:
            yield
        finally:
            finished.set()
            renewal.join()


def worst_case_sample(resolved: ResolvedTrial, samples: Sequence[Sample]) -> Sample:
    """A synthetic worst-case sample: the largest image with the longest question."""

    def tokens(sample: Sample) -> tuple[int, int]:
        counts = planned_counts(resolved, sample.prompt.picture.height, sample.prompt.picture.width)
        return counts.vision_tokens, counts.crops

    longest = max(samples, key=lambda sample: len(sample.prompt.text))
    largest = max(samples, key=tokens)
    return replace(largest, prompt=replace(largest.prompt, text=longest.prompt.text))


def demand_of(resolved: ResolvedTrial, worst: Sample, loaded: LoadedModel, max_new_tokens: int) -> Demand:
    """How much the worst-case sample takes of each axis that memory grows with, with the knobs as they are now."""
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
    """Inside a ``with`` block no other process of this host probes on this GPU."""
    name = str(torch.cuda.get_device_properties(device).uuid)
    lock = Path(tempfile.gettempdir()) / f"vlmprof-probe-{os.getuid()}-{name}.lock"
    with FileLock(str(lock)):
        yield
