"""The columns of every further batch size and length that was timed: ``<column>_at_b<batch size>_o<tokens>``.

Each has a timing pass of its own, and its columns are computed as those of the first are. A setting that could not be
timed has its reason in ``timing_error`` and nothing else; so has one with a stage that is faster than the hardware
allows, whose times are wrong.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace

from vlmprof.records import Row
from vlmprof.store.schema import AT_A_SETTING, at_setting
from vlmprof.trial.columns.latency import Cells, latency_columns
from vlmprof.trial.outcome import TimedSetting, TrialOutcome


def timing_columns(outcome: TrialOutcome, device_name: str, missing: MutableMapping[str, str]) -> Row:
    """The columns of all settings, those of the first as they are; arguments as of ``latency_columns``."""
    return {**latency_columns(outcome, device_name, missing), **further_columns(outcome, device_name, missing)}


def further_columns(outcome: TrialOutcome, device_name: str, missing: MutableMapping[str, str]) -> Row:
    """The columns of all settings but the first.

    Args:
        outcome: The trial.
        device_name: As the manufacturer calls the device.
        missing: Takes why bounds of the hardware could not be computed.
    """
    return {
        at_setting(name, setting.name): value
        for setting in outcome.settings[1:]
        for name, value in _cells(outcome, setting, device_name, missing).items()
    }


def _cells(outcome: TrialOutcome, setting: TimedSetting, device_name: str, missing: MutableMapping[str, str]) -> Cells:
    of_setting = replace(
        outcome, settings=(setting,), timing_output_tokens=setting.output_tokens, missing=setting.missing
    )
    cells = latency_columns(of_setting, device_name, missing)
    if cells.get("impossible"):
        return {"timing_error": f"impossible: {cells['impossible_why']}"}
    described = {name: setting.engine.get(name) for name in ("recorded_stages", "prompt_fallback")}
    found: Cells = {**cells, **described} if setting.sessions else cells
    # The column must be there also where nothing was measured: the row says that the setting was asked for.
    return {"timing_error": None, **{name: found[name] for name in AT_A_SETTING if name in found}}
