"""Warnings about a group of trials, which every report and figure shows with its numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from vlmprof.store.schema import at_setting, setting_words, settings_of

SESSION_DRIFT = 0.015
"""Of the canary, from the first third of a session to the last."""
VARIED = "precision_without_preprocess"
CANARY_SPREAD = 0.03
"""Of the canary, from the trial where it was fastest to the one where it was slowest."""
CANARY = (
    "model",
    "model_fingerprint",
    "revision",
    "dtype",
    "attention",
    "experts_kernel",
    "task",
    "timing_batch_size",
    "engine",
    "preprocess",
    "device",
    "cpu_threads",
)
"""Where these are equal, the canary is the same work for the same kind of machine."""


def cautions(part: pd.DataFrame) -> Iterator[str]:
    """A warning for each condition that limits what the numbers of these trials mean.

    Args:
        part: Trials that are compared, as rows of the ``trials`` table.
    """
    yield from _about_flips(part)
    for left_out in sorted(part["decoding_left_out"].dropna().unique()) if "decoding_left_out" in part else ():
        yield f"decoded greedily, without the checkpoint's own {left_out}"
    yield from _about_failed_samples(part)
    yield from _about_untimed_samples(part)
    yield from _about_times(part)
    yield from _about_settings(part)


def judged_flips(rate: float, low: float, allowed: float) -> str:
    """``warns`` where an audit shows more flips than allowed, ``cannot tell`` where it saw more but by chance perhaps.

    The lower end of the 95 % interval decides: of 64 audited answers a single flip is more than 1 %, and at a true rate
    of 0.5 % there is one in 27 % of audits.
    """
    if low > allowed:
        return "warns"
    return "cannot tell" if rate > allowed else ""


def _about_flips(part: pd.DataFrame) -> Iterator[str]:
    known = part.dropna(subset=["flip_rate", "flip_rate_allowed"])
    lows = known["flip_rate_low"].fillna(known["flip_rate"]) if "flip_rate_low" in known else known["flip_rate"]
    judged = [
        judged_flips(rate, low, allowed)
        for rate, low, allowed in zip(known["flip_rate"], lows, known["flip_rate_allowed"], strict=True)
    ]
    if flipping := judged.count("warns"):
        yield f"in {flipping} of {len(part)} the batch size changed more answers than allowed (see flip_rate)"
    if unclear := judged.count("cannot tell"):
        yield (
            f"in {unclear} of {len(part)} it cannot be told whether the batch size changes more answers than allowed:"
            " too few were audited (batch.audit_samples; 380 without a flip rule out 1 %)"
        )


def _about_untimed_samples(part: pd.DataFrame) -> Iterator[str]:
    """Latency over other samples than were asked, which nothing else tells where no sample was scored."""
    some = _count(part, "samples_untimed", 0)
    if not some:
        return
    yield f"in {some} of {len(part)} trials samples could not be given to the model: others were timed (not_measured)"
    if part["untimed_set"].astype("string").fillna("").nunique() > 1:
        yield "not the same samples were left out of timing in all trials: times are of different samples (untimed_set)"


def _about_failed_samples(part: pd.DataFrame) -> Iterator[str]:
    """Accuracy over fewer samples than were asked, which a job allows."""
    some = _count(part, "samples_failed", 0)
    if not some:
        return
    yield f"in {some} of {len(part)} trials some samples failed: accuracy is over the answered ones (samples_answered)"
    if "failed_set" in part and part["failed_set"].astype("string").fillna("").nunique() > 1:
        yield "not the same samples failed in all trials, so accuracies are over different samples (failed_set)"


def _about_times(part: pd.DataFrame) -> Iterator[str]:
    """Warnings from the timing pass: disturbances, drift, a host-bound GPU."""
    whole = f"of {len(part)}"
    if disturbed := _count(part, "blocks_disturbed_kept", 0.0):
        causes = sorted({why for told in part["disturbed_by"].dropna() for why in told.split(", ")})
        yield f"in {disturbed} {whole} timing was disturbed throughout ({', '.join(causes)})"
    if varied := int(part["timing_stopped"].astype("string").fillna("").str.contains(VARIED).sum()):
        yield (
            f"in {varied} {whole} preprocessing on the host varied, and latency_ms_p50 is less precise than asked;"
            " e2e_ms_p50 leaves it out"
        )
    if bound := _count(part, "host_bound", 0.0):
        yield f"in {bound} {whole} decoding waits for the host: what a knob saves on the device may not show"
    if drifted := _count(part, "canary_drift_session", SESSION_DRIFT):
        by = f"by more than {100 * SESSION_DRIFT:g} %"
        yield f"in {drifted} {whole} the machine drifted {by} while timing (canary_ratio)"
    if (spread := _spread_of_canaries(part)) > CANARY_SPREAD:
        yield f"the same canary took up to {100 * spread:.0f} % longer in one trial than in another (canary_ms_p50)"


def _about_settings(part: pd.DataFrame) -> Iterator[str]:
    """Warnings about single batch sizes and lengths, of which a trial may have timed several."""
    settings = {setting: f"at {setting_words(setting)}" for setting in settings_of(part.columns)}
    errors = {"timing_error": "at the first batch size and length"}
    errors |= {at_setting("timing_error", setting): words for setting, words in settings.items()}
    for column, words in errors.items():
        if failed := int(part[column].notna().sum()) if column in part else 0:
            yield f"in {failed} of {len(part)} nothing could be timed {words} ({column})"
    for setting, words in settings.items():
        if disturbed := _count(part, at_setting("blocks_disturbed_kept", setting), 0.0):
            yield f"in {disturbed} of {len(part)} timing was disturbed throughout {words}"
        if bound := _count(part, at_setting("host_bound", setting), 0.0):
            yield f"in {bound} of {len(part)} decoding waits for the host {words}"


def _spread_of_canaries(part: pd.DataFrame) -> float:
    """How much longer the same canary took in one trial than in another."""
    if "canary_ms_p50" not in part or part["canary_ms_p50"].isna().all():
        return 0.0
    groups = part.groupby([part[name].astype("string").fillna("") for name in CANARY if name in part])["canary_ms_p50"]
    return float((groups.max() / groups.min() - 1).max())


def _count(part: pd.DataFrame, name: str, above: float) -> int:
    if name not in part:
        return 0
    return int((part[name].astype("Float64").fillna(0.0) > above).sum())
