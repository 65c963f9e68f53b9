"""The timing pass of one configuration: fixed requests, exact length, the job's batch size, until the median is known.

A session runs every request once, which records it where the engine records prompts, warms up until windows agree, then
times blocks of generations, request after request, each block followed by one generation of the canary: the same model
as loaded, without knobs, on the middle request. The canary shows a drift of the machine, and configurations of
different trials are compared by their ratio to it, which is free of that drift. A disturbed block is kept, marked with
its cause, and followed by another one; whether a block is disturbed never depends on its times. Passes of several GPUs
of a host wait for each other, except where all that is timed is recorded. The protocol and its simulations:
docs/measurement.md.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Hashable, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import final

from vlmprof.decoding import Clock
from vlmprof.engine.base import EAGER, AbstractEngine
from vlmprof.engine.device_errors import release
from vlmprof.engine.greedy import generate
from vlmprof.engine.recorded_check import recorded_distance
from vlmprof.errors import Mismatch, OutOfMemory
from vlmprof.measure import disturbance, host_bound
from vlmprof.measure.attempt import attempted, attempted_within
from vlmprof.measure.clock import clock_for
from vlmprof.measure.clock_check import matmul_work, require_accurate_clock
from vlmprof.measure.disturbance import PAUSED, DisturbanceReading
from vlmprof.measure.energy import Energy, added_up, measure_energy
from vlmprof.measure.flops import count_flops_by_stage
from vlmprof.measure.garbage import no_collections, old_objects_set_aside
from vlmprof.measure.host_bound import HostBound
from vlmprof.measure.memory import Peak, read_peak, reset_peak
from vlmprof.measure.nvml import open_gpu
from vlmprof.measure.pauses import PauseWatch
from vlmprof.measure.roofline import least_decode_bytes
from vlmprof.measure.timing_lock import exclusive_timing
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import Timing
from vlmprof.records import ComparedWork, Prompt, Run, Stage, StageTimes, StageWork
from vlmprof.stats.generation_times import RequestLatency, request_latency
from vlmprof.stats.timeseries import FEWEST, settled
from vlmprof.trial.outcome import TimedGeneration, TimingBlock, TimingSession, kept_blocks
from vlmprof.trial.progress import Phase, Progress
from vlmprof.trial.stage_work import compared_work

STAGE_SUM_TOLERANCE = 0.02
"""Stages that do not add up to the whole are not stages of it: the measurement is invalid."""
CLOCK_TOLERANCE_MS = 0.05
"""Allowed in any case: reading the clock takes time, which belongs to no stage."""
ATTEMPTS = 3
BLOCK = 8
"""Generations of a block."""
WARMUP_FACTOR = 4
"""Warm-up ends after so many times its fewest generations, settled or not."""
MODES_FACTOR = 4
"""How many times the fewest generations are timed before two modes are accepted as they are."""
PREPROCESS_FACTOR = 1.5
"""How many times the fewest generations are timed before preprocessing, which is the host's, may vary as it likes."""
RECORDED = {"vision", "prefill", "decode"}
"""The stages of a generation that must be recorded for its times to be the device's."""
CANARY_TOKENS = 2
CANARY_WARMUP = 2
TOO_LARGE = "the model without knobs does not fit into memory"
"""Why nothing can be compared with the full model."""
ENERGY_WINDOWS = 2
"""How often the energy is measured where the process was stopped in the middle."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRequests:
    """What is timed."""

    requests: Sequence[Sequence[Prompt]]
    length: int
    """Tokens generated for each prompt, exact."""
    configured: Callable[[], AbstractContextManager[None]]
    """Applies the trial's knobs inside a ``with`` block; outside of it the model is as loaded."""
    engine: AbstractEngine = EAGER
    """Generates the tokens that are timed. Operations are counted with the eager engine, since a replay dispatches
    none."""
    full_work: MutableMapping[Hashable, StageWork] = field(default_factory=dict)
    """Of the model without knobs, by request, as ``stage_work.compared_work`` keeps it."""


@final
class TimingPass:
    """Runs one timing session."""

    def __init__(self, timing: Timing, model: AbstractModel, work: TimingRequests, session: int = 0) -> None:
        self.timing, self.model, self.session = timing, model, session
        self.requests, self.length, self.configured = work.requests, work.length, work.configured
        self.engine, self.full_work = work.engine, work.full_work
        self.clock = clock_for(model.device)
        self.gpu, self.energy_missing = open_gpu(model.device)
        self.missing: dict[str, str] = {}
        """Instrument -> why it measured nothing."""
        self.canary, self.exclusive = True, False
        self.first_ms: list[float] = []
        """End to end, of the first request during warm-up."""
        self.pauses: PauseWatch | None = None

    def run(self, load_seconds: float, report: Callable[[Progress], None]) -> TimingSession:
        """Time the configuration.

        Args:
            load_seconds: How long the device has been at work just before.
            report: Called with each phase, never within a block.

        Raises:
            OutOfMemory: a request does not fit.
            Mismatch: the stages do not add up.
        """
        tell, began = partial(self._tell, report), time.monotonic()
        with ExitStack() as stack:
            stack.callback(self.engine.end_timing)
            waited = self._lock(stack, tell) if self._exclusive_at_once() else 0.0
            self._check_clock()
            tell("warm up")
            work = attempted("speedup", self.missing, self._compared_work)
            with self.configured():
                operations, decode_bytes = self._work()
                distance = self._run_each_request()
            if self._exclusive() and not self._exclusive_at_once():
                waited = self._lock(stack, tell)
            tell("warm up")
            warmup, warm, peak = self._warm_up_both(load_seconds)
            stack.enter_context(old_objects_set_aside())
            tell("time")
            self.pauses = stack.enter_context(PauseWatch())
            blocks, stopped = self._blocks(lambda done, note: tell("time", done, note))
            with self.configured():
                energy, bound = self._energy(blocks), self._host_bound(blocks)
        return TimingSession(
            blocks=tuple(blocks),
            stopped=stopped,
            warmup_generations=warmup,
            warm=warm,
            waited_s=waited,
            seconds=time.monotonic() - began - waited,
            exclusive=self.exclusive,
            peak=peak,
            energy=energy,
            energy_missing="" if energy else self._why_no_energy(),
            operations=operations,
            decode_bytes=decode_bytes,
            host_bound=bound,
            recorded_distance=distance,
            work=work,
            missing=self.missing,
        )

    def _tell(self, report: Callable[[Progress], None], phase: Phase, done: int = 0, note: str = "") -> None:
        report(Progress(phase=phase, done=done, total=self._most(), note=note))

    def _check_clock(self) -> None:
        if self.model.device.startswith("cuda"):
            require_accurate_clock(self.clock, matmul_work(self.model.device), self.model.synchronize)

    def _lock(self, stack: ExitStack, tell: Callable[[Phase, int], None]) -> float:
        """Keep other passes of this host waiting until ``stack`` ends; the seconds that were waited for them."""
        self.exclusive = True
        lock = exclusive_timing(True, lambda seconds: tell("wait", round(seconds)))
        return stack.enter_context(attempted_within("timing_lock", self.missing, lock)) or 0.0

    def _exclusive_at_once(self) -> bool:
        """Whether other passes wait from the start. On a CPU warm-up would disturb them, and nothing is recorded."""
        on_cpu = not self.model.device.startswith("cuda")
        return self.timing.exclusive is True or (self.timing.exclusive == "auto" and on_cpu)

    def _exclusive(self) -> bool:
        """Whether other passes of this host wait; if the job does not say, where Python is part of the times."""
        if isinstance(self.timing.exclusive, bool):
            return self.timing.exclusive
        return not self._records_all()

    def _records_all(self) -> bool:
        """Whether all times but those of preprocessing are the device's."""
        return RECORDED.issubset(self.engine.describe().get("recorded_stages", "").split(", "))

    def _run_each_request(self) -> float | None:
        """Every request once or more often, the longest prompts first; what can be recorded is, and is checked.

        Afterwards the peak of memory begins anew: what came before does not belong to it, but recordings keep theirs.
        """
        distance = recorded_distance(self.engine, self.model, self.requests, self.length)
        for _ in range(self.timing.warmup - (distance is not None)):
            for index, request in enumerate(self.requests):
                timed = self._valid_generation(request, self.length, block=0, repeat=0, index=index)
                if index == 0:
                    self.first_ms.append(timed.stages.end_to_end_ms)
        release()
        attempted("memory", self.missing, partial(reset_peak, self.model.device))
        return distance

    def _warm_up_both(self, load_seconds: float) -> tuple[int, bool, Peak | None]:
        """Warm up the configuration and the canary: generations of the former, whether it settled, and its memory."""
        with self.configured():
            warmup, warm = self._warm_up(load_seconds)
            # The blocks need no more memory; the canary may.
            peak = attempted("memory", self.missing, partial(read_peak, self.model.device))
        ran_on = self._launched()
        self._warm_canary()
        if self._launched() != ran_on:  # the canary could not be recorded, and now nothing is
            self.first_ms.clear()
            with self.configured():
                warmup, warm = self._warm_up(load_seconds)
        return warmup, warm, None if "memory" in self.missing else peak

    def _launched(self) -> tuple[str | None, ...]:
        """How the engine launches work: what could not be recorded runs eager from then on."""
        described = self.engine.describe()
        return tuple(described.get(name) for name in ("engine", "prompt_fallback"))

    def _warm_up(self, load_seconds: float) -> tuple[int, bool]:
        """Repeat the first request until its times settle; all generations of the warm-up, and whether they did."""
        ran = self.timing.warmup * len(self.requests)
        most, began = WARMUP_FACTOR * ran, time.monotonic()
        while True:
            loaded = load_seconds + time.monotonic() - began
            if loaded >= self.timing.warmup_seconds and settled(self.first_ms):
                return ran, True
            if ran >= most:
                return ran, False
            timed = self._valid_generation(self.requests[0], self.length, block=0, repeat=0, index=0)
            self.first_ms.append(timed.stages.end_to_end_ms)
            ran += 1

    def _warm_canary(self) -> None:
        try:
            for _ in range(CANARY_WARMUP):
                self._canary(0)
        except OutOfMemory:  # the model without knobs may need more memory than this configuration
            self.canary = False
            self.missing.setdefault("speedup", TOO_LARGE)

    def _blocks(self, tell: Callable[[int, str], None]) -> tuple[list[TimingBlock], str]:
        blocks: list[TimingBlock] = []
        began, look = time.monotonic(), self._fewest()
        while True:
            kept = kept_blocks(blocks)
            times = [value for block in kept for value in block.times]
            latency = request_latency(times) if times else None
            stopped = self._stops(kept, latency, look, time.monotonic() - began)
            if stopped:
                return blocks, stopped
            if latency and len(times) >= FEWEST:  # between two blocks, so that no time has it in it
                width = latency.half_width
                known = f"interval {100 * width:.1f} %" if math.isfinite(width) else "no interval yet"
                tell(len(times), f"{known}, asked {100 * self.timing.precision:g} %")
            if len(times) >= look:
                look = math.ceil(1.25 * look)
            blocks.append(self._block(blocks, min(self._block_size(), self._most() - len(times))))

    def _fewest(self) -> int:
        return max(FEWEST, self.timing.repeats * len(self.requests))

    def _most(self) -> int:
        return max(FEWEST, self.timing.max_repeats * len(self.requests))

    def _block_size(self) -> int:
        """Generations of a block: half of them where few are asked for, so that a short pass has two blocks."""
        return max(2, min(BLOCK, self._fewest() // 2))

    def _stops(self, kept: Sequence[TimingBlock], latency: RequestLatency | None, look: int, seconds: float) -> str:
        count = sum(len(block.timed) for block in kept)
        if latency is None:
            return ""
        if count >= self._most():
            return "max_repeats"
        if seconds >= self.timing.max_seconds and count >= FEWEST:
            return "max_seconds"
        return self._reached(kept, latency, count) if count >= look else ""

    def _reached(self, kept: Sequence[TimingBlock], latency: RequestLatency, count: int) -> str:
        if self._is_precise(latency):
            if self._has_one_level(latency):
                return "precision"
            return "bimodal" if count >= MODES_FACTOR * self._fewest() else ""
        waits_for_host = self._records_all() and count >= PREPROCESS_FACTOR * self._fewest()
        return "precision_without_preprocess" if waits_for_host and self._is_device_precise(kept) else ""

    def _is_precise(self, latency: RequestLatency) -> bool:
        steady = latency.halves_apart <= max(self.timing.precision, 0.01)
        return steady and latency.half_width <= self.timing.precision

    def _has_one_level(self, latency: RequestLatency) -> bool:
        return latency.modes_apart <= self.timing.precision / 2

    def _is_device_precise(self, kept: Sequence[TimingBlock]) -> bool:
        """Whether the latency without preprocessing is as precise as the job asks."""
        of_device = request_latency([value for block in kept for value in block.times_without_preprocess])
        return self._is_precise(of_device) and self._has_one_level(of_device)

    def _block(self, earlier: Sequence[TimingBlock], size: int) -> TimingBlock:
        index, undisturbed = len(earlier), [block for block in earlier if not block.disturbed]
        undisturbed_mhz = [block.clock_mhz for block in undisturbed if block.clock_mhz]
        with self.configured():
            before = self._disturbance()
            joules, began = self._joules(), time.monotonic()
            first = sum(len(block.timed) for block in earlier)
            with no_collections():
                timed = [self._numbered(index, number) for number in range(first, first + size)]
            seconds, after_joules = time.monotonic() - began, self._joules()
        with no_collections():
            canary = self._canary(index) if self.canary else None
        after = self._disturbance()
        usual_mhz = statistics.median(undisturbed_mhz) if undisturbed_mhz else None
        why = disturbance.causes(before, after, usual_mhz) if before and after else ""
        capped = [one.gpu.power_capped_ns or 0 if one and one.gpu else 0 for one in (before, after)]
        energy = None
        if joules is not None and after_joules is not None:
            energy = Energy(joules=after_joules - joules, seconds=seconds, rounds=size)
        return TimingBlock(
            timed=tuple(replace(generation, disturbed=why) for generation in timed),
            canary=canary,
            disturbed=why,
            clock_mhz=after.gpu.sm_clock_mhz if after and after.gpu else None,
            power_limited=capped[1] > capped[0],
            energy=energy,
        )

    def _numbered(self, block: int, number: int) -> TimedGeneration:
        """The generation with this number in the session: its request, and how often that was timed before."""
        repeat, index = divmod(number, len(self.requests))
        return self._valid_generation(self.requests[index], self.length, block=block, repeat=repeat, index=index)

    def _joules(self) -> float | None:
        if self.gpu is None or not self.timing.energy_seconds:
            return None
        return attempted("energy", self.missing, self.gpu.energy_joules)

    def _disturbance(self) -> DisturbanceReading | None:
        read = partial(disturbance.read, self.model.device, self.gpu, self.pauses)
        return attempted("disturbance", self.missing, read)

    def _compared_work(self) -> ComparedWork | None:
        work = compared_work(self.model, self.configured, self.requests[self._middle()], self.full_work)
        if work is None:
            self.missing["speedup"] = TOO_LARGE
        return work

    def _middle(self) -> int:
        """The request of middle length, which is the canary's."""
        return len(self.requests) // 2

    def _canary(self, block: int) -> TimedGeneration:
        index = self._middle()
        return self._valid_generation(self.requests[index], CANARY_TOKENS, block=block, repeat=-1, index=index)

    def _valid_generation(
        self, request: Sequence[Prompt], length: int, *, block: int, repeat: int, index: int
    ) -> TimedGeneration:
        """One generation whose stages add up, and how many were discarded before it.

        On a busy host the process can be descheduled between two readings of the clock. Such a run is recognised by its
        broken sum and not by its length, so repeating it introduces no bias; a wrong clock fails every time.
        """
        broken: list[StageTimes] = []
        while len(broken) < ATTEMPTS:
            run = self._generate(request, length, self.clock)
            stages = run.stages
            assert stages is not None, "a generation with a clock has stages"
            if stage_sum_error(stages) <= max(STAGE_SUM_TOLERANCE, CLOCK_TOLERANCE_MS / stages.end_to_end_ms):
                return TimedGeneration(
                    session=self.session,
                    block=block,
                    repeat=repeat,
                    request=index,
                    generations=run.generations,
                    stages=stages,
                    redone=len(broken),
                )
            broken.append(stages)
        last = broken[-1]
        raise Mismatch(
            f"the stages add up to {last.stage_sum_ms:.3f} ms of {last.end_to_end_ms:.3f} ms end to end,"
            f" {stage_sum_error(last):.1%} apart where {STAGE_SUM_TOLERANCE:.0%} is allowed, {ATTEMPTS} times in a row"
        )

    def _once(self, clock: Clock | None) -> StageTimes | None:
        return self._generate(self.requests[0], self.length, clock).stages

    def _generate(self, request: Sequence[Prompt], length: int, clock: Clock | None) -> Run:
        """Exactly ``length`` tokens for each prompt."""
        return generate(self.model, request, max_new_tokens=length, stop_at_eos=False, clock=clock, engine=self.engine)

    def _work(self) -> tuple[dict[Stage, int] | None, int | None]:
        if not self.model.device.startswith("cuda"):
            return None, None
        read_bytes = attempted("roofline", self.missing, partial(least_decode_bytes, self.model.decoder))
        work = partial(generate, self.model, self.requests[0], max_new_tokens=2, stop_at_eos=False)

        def counted(clock: Clock) -> None:
            work(clock=clock)

        return attempted("operations", self.missing, partial(count_flops_by_stage, counted)), read_bytes

    def _energy(self, blocks: Sequence[TimingBlock]) -> Energy | None:
        """The energy of the timed blocks, and of as much more of the same work as the counter needs."""
        if self.gpu is None or not self.timing.energy_seconds or "energy" in self.missing:
            return None
        parts = [block.energy for block in kept_blocks(blocks) if block.energy]
        total = added_up(parts)
        if not total or total.seconds >= self.timing.energy_seconds:
            return total
        more = self._more_energy(self.timing.energy_seconds - total.seconds)
        return added_up([total, more]) if more else None

    def _more_energy(self, seconds: float) -> Energy | None:
        assert self.gpu is not None, "there is a counter"
        requests = cycle(self.requests)

        def work() -> Run:
            return self._generate(next(requests), self.length, None)

        measure = partial(measure_energy, self.gpu, work, self.model.synchronize, seconds, len(self.requests))
        for _ in range(ENERGY_WINDOWS):
            before = self._disturbance()
            energy = attempted("energy", self.missing, measure)
            after = self._disturbance()
            why = disturbance.causes(before, after) if before and after else ""
            if not energy or PAUSED not in why:
                return energy
        # An idle board uses energy too, and nobody knows how much of it fell into the pause.
        self.missing["energy"] = f"disturbed {ENERGY_WINDOWS} times: {why}"
        return None

    def _why_no_energy(self) -> str:
        if self.energy_missing or self.timing.energy_seconds:
            failed = self.missing.get("energy", "")
            return self.energy_missing or failed or "the board does not count its energy, or is shared"
        return "energy_seconds is 0"

    def _host_bound(self, blocks: Sequence[TimingBlock]) -> HostBound | None:
        firsts = [timed.stages for block in kept_blocks(blocks) for timed in block.timed if timed.request == 0]
        steps = [gap for stages in firsts for gap in stages.step_ms]
        if not steps:
            return None
        latency = statistics.median(stages.e2e_ms for stages in firsts)
        measure = partial(
            host_bound.measure_host_bound, self.model.device, self._once, statistics.median(steps), latency
        )
        return attempted("host_bound", self.missing, measure)


def stage_sum_error(stages: StageTimes) -> float:
    """Difference of the sum of the stages from end-to-end, as a share of end-to-end."""
    return abs(stages.stage_sum_ms - stages.end_to_end_ms) / stages.end_to_end_ms
