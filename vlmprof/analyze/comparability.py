"""Which trials may be compared: the same model, data, machine and timing pass. Everything that compares starts here.

Latencies of two GPUs, or accuracies on two subsets, in one front would be a wrong answer that looks right. So trials
are split into groups by what they are (``KEYS``, always named), by what must be equal for a comparison to mean
anything (``IDENTITY``, named only where it differs), and what else may shift a time (``ENVIRONMENT``) is reported
when it differs within a group. Whoever asks for it gets the models in one group (``across_models``): they then differ
in ``OF_A_MODEL``, and in nothing else of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from vlmprof.errors import UserError, suggestion
from vlmprof.store.schema import at_setting, settings_of, split_setting

T = TypeVar("T")
KEYS = ("model", "task", "split", "device", "timing_batch_size", "timing_output_tokens")
IDENTITY = (
    "model_fingerprint",
    "revision",
    "dtype",
    "task_revision",
    "seed",
    "samples",
    "metric",
    "timing_requests",
    "engine",
    "preprocess",
)
OF_A_MODEL = ("model", "model_fingerprint", "revision")
"""What is not compared where trials of several models are in one group, because somebody asked for it."""
ENVIRONMENT = (
    "host",
    "cpu",
    "cpu_threads",
    "gpu_driver",
    "attention",
    "experts_kernel",
    "decode_attention",
    "decode_experts",
    "recorded_stages",
    "python",
    "torch",
    "cuda",
    "transformers",
    "tokenizers",
    "pillow",
    "torchvision",
    "vlmprof",
    "vlmprof_commit",
    "executor",
)
ON_CPU = "CPU"
"""What the column ``device`` says where no GPU ran; the processor then is the machine."""
AS_SWEPT = "as swept"
MOST_TOGETHER = 1000
"""Configurations of which all pairs are looked at."""
_LENGTH_SWEPT = f"length {AS_SWEPT}"
LOST = "lost (a file is gone or damaged; run the job again)"


def comparable(
    trials: pd.DataFrame, by: Sequence[str] = (), *, across_devices: bool = False, across_models: bool = False
) -> pd.DataFrame:
    """The finished trials with a ``group`` each; only trials of one group may be compared.

    Where the job swept ``output_tokens``, the timed length is what the knob set: it does not split the group. Nor does
    a precision that the job swept.

    Args:
        trials: the ``trials`` table as ``store.tables.read`` gives it.
        by: further columns to split groups by.
        across_devices: trials of unlike devices in one group, because somebody asked for it; ``mixed`` says which.
        across_models: trials of several models in one group; ``model_names`` tells them apart. Their precision must be
            the same, unless the job swept it for all of them.

    Returns:
        The rows in state ``done`` without an impossible time, by group and trial id. ``attrs`` hold the table's
        ``schema``, ``left_out`` (state -> number of trials in it) and ``mixed`` (a sentence for each column of
        ``ENVIRONMENT`` that differs in a group).

    Raises:
        UserError: a column of ``by`` does not exist.
    """
    unknown = next((name for name in by if name not in trials.columns), None)
    if unknown is not None:
        raise UserError(f"no column named '{unknown}' to group by{suggestion(unknown, _groupable(trials))}")
    judged = _judged(trials)
    states = judged.value_counts()
    done = trials[judged == "done"].copy()
    done["group"] = _labels(done, by, across_devices=across_devices, across_models=across_models)
    done = done.sort_values(["group", "trial"], ignore_index=True)
    left_out = {str(state): int(states[state]) for state in sorted(states.index) if state != "done"}
    if lost := trials.attrs.get("lost"):
        left_out[LOST] = len(lost)
    done.attrs = {**trials.attrs, "left_out": left_out, "mixed": _mixed(done)}
    return done


def _judged(trials: pd.DataFrame) -> pd.Series[Any]:
    """The state of each trial; ``impossible`` for a finished one with a stage that is faster than physics allows."""
    if "impossible" not in trials.columns:
        return trials["state"]
    beyond = trials["impossible"].map(lambda value: value is True or value == 1).astype(bool)
    return trials["state"].mask(beyond & (trials["state"] == "done"), "impossible")


def groups(frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """The groups of a ``comparable`` frame, sorted by name, each with the frame's ``attrs``."""
    for name in sorted(frame["group"].unique()):
        part = frame[frame["group"] == name].reset_index(drop=True)
        part.attrs = {**frame.attrs, "mixed": _mixed(part)}
        yield name, part


def groups_named(frame: pd.DataFrame, by: str, folder: object) -> list[tuple[str, pd.DataFrame]]:
    """The groups of a ``comparable`` frame that have ``by`` in their names.

    Args:
        frame: trials of one folder.
        by: part of a name; empty: all.
        folder: for messages.

    Raises:
        UserError: no trial has finished, or no group has such a name.
    """
    if frame.empty:
        left_out = ", ".join(f"{count} {state}" for state, count in frame.attrs["left_out"].items())
        why = f" ({left_out})" if left_out else ""
        raise UserError(f"{folder}: no trial has finished{why}; 'vlmprof status {folder}' says how far the sweep is")
    found = [(name, part) for name, part in groups(frame) if by in name]
    if not found:
        names = "; ".join(sorted(frame["group"].unique()))
        raise UserError(f"{folder}: no group of trials has '{by}' in its name; there are: {names}")
    return found


def each_of(
    chosen: Iterable[tuple[str, pd.DataFrame]], look: Callable[[str, pd.DataFrame], T]
) -> tuple[list[T], list[str]]:
    """What is found in each group, and the groups in which nothing can be, with the reason.

    Args:
        chosen: as ``groups_named`` gives them.
        look: (name, trials) -> what is found; raises UserError where it cannot be.

    Raises:
        UserError: nothing is found in any; the message has all reasons.
    """
    found, refused = [], []
    for name, part in chosen:
        try:
            found.append(look(name, part))
        except UserError as error:
            refused.append(f"{name}: {error}")
    if not found:
        raise UserError("; ".join(refused))
    return found, refused


def require_few(part: pd.DataFrame, what: str, most: int = MOST_TOGETHER) -> None:
    """Refuse more configurations than can be looked at together.

    Args:
        part: trials of one group, or a part of them.
        what: what is looked at, for the message.
        most: so many are allowed.

    Raises:
        UserError: there are more.
    """
    if len(part) > most:
        raise UserError(
            f"{len(part):,} configurations, and {what} is given for at most {most:,}, as every one is held against"
            " every other; 'vlmprof pareto' and 'vlmprof best' take any number"
        )


def machine(row: Mapping[Any, Any] | pd.Series[Any]) -> str:
    """What the trial ran on: the GPU, or the processor and its threads."""
    if row["device"] != ON_CPU:
        return _text(row["device"])
    threads = _threads(row["cpu_threads"])
    return f"{ON_CPU} {_text(row['cpu']) if pd.notna(row['cpu']) else ''}".strip() + threads


def _threads(count: Any) -> str:
    if pd.isna(count):
        return ""
    return f", {_text(count)} thread{'s' if count != 1 else ''}"


def model_names(part: pd.DataFrame) -> pd.Series[Any]:
    """The model of each trial, by a name that no other model of these has.

    Models in folders of one name differ in their weights: the fingerprint of these is then added.
    """
    prints = part.groupby("model", dropna=False)["model_fingerprint"]
    alike = prints.transform(lambda of_model: of_model.nunique(dropna=False) > 1)
    longer = part["model"].astype(str) + " (" + part["model_fingerprint"].astype(str).str[:8] + ")"
    return part["model"].astype(str).mask(alike.astype(bool), longer)


def _labels(done: pd.DataFrame, by: Sequence[str], *, across_devices: bool, across_models: bool) -> list[str]:
    waived = {*(("device",) if across_devices else ()), *(OF_A_MODEL if across_models else ())} - set(by)
    if "preprocess" in done.columns:  # null from before there was a choice, when all pictures were cut on the host
        done = done.assign(preprocess=done["preprocess"].fillna("host"))
    named = [name for name in (*KEYS, *by) if name in done.columns and name not in waived]
    unlike = [name for name in IDENTITY if name in done.columns and done[name].nunique(dropna=False) > 1]
    columns = list(dict.fromkeys([*named, *(name for name in unlike if name not in waived)]))
    swept = {name: _swept(done, name, across_models=across_models) for name in unlike}
    needed = dict.fromkeys((*columns, "cpu", "cpu_threads"))
    rows = done[[name for name in needed if name in done]].assign(
        **{f"{name} {AS_SWEPT}": values for name, values in swept.items()},
        **{_LENGTH_SWEPT: done["knob_output_tokens"].notna() if "knob_output_tokens" in done else False},
    )
    # Equal rows have equal labels, and there are few different ones.
    number = rows.groupby(list(rows.columns), dropna=False, sort=False).ngroup().to_numpy()
    _, first = np.unique(number, return_index=True)
    labels = {
        number[index]: ", ".join(_parts(row, [name for name in columns if name in named or not swept[name][index]]))
        for index, row in zip(first, rows.iloc[first].to_dict("records"), strict=True)
    }
    return [labels[one] for one in number]


def _swept(part: pd.DataFrame, name: str, *, across_models: bool = True) -> list[bool]:
    """For each trial, whether all that it is compared with set a knob of this name: what differs is what is compared.

    Without ``across_models`` it is compared with the trials of its own model.
    """
    if f"requested_{name}" not in part:
        return [False] * len(part)
    was_set = part[f"requested_{name}"].notna()
    if across_models:
        return [bool(was_set.all())] * len(part)
    return [bool(one) for one in was_set.groupby(part["model_fingerprint"], dropna=False).transform("all")]


def _parts(row: Mapping[Any, Any], columns: Sequence[str]) -> Iterable[str]:
    for name in columns:
        if name == "timing_output_tokens" and row[_LENGTH_SWEPT]:
            yield f"{name}={AS_SWEPT}"
        elif name == "device" and pd.notna(row[name]):
            yield machine(row)
        elif pd.notna(row[name]):
            yield _text(row[name]) if name in ("model", "task", "split") else f"{name}={_text(row[name])}"
        elif name not in KEYS:
            yield f"{name}=none"


def differing(whole: pd.DataFrame) -> dict[str, list[str]]:
    """Column of ``ENVIRONMENT``, or the device -> its values, for those that differ among these trials.

    What was recorded is compared at every timed setting, among the trials that were timed at it.
    """
    found = {}
    for name in ("device", *ENVIRONMENT, *(at_setting("recorded_stages", one) for one in settings_of(whole.columns))):
        setting = split_setting(name)[1]
        part = whole[whole[at_setting("latency_ms_p50", setting)].notna()] if setting else whole
        known = [_text(value) for value in part[name].dropna().unique()] if name in part else []
        values = sorted(filter(None, known))  # a model without experts has no kernel for them
        if values and part[name].isna().any():  # not known is not the same
            values.append("none (an installed copy)" if name == "vlmprof_commit" else "not known")
        if len(values) > 1 and not all(_swept(part, name)):
            found[name] = values
    return found


def _mixed(done: pd.DataFrame) -> tuple[str, ...]:
    return tuple(
        f"{group}: {len(values)} different values of {name}: {', '.join(values)}"
        for group, part in done.groupby("group")
        for name, values in differing(part).items()
    )


def _text(value: Any) -> str:
    # A whole number in a column with gaps comes back as a float.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _groupable(trials: pd.DataFrame) -> list[str]:
    return [str(name) for name in trials.columns if trials[name].notna().any()]
