"""Trials of unlike GPUs: each kind has a front, a figure and a table of its own, and none is lost. Likewise models."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from tests.builders import GPU, combined_sweep, read_rows, trial_row, write_results
from vlmprof.analyze.comparability import comparable, groups, model_names, require_few
from vlmprof.analyze.objectives import parse_objectives
from vlmprof.analyze.pareto import pareto
from vlmprof.errors import UserError
from vlmprof.plots.plot import render
from vlmprof.report.pareto_table import front_report, read_front
from vlmprof.store import tables
from vlmprof.store.tables import schema_of

OTHER = "NVIDIA L4"


def folder_of(tmp_path: Path) -> Path:
    rows = [
        trial_row({"max_crops": 1}, accuracy=0.4, latency_ms_p50=40.0),
        trial_row({"max_crops": 9}, accuracy=0.6, latency_ms_p50=90.0),
        # Worse than both in every way, on a slower GPU: in a mixed front it would not be seen.
        trial_row({"max_crops": 4}, accuracy=0.3, latency_ms_p50=300.0, device=OTHER),
        trial_row({"max_crops": 6}, accuracy=0.35, latency_ms_p50=350.0, device=OTHER),
    ]
    write_results(tmp_path, rows)
    return tmp_path


def test_each_kind_has_a_front_of_its_own(tmp_path: Path) -> None:
    trials = tables.read(folder_of(tmp_path), "trials")
    parts = dict(groups(comparable(trials)))
    assert len(parts) == 2 and all(part["device"].nunique() == 1 for part in parts.values())
    front = pareto(trials, parse_objectives(["accuracy", "latency_ms_p50"], schema_of(trials)))
    assert len(front) == 4 and front["on_front"].all()


def test_reports_and_figures_keep_them_apart(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    front = read_front(folder, [], [])
    titles = [str(getattr(part, "title", "")) for part in front_report(front, 160)]
    assert sum(GPU in title for title in titles) == sum(OTHER in title for title in titles) == 1
    assert not any(GPU in title and OTHER in title for title in titles)
    names = [path.name for path in render(folder, tmp_path / "plots") if "front" in path.name]
    assert len({name for name in names if "h200" in name.lower()}) == len({n for n in names if "l4" in n.lower()}) > 0


def test_whoever_asks_gets_one_front_and_is_told_what_is_in_it(tmp_path: Path) -> None:
    front = read_front(folder_of(tmp_path), [], [], across_devices=True)
    assert front["group"].nunique() == 1
    assert set(front[front["on_front"]]["device"]) == {GPU}
    said = " ".join(str(part) for part in front_report(front, 160))
    assert f"2 different values of device: {GPU}, {OTHER}" in said
    apart = " ".join(str(part) for part in front_report(read_front(tmp_path), 160))
    assert "different values of device" not in apart


def test_a_commit_beside_an_installed_copy_is_said(tmp_path):
    rows = [trial_row({"max_crops": 1}, vlmprof_commit="abc"), trial_row({"max_crops": 4}, vlmprof_commit=None)]
    (sentence,) = comparable(read_rows(tmp_path, rows)).attrs["mixed"]
    assert "2 different values of vlmprof_commit: abc, none (an installed copy)" in sentence
    other = [trial_row({"max_crops": i}, vlmprof=f"1.{i}") for i in (1, 2)]
    (sentence,) = comparable(read_rows(tmp_path / "other", other)).attrs["mixed"]
    assert "2 different values of vlmprof: 1.1, 1.2" in sentence


@pytest.mark.parametrize("column", ["decode_attention", "decode_experts"])
def test_other_kernels_of_the_decode_steps_are_said(tmp_path: Path, column: str) -> None:
    rows = [trial_row({"max_crops": n}, engine="graphs", **{column: name}) for n, name in ((1, "sdpa"), (4, "ours"))]
    (sentence,) = comparable(read_rows(tmp_path, rows)).attrs["mixed"]
    assert f"2 different values of {column}: ours, sdpa" in sentence


@pytest.mark.parametrize("column", ["python", "torch", "cuda", "transformers", "tokenizers", "pillow", "torchvision"])
def test_other_versions_of_what_may_change_a_number_are_said(tmp_path: Path, column: str) -> None:
    rows = [trial_row({"max_crops": n}, **{column: version}) for n, version in ((1, "1.0"), (4, "none"))]
    (sentence,) = comparable(read_rows(tmp_path, rows)).attrs["mixed"]
    assert f"2 different values of {column}: 1.0, none" in sentence
    early = [trial_row({"max_crops": 1}), trial_row({"max_crops": 4}, **{column: "1.0"})]
    (sentence,) = comparable(read_rows(tmp_path / "early", early)).attrs["mixed"]
    assert "1.0, not known" in sentence  # a row of an earlier vlmprof does not have all of these


# --- several models ---------------------------------------------------------------------------------------------------

NAMES = ("model", "model_fingerprint")
DENSE = {"model": "dense-7b", "model_fingerprint": "beef", "family": "transformers_vlm"}


def two_models(tmp_path: Path, *more: dict[str, Any]) -> pd.DataFrame:
    mixture = [trial_row({"max_crops": 1, "moe_top_k": k}, accuracy=0.4 + k / 10) for k in (1, 2)]
    dense = [trial_row({"max_crops": 1}, accuracy=0.3, latency_ms_p50=50.0, **DENSE)]
    trials: pd.DataFrame = read_rows(tmp_path, [*mixture, *dense, *more])
    return trials


def sizes(trials: pd.DataFrame, **options: Any) -> list[int]:
    return sorted(len(part) for _, part in groups(comparable(trials, **options)))


def test_models_are_apart_unless_one_group_is_asked_for(tmp_path: Path) -> None:
    trials = two_models(tmp_path)
    assert sizes(trials) == [1, 2]
    ((name, part),) = groups(comparable(trials, across_models=True))
    assert len(part) == 3 and "dense-7b" not in name and "MolmoE" not in name
    assert sizes(trials, across_models=True, by=["model"]) == [1, 2]
    assert sizes(trials, across_models=True, by=["family"]) == [1, 2]


@pytest.mark.parametrize(
    "unlike",
    [
        {"task": "gqa"},
        {"device": OTHER},
        {"dtype": "float32"},
        {"timing_batch_size": 2},
        {"timing_output_tokens": 8},
        {"timing_requests": 1},
        {"samples": 100},
        {"seed": 1},
        {"task_revision": "2"},
        {"engine": "eager"},
        {"preprocess": "device"},
    ],
    ids=lambda unlike: next(iter(unlike)),
)
def test_what_may_not_be_compared_stays_apart_across_models(tmp_path: Path, unlike: dict[str, Any]) -> None:
    trials = two_models(tmp_path, trial_row({"max_crops": 1}, **{**DENSE, **unlike}))
    assert sizes(trials, across_models=True) == [1, 3]


def test_rows_from_before_there_was_a_choice_were_cut_on_the_host(tmp_path: Path) -> None:
    rows = [trial_row({"max_crops": 1}, preprocess=None), trial_row({"max_crops": 2}, preprocess="host")]
    assert sizes(read_rows(tmp_path, rows)) == [2]
    ((name, _),) = groups(comparable(read_rows(tmp_path, rows)))
    assert "preprocess" not in name
    cut = trial_row({"max_crops": 4}, preprocess="device")
    names = [name for name, _ in groups(comparable(read_rows(tmp_path, [*rows, cut])))]
    assert len(names) == 2 and "preprocess=host" in names[1] and "preprocess=device" in names[0]


def test_what_may_shift_a_time_is_said_across_models(tmp_path: Path) -> None:
    commits = trial_row({"max_crops": 2}, vlmprof_commit="abc", experts_kernel="", **DENSE)
    trials = two_models(tmp_path, commits, trial_row({"max_crops": 4}, experts_kernel="grouped_mm"))
    said = " ".join(comparable(trials, across_models=True).attrs["mixed"])
    assert "2 different values of vlmprof_commit: abc, none (an installed copy)" in said
    assert "grouped_mm, not known" in said and ": ," not in said, "no experts is no kernel of experts"


def test_a_precision_that_one_model_sweeps_does_not_split_its_group(tmp_path: Path) -> None:
    swept = [
        trial_row(
            {"max_crops": 1}, dtype=name, requested_dtype=name, knob_dtype=None, effect_dtype="effective", **DENSE
        )
        for name in ("bfloat16", "float32")
    ]
    plain = [trial_row({"max_crops": crops}) for crops in (1, 2)]
    trials = read_rows(tmp_path, [*plain, *swept])
    assert sizes(trials) == [2, 2], "it is what this model compares"
    assert sizes(trials, across_models=True) == [1, 3], "and is no reason to compare it with another precision"


def test_models_of_one_name_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    rows = [trial_row({"max_crops": i}, model="final", model_fingerprint=f"{i}" * 16) for i in (1, 2)]
    trials = read_rows(tmp_path, [*rows, trial_row({"max_crops": 1})])
    ((_, part),) = groups(comparable(trials, across_models=True))
    assert set(model_names(part)) == {"final (11111111)", "final (22222222)", "MolmoE-1B-0924"}
    said = io.StringIO()
    front = read_front(tmp_path, across_models=True)
    Console(file=said, width=160).print(*front_report(front, 160))
    assert "final (11111111)" in said.getvalue() and "MolmoE-1B-0924" in said.getvalue()


def test_a_front_of_all_models_names_its_model_also_where_it_has_one(tmp_path: Path) -> None:
    two_models(tmp_path, trial_row({"max_crops": 1}, **{**DENSE, "dtype": "float32"}))
    *_, alone = (
        part for part in front_report(read_front(tmp_path, across_models=True), 160) if isinstance(part, Table)
    )
    assert "dtype=float32: 1 of 1" in str(alone.title)
    assert [str(cell) for column in alone.columns if column.header == "model" for cell in column.cells] == ["dense-7b"]
    for part in front_report(read_front(tmp_path), 160):
        assert not isinstance(part, Table) or "model" not in [column.header for column in part.columns]


def test_the_front_of_all_models_is_that_of_all_points(tmp_path: Path) -> None:
    """Against the definition: a trial is on it if no trial of any model beats it."""
    values = np.random.RandomState(3).randint(1, 12, (40, 2))
    rows = [
        trial_row(
            {"max_crops": i + 1},
            accuracy=a / 20,
            latency_ms_p50=float(m),
            model=f"m{i % 3}",
            model_fingerprint=f"{i % 3}",
        )
        for i, (a, m) in enumerate(values)
    ]
    front = read_front(write_results(tmp_path, rows), across_models=True).set_index("knob_max_crops")["on_front"]
    for i, (a, m) in enumerate(values):
        beaten = any(x >= a and y <= m and (x > a or y < m) for x, y in values)
        assert front[i + 1] == (not beaten)


def test_what_holds_every_pair_together_refuses_very_many_with_the_number_and_a_way_on(tmp_path, monkeypatch):
    part = read_rows(tmp_path, combined_sweep())
    require_few(part, "coupling", most=16)
    with pytest.raises(UserError, match=r"16 configurations, and coupling is given for at most 15.*vlmprof best"):
        require_few(part, "coupling", most=15)
