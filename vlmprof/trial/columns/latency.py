"""The latency columns of ``trials`` and the rows of ``timings``, from the timing sessions of a trial.

Estimates use undisturbed blocks where there are any (``trial.outcome.kept_blocks``). docs/measurement.md defines every
column.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from functools import partial

from vlmprof.measure import roofline
from vlmprof.measure.attempt import attempted
from vlmprof.records import Row
from vlmprof.stats import timeseries
from vlmprof.stats.generation_times import RequestLatency, RequestTime, request_latency, request_medians, request_rate
from vlmprof.store.schema import STAGES
from vlmprof.trial.columns.quality import digest_of_ids
from vlmprof.trial.columns.speedup import loaded_with, speedup_columns
from vlmprof.trial.load_key import load_arguments
from vlmprof.trial.outcome import TimedGeneration, TimingBlock, TimingSession, TrialOutcome
from vlmprof.trial.timing_pass import stage_sum_error

Cells = dict[str, float | int | str | None]
NAMED_TAILS = {"p90": 0.9, "p95": 0.95, "p99": 0.99}


def latency_columns(outcome: TrialOutcome, device_name: str, missing: MutableMapping[str, str]) -> Cells:
    """The columns of the timing pass; empty where nothing was timed.

    Args:
        outcome: The trial.
        device_name: As the manufacturer calls the device.
        missing: Takes why bounds of the hardware could not be computed.
    """
    if not outcome.settings:
        return {}
    sessions, setting = outcome.sessions, outcome.settings[0]
    asked: Cells = {"timing_batch_size": setting.batch_size, "timing_output_tokens": setting.output_tokens}
    if not sessions:
        return {**asked, "timing_error": setting.error}
    return {
        **asked,
        "timing_requests": len({timed.request for timed in outcome.timed}),
        "samples_untimed": len(outcome.untimed),
        "untimed_set": digest_of_ids(outcome.untimed),
        **_estimate(sessions),
        **_stages(sessions),
        **_tails(outcome.timed),
        **_throughput(outcome),
        **_trust(outcome),
        **_canary(sessions),
        **speedup_columns(sessions),
        "speedup_loaded_with": loaded_with(outcome.resolved.plan),
        **_memory(sessions),
        **_energy(outcome),
        **_host_bound(sessions[0]),
        **(attempted("roofline", missing, partial(_hardware, outcome, device_name)) or {}),
    }


def canary_ms(outcome: TrialOutcome) -> float | None:
    """The canary's median over all sessions; None where there is none."""
    times = [timed.stages.end_to_end_ms for session in outcome.sessions for timed in _canaries(session)]
    return statistics.median(times) if times else None


def timing_rows(outcome: TrialOutcome) -> Iterator[Row]:
    """Every timed generation as it was measured: disturbed blocks and canaries too."""
    for number, setting in enumerate(outcome.settings):
        for block in (block for session in setting.sessions for block in session.blocks):
            for timed in (*block.timed, *([block.canary] if block.canary else [])):
                yield _row(outcome, number, timed)


def _row(outcome: TrialOutcome, setting: int, timed: TimedGeneration) -> Row:
    stages = timed.stages
    return {
        "trial": outcome.resolved.plan.id,
        "setting": setting,
        "session": timed.session,
        "block": timed.block,
        "canary": timed.repeat < 0,
        "repeat": None if timed.repeat < 0 else timed.repeat,
        "request": timed.request,
        "batch_size": len(timed.generations),
        "output_tokens": stages.decode_steps + 1,
        **{f"{stage}_ms": getattr(stages, f"{stage}_ms") for stage in STAGES},
        "step_ms": stages.step_ms,
        "end_to_end_ms": stages.end_to_end_ms,
        "disturbed": timed.disturbed or None,
    }


def _times(session: TimingSession) -> list[RequestTime]:
    return [value for block in session.kept for value in block.times]


def _estimate(sessions: Sequence[TimingSession]) -> Cells:
    latencies = [request_latency(_times(session)) for session in sessions]
    middle, low, high = _over_sessions(latencies)
    of_device = [
        request_latency([value for block in session.kept for value in block.times_without_preprocess])
        for session in sessions
    ]
    return {
        **dict(zip(("e2e_ms_p50", "e2e_ms_p50_low", "e2e_ms_p50_high"), _over_sessions(of_device), strict=True)),
        "repeats": min(_fewest_repeats(session) for session in sessions),
        "timed_generations": sum(len(_times(session)) for session in sessions),
        "timing_processes": len(sessions),
        "latency_ms_p50": middle,
        "latency_ms_p50_low": low,
        "latency_ms_p50_high": high,
        "latency_half_width": None if low is None or high is None else (high - low) / 2 / middle,
        "latency_modes_apart": max(latency.modes_apart for latency in latencies),
    }


def _over_sessions(latencies: Sequence[RequestLatency]) -> tuple[float, float | None, float | None]:
    """The latency over all sessions, and the ends of its interval."""
    interval = timeseries.process_interval([latency.ms for latency in latencies])
    low, high = (interval.low, interval.high) if interval else (latencies[0].low, latencies[0].high)
    return statistics.fmean(latency.ms for latency in latencies), low, high


def _fewest_repeats(session: TimingSession) -> int:
    return min(Counter(time.request for time in _times(session)).values())


def _stages(sessions: Sequence[TimingSession]) -> Cells:
    timed = [generation for session in sessions for block in session.kept for generation in block.timed]
    names = [f"{stage}_ms" for stage in STAGES] + ["ttft_ms", "tpot_ms"]
    steps = [gap for generation in timed for gap in generation.stages.step_ms]
    return {
        **{f"{name}_p50": _mean_of_medians(timed, name) for name in names},
        "ttft_with_preprocess_ms_p50": _mean_of_medians(timed, "ttft_with_preprocess_ms"),
        "itl_ms_p50": _median(steps),
        **{f"itl_ms_{name}": timeseries.percentile_of(steps, share) for name, share in NAMED_TAILS.items()},
    }


def _mean_of_medians(timed: Sequence[TimedGeneration], name: str) -> float | None:
    """Mean over requests of the median of a stage; None where no generation has the stage."""
    times = [
        RequestTime(generation.request, value)
        for generation in timed
        if (value := getattr(generation.stages, name)) is not None
    ]
    return statistics.fmean(request_medians(times).values()) if times else None


def _median(values: Iterable[float]) -> float | None:
    listed = list(values)
    return statistics.median(listed) if listed else None


def _tails(timed: Sequence[TimedGeneration]) -> Cells:
    times = [timed.stages.end_to_end_ms for timed in timed]
    largest = timeseries.largest_valid_percentile(len(times))
    return {
        **{f"latency_ms_{name}": timeseries.percentile_of(times, share) for name, share in NAMED_TAILS.items()},
        "latency_tail_percentile": largest,
        "latency_ms_tail": timeseries.percentile_of(times, largest) if largest else None,
    }


def _throughput(outcome: TrialOutcome) -> Cells:
    """Work divided by time, over all timed generations; every request has the same number of prompts."""
    prompts = len(outcome.timed[0].generations)
    rates = [request_rate(_times(session)) for session in outcome.sessions]
    seconds = sum(time.ms for session in outcome.sessions for time in _times(session)) / 1e3
    per_s = len(outcome.timed) / seconds
    interval = timeseries.process_interval([rate.per_s for rate in rates])
    low, high = (interval.low, interval.high) if interval else (rates[0].low, rates[0].high)
    ends = {"": per_s, "_low": low, "_high": high}
    counts = {"samples": prompts, "tokens": prompts * outcome.timing_output_tokens}
    return {
        f"timing_{unit}_per_s{end}": None if rate is None else count * rate
        for unit, count in counts.items()
        for end, rate in ends.items()
    }


def _trust(outcome: TrialOutcome) -> Cells:
    sessions = outcome.sessions
    blocks = [block for session in sessions for block in session.blocks]
    kept = [block for session in sessions for block in session.kept]
    judged = not any("disturbance" in session.missing for session in sessions)
    reasons = sorted({reason.split(" (")[0] for b in blocks for reason in b.disturbed.split(", ") if reason})
    return {
        "timing_stopped": ", ".join(sorted({session.stopped for session in sessions})),
        "warmup_repeats": max(session.warmup_generations for session in sessions),
        "warm": all(session.warm for session in sessions),
        "timing_waited_s": sum(session.waited_s for session in sessions),
        "timing_s": sum(session.seconds for session in sessions),
        "timing_exclusive": all(session.exclusive for session in sessions),
        "blocks": len(blocks),
        "blocks_disturbed": sum(bool(block.disturbed) for block in blocks) if judged else None,
        "blocks_disturbed_kept": sum(bool(block.disturbed) for block in kept) if judged else None,
        "disturbed_by": ", ".join(reasons) or None,
        "power_limited": any(block.power_limited for block in blocks),
        "timings_redone": sum(timed.redone for block in blocks for timed in block.timed),
        "stage_sum_error": max(stage_sum_error(timed.stages) for timed in outcome.timed),
        "recorded_distance": max((d for s in sessions if (d := s.recorded_distance) is not None), default=None),
    }


def _canaries(session: TimingSession) -> list[TimedGeneration]:
    return [block.canary for block in session.kept if block.canary]


def _canary(sessions: Sequence[TimingSession]) -> Cells:
    """The canary's time, the configuration's ratio to it block by block, and its drift from first to last third."""
    pairs = [
        (ms, block.canary.stages.end_to_end_ms)
        for session in sessions
        for block, ms in _block_latencies(session)
        if block.canary
    ]
    if not pairs:
        return {}
    ratios = [configuration / canary for configuration, canary in pairs]
    interval = timeseries.steady_median_interval(ratios)
    return {
        "canary_ms_p50": statistics.median(canary for _, canary in pairs),
        "canary_ratio": statistics.median(ratios),
        "canary_ratio_low": interval.low if interval else None,
        "canary_ratio_high": interval.high if interval else None,
        "canary_drift_session": max((abs(d) for s in sessions if (d := _drift(s)) is not None), default=None),
    }


def _block_latencies(session: TimingSession) -> Iterator[tuple[TimingBlock, float]]:
    """Each kept block and the latency of all requests as it was during the block, which may have timed some of them."""
    medians = request_medians(_times(session))
    centre = statistics.fmean(medians.values())
    for block in session.kept:
        yield block, centre * statistics.fmean(time.ms / medians[time.request] for time in block.times)


def _drift(session: TimingSession) -> float | None:
    times = [timed.stages.end_to_end_ms for timed in _canaries(session)]
    third = len(times) // 3
    return statistics.median(times[-third:]) / statistics.median(times[:third]) - 1 if third else None


def _memory(sessions: Sequence[TimingSession]) -> Cells:
    peaks = [session.peak for session in sessions if session.peak]
    return {
        "peak_bytes": max((peak.peak_bytes for peak in peaks), default=None),
        "device_peak_bytes": max((peak.device_bytes for peak in peaks), default=None),
    }


def _energy(outcome: TrialOutcome) -> Cells:
    windows = [session.energy for session in outcome.sessions if session.energy]
    if not windows:
        return {"energy_missing": outcome.sessions[0].energy_missing}
    batch = next(len(timed.generations) for timed in outcome.timed if timed.request == 0)
    samples = sum(window.rounds for window in windows) * batch
    joules = sum(window.joules for window in windows)
    return {
        "energy_j_per_sample": joules / samples,
        "energy_j_per_token": joules / samples / outcome.timing_output_tokens,
        "energy_window_s": sum(window.seconds for window in windows),
    }


def _host_bound(session: TimingSession) -> Cells:
    signs = session.host_bound
    if signs is None:
        return {}
    return {
        "gpu_busy_share": signs.busy_share,
        "launch_ahead_gain": signs.launch_ahead_gain,
        "host_bound": signs.verdict,
    }


def _hardware(outcome: TrialOutcome, device_name: str) -> Cells:
    session = outcome.sessions[0]
    hardware = roofline.hardware_of(device_name)
    if hardware is None or session.operations is None or session.decode_bytes is None:
        return {}
    times = _request_zero(outcome)
    dtype = load_arguments(outcome.resolved.plan)["dtype"]
    flop = _operations(session)
    bounds = {stage: roofline.compute_bound_ms(hardware, count, dtype) for stage, count in flop.items()}
    weights = session.decode_bytes
    bounds["decode"] = max(bounds["decode"], roofline.memory_bound_ms(hardware, weights))
    faults = roofline.impossible_stages(times, bounds)
    step, peak = times["decode"], roofline.peak_tflops(hardware, dtype) * 1e12
    return {
        **{f"mfu_{stage}": flop[stage] / peak / (t / 1e3) for stage in ("vision", "prefill") if (t := times[stage])},
        "decode_bytes_per_s": weights / (step / 1e3) if step else None,
        "mbu_decode": weights / (step / 1e3) / hardware.bytes_per_s if step else None,
        "impossible": bool(faults),
        "impossible_why": "; ".join(faults) or None,
    }


def _operations(session: TimingSession) -> dict[str, float]:
    """FLOP of request 0: vision with its connector, prefill, one decode step."""
    counted = session.operations or {}
    vision = counted.get("vision", 0) + counted.get("connector", 0)
    return {"vision": vision, "prefill": counted.get("prefill", 0), "decode": counted.get("decode", 0)}


def _request_zero(outcome: TrialOutcome) -> dict[str, float | None]:
    firsts = [timed.stages for timed in outcome.timed if timed.request == 0]
    return {
        "vision": _median(stages.vision_ms + (stages.connector_ms or 0.0) for stages in firsts),
        "prefill": _median(stages.prefill_ms for stages in firsts),
        "decode": _median(gap for stages in firsts for gap in stages.step_ms),
    }
