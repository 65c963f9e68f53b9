"""Tables for other programs: the same rows in every format, no formulas, no file replaced, and columns explained."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import feather
from typer.testing import CliRunner

from tests.analyze.test_front_doubt import sweep
from tests.builders import trial_row, write_answers, write_results
from vlmprof import load
from vlmprof.cli import app
from vlmprof.errors import StoreError, UserError
from vlmprof.report.export import EXPORTED, SIDECAR, export
from vlmprof.store import compaction, schema, tables
from vlmprof.store.compaction import Compactor
from vlmprof.store.filesystem import results_folder
from vlmprof.store.ledger import Ledger
from vlmprof.store.streaming import TableStream


def swept(folder):
    sweep(folder, [0.3, 0.6, 0.9], [50, 100, 150])
    rows = [
        {"trial": "t1", "sample": f"q{k}", "cluster": f"p{k}", "score": math.nan if k == 5 else 0.5}
        | {"prediction": "=HYPERLINK(1)" if k == 0 else 'a "b",\nc'}
        for k in range(400)
    ]
    tables.write(folder, "samples", "t1", rows, schema.SAMPLES)
    return folder


def read(path):
    if path.suffix == ".arrow":
        return feather.read_feather(path)
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True)


@pytest.mark.parametrize("form", ["csv", "jsonl", "arrow"])
def test_all_tables_in_every_format(tmp_path, form):
    folder = swept(tmp_path / "results")
    found = export(folder, form, tmp_path / "out")
    assert set(found.files) == set(EXPORTED) and found.lost == {}
    assert found.rows == {"trials": 3, "samples": 1200, "timings": 48, "front": 3}
    results = load(folder)
    for name, frame in (("trials", results.trials), ("samples", results.samples), ("timings", results.timings)):
        back = read(found.files[name])
        assert list(back) == list(frame) and len(back) == len(frame)
        value = "score" if name == "samples" else "end_to_end_ms" if name == "timings" else "latency_ms_p50"
        np.testing.assert_array_equal(
            np.sort(back[value].astype(float).to_numpy()), np.sort(frame[value].astype(float).to_numpy())
        )
    assert "front_membership" in read(found.files["front"])
    assert not list((tmp_path / "out").glob(".*"))


def test_no_formula_leaves_as_csv(tmp_path):
    export(swept(tmp_path / "results"), "csv", tmp_path / "samples.csv", ["samples"])
    back = pd.read_csv(tmp_path / "samples.csv")
    mine = back[back["trial"] == "t1"]["prediction"].tolist()
    assert mine[0] == "'=HYPERLINK(1)" and mine[1] == 'a "b",\nc'


def test_lists_are_json_and_numbers_that_are_none_are_null(tmp_path):
    folder = swept(tmp_path / "results")
    rows = [{"trial": "t0", "session": 0, "repeat": 0, "request": 0, "end_to_end_ms": 9.0, "step_ms": [1.5, math.nan]}]
    tables.write(folder, "timings", "t0", rows, schema.TIMINGS)
    export(folder, "csv", tmp_path / "t.csv", ["timings"])
    back = pd.read_csv(tmp_path / "t.csv")
    assert json.loads(back[back["trial"] == "t0"]["step_ms"].iloc[0]) == [1.5, None]
    export(folder, "jsonl", tmp_path / "t.jsonl", ["timings"])
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert lines[0]["step_ms"] == [1.5, None] and lines[0]["vision_ms"] is None


def test_columns_are_explained(tmp_path):
    found = export(swept(tmp_path / "results"), "arrow", tmp_path / "out")
    told = json.loads(found.sidecar.read_text())
    assert found.sidecar.name == SIDECAR and set(told) == set(EXPORTED)
    latency = told["trials"]["latency_ms_p50"]
    assert latency["unit"] == "ms" and latency["better"] == "lower" and latency["description"]
    assert latency["interval"] == "latency_ms_p50_low,latency_ms_p50_high"
    assert all(one["description"] for table in told.values() for one in table.values())
    assert feather.read_table(found.files["trials"]).schema.field("latency_ms_p50").metadata[b"unit"] == b"ms"


def test_nothing_is_replaced_without_force(tmp_path):
    folder, out = swept(tmp_path / "results"), tmp_path / "out"
    export(folder, "csv", out, ["trials"])
    (out / "trials.csv").write_text("mine")
    with pytest.raises(UserError, match=r"trials\.csv is there already; .* --force"):
        export(folder, "csv", out)
    assert (out / "trials.csv").read_text() == "mine" and not (out / "samples.csv").exists()
    export(folder, "csv", out, force=True)
    assert (out / "trials.csv").read_text() != "mine" and (out / "samples.csv").exists()


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    folder, out = swept(tmp_path / "results"), tmp_path / "out"
    export(folder, "csv", out, ["samples"])
    before = (out / "samples.csv").read_text()

    def broken(self):
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(TableStream, "__iter__", broken)
    with pytest.raises(KeyboardInterrupt):
        export(folder, "csv", out, ["samples"], force=True)
    assert (out / "samples.csv").read_text() == before and sorted(p.name for p in out.iterdir()) == [
        "columns.json",
        "samples.csv",
    ]


@pytest.mark.parametrize(
    ("form", "to", "names", "said"),
    [
        ("xlsx", "out", EXPORTED, "no format 'xlsx'"),
        ("csv", "out", ["sample"], "no table 'sample' to export; did you mean 'samples'"),
        ("csv", "out", [], "no table to export"),
        ("csv", "out.csv", EXPORTED, "is one file, and 4 tables are to be written"),
        ("csv", "out.jsonl", ["trials"], r"a name that ends in \.csv"),
    ],
)
def test_bad_input_is_refused(tmp_path, form, to, names, said):
    with pytest.raises(UserError, match=said):
        export(swept(tmp_path / "results"), form, tmp_path / to, names)


def test_no_sweep_and_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(StoreError):
        export(tmp_path, "csv", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        export(swept(tmp_path / "results"), "csv", tmp_path / "file" / "out")


def test_an_unfinished_sweep(tmp_path):
    folder = write_results(tmp_path / "results", [trial_row({"max_crops": 1}, state="failed")])
    assert export(folder, "jsonl", tmp_path / "out").rows == {"trials": 1, "samples": 0, "timings": 0, "front": 0}


def test_damaged_rows_are_counted(tmp_path):
    folder = swept(tmp_path / "results")
    file = folder / "samples" / "t1.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    found = export(folder, "csv", tmp_path / "out", ["samples"])
    assert found.lost == {"samples": ("t1",)} and found.rows == {"samples": 800}


def test_a_stream_reads_merged_trials_once_and_those_that_ran_again_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "MERGE_BATCH", 2)
    rows = [trial_row({"max_crops": i}, trial=f"t{i}") for i in range(5)]
    for row in rows:
        write_answers(tmp_path, row["trial"], {"q0": 0.0, "q1": 1.0})
    folder = write_results(tmp_path, rows)
    ledger = Ledger(folder)
    Compactor(results_folder(folder), ledger).merge()
    assert any(line["event"] == "merged" for line in ledger.lines)
    ledger.append("started", trial="t1")
    write_answers(tmp_path, "t1", {"q0": 0.25})
    ledger.append("done", trial="t1")
    ledger.close()
    stream = TableStream(where=folder, table="samples")
    found = [(row["trial"], row["score"]) for part in stream for row in part.to_pylist()]
    again = [(f"t{i}", score) for i in (0, 2, 3, 4) for score in (0.0, 1.0)]
    assert sorted(found) == sorted([*again, ("t1", 0.25)]) and stream.lost == set()


def test_an_object_that_is_merged_while_it_is_read(tmp_path, monkeypatch):
    """The second object disappears under the reader, and its rows are in a merged one: the ledger says so."""
    folder = swept(tmp_path)
    original, moved = tables.read_objects, []

    def read_objects(results, names, columns=()):
        if names == ["samples/t1.parquet"] and not moved:
            moved.append(names)
            rows = tables.read_part(folder, "samples", "t1")
            tables.write(folder, "samples", "merged-0", rows, schema.SAMPLES)
            Path(folder / "samples" / "t1.parquet").unlink()
            ledger = Ledger(folder)
            ledger.append("merged", table="samples", file="samples/merged-0.parquet", trials=["t1"])
            ledger.close()
        return original(results, names, columns)

    monkeypatch.setattr(tables, "read_objects", read_objects)
    found = [trial for part in TableStream(where=folder, table="samples") for trial in part.column("trial").to_pylist()]
    assert moved and {trial: found.count(trial) for trial in sorted(set(found))} == {"t0": 400, "t1": 400, "t2": 400}


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_on_the_command_line_and_in_python(tmp_path):
    folder = swept(tmp_path / "results")
    shown = run("export", folder, "--jsonl", "--tables", "trials,front")
    assert shown.exit_code == 0, shown.output
    assert "trials.jsonl: 3 rows" in shown.output and (folder / "export" / SIDECAR).exists()
    both = run("export", folder, "--jsonl", "--csv")
    assert isinstance(both.exception, UserError) and "got csv and jsonl" in str(both.exception)
    bucket = run("export", "s3://bucket/x", "--csv")
    assert isinstance(bucket.exception, UserError) and "name a folder with --to" in str(bucket.exception)
    assert load(folder).export("csv", tmp_path / "x", "trials").rows == {"trials": 3}
