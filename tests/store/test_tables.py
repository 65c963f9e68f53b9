import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders import trial_row, write_results
from vlmprof.errors import StoreError
from vlmprof.store import schema, tables
from vlmprof.store.ledger import Ledger
from vlmprof.store.tables import schema_of


def field_metadata(field: pa.Field) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}


def test_round_trip(tmp_path):
    rows = [trial_row({"max_crops": 2}, trial="b"), trial_row({"max_crops": 4}, trial="a", error='a "quoted" ümlaut\n')]
    frame = tables.read(write_results(tmp_path, rows), "trials")
    assert frame["trial"].tolist() == ["a", "b"]
    kind = schema.trials_schema(["max_crops"])
    assert frame.columns.tolist() == kind.names
    for row in rows:
        read = frame[frame["trial"] == row["trial"]].iloc[0]
        assert {name: read[name] for name in row} == row
        assert all(pd.isna(read[name]) for name in kind.names if name not in row)


def test_frames_made_of_a_table_share_its_schema_uncopied(tmp_path):
    frame = tables.read(write_results(tmp_path, [trial_row({"max_crops": 2})]), "trials")
    assert schema_of(frame[frame["state"] == "done"].sort_values("trial")) is schema_of(frame)
    assert schema_of(frame.copy(deep=True)) is schema_of(frame)


def test_units_directions_and_intervals_are_in_the_metadata(tmp_path):
    frame = tables.read(write_results(tmp_path, [trial_row({"max_crops": 2})]), "trials")
    on_disk = pq.read_schema(next((tmp_path / "trials").iterdir()))
    for kind in (schema_of(frame), on_disk):
        latency = field_metadata(kind.field("latency_ms_p50"))
        assert latency == {
            "unit": "ms",
            "better": "lower",
            "interval": "latency_ms_p50_low,latency_ms_p50_high",
        }
        assert field_metadata(kind.field("accuracy"))["better"] == "higher"
        assert "better" not in field_metadata(kind.field("crops"))
        assert kind.metadata[b"schema_version"] == str(schema.SCHEMA_VERSION).encode()


@pytest.mark.parametrize("kind", [schema.SAMPLES, schema.TIMINGS, schema.trials_schema(["max_crops"])])
def test_metadata_is_sound(kind):
    assert len(set(kind.names)) == len(kind.names)
    for field in kind:
        metadata = field_metadata(field)
        assert metadata.get("better", "lower") in ("lower", "higher")
        assert set(filter(None, metadata.get("interval", "").split(","))) <= set(kind.names)


def test_different_knobs_in_one_folder(tmp_path):
    rows = [
        trial_row({"max_crops": 2}, trial="a"),
        trial_row({"moe_top_k": 4}, trial="b"),
        trial_row({"max_crops": 6, "moe_top_k": 1}, trial="c"),
    ]
    frame = tables.read(write_results(tmp_path, rows), "trials")
    assert schema.knobs_of(frame.columns) == ["max_crops", "moe_top_k"]
    assert frame["knob_max_crops"].tolist()[::2] == [2, 6]
    assert frame["knob_max_crops"].isna().tolist() == [False, True, False]
    assert frame["requested_moe_top_k"].isna().tolist() == [True, False, False]
    assert schema_of(frame).names == frame.columns.tolist()


def test_an_unlisted_file_is_never_seen(tmp_path):
    write_results(tmp_path, [trial_row({"max_crops": 2}, trial="listed")])
    orphan = trial_row({"max_crops": 9}, trial="orphan")
    tables.write(tmp_path, "trials", "orphan", [orphan], schema.trials_schema(["max_crops"]))
    assert tables.read(tmp_path, "trials")["trial"].tolist() == ["listed"]


def test_a_trial_that_only_started_is_never_seen(tmp_path):
    write_results(tmp_path, [trial_row({"max_crops": 2}, trial="a")])
    ledger = Ledger(tmp_path)
    ledger.append("started", trial="a")
    ledger.close()
    assert tables.read(tmp_path, "trials").empty


def test_what_a_crash_left_half_written_is_never_seen(tmp_path):
    write_results(tmp_path, [trial_row({"max_crops": 2}, trial="a")])
    (tmp_path / "trials" / "a.partial").write_bytes(b"PAR1 torn")
    assert len(tables.read(tmp_path, "trials")) == 1


def test_a_rerun_overwrites(tmp_path):
    kind = schema.trials_schema(["max_crops"])
    for accuracy in (0.1, 0.2):
        write_results(tmp_path, [trial_row({"max_crops": 2}, trial="a", accuracy=accuracy)])
    assert tables.read(tmp_path, "trials")["accuracy"].tolist() == [0.2]
    assert kind.equals(pq.read_schema(tmp_path / "trials" / "a.parquet"))


def test_a_row_that_does_not_fit_leaves_the_old_file(tmp_path):
    write_results(tmp_path, [trial_row({"max_crops": 2}, trial="a")])
    broken = trial_row({"max_crops": 2}, trial="a", accuracy="high")
    with pytest.raises(pa.ArrowInvalid):
        tables.write(tmp_path, "trials", "a", [broken], schema.trials_schema(["max_crops"]))
    assert tables.read(tmp_path, "trials")["accuracy"].tolist() == [0.5]


def test_a_column_that_the_schema_lacks_is_refused(tmp_path):
    row = trial_row({"max_crops": 2}, trial="a", acuracy=0.5)
    with pytest.raises(ValueError, match="no column named acuracy"):
        tables.write(tmp_path, "trials", "a", [row], schema.trials_schema(["max_crops"]))


@pytest.mark.parametrize("table", ["samples", "timings", "trials"])
def test_an_empty_sweep_has_empty_tables_with_their_columns(tmp_path, table):
    Ledger(tmp_path).close()
    frame = tables.read(tmp_path, table)
    assert frame.empty
    assert frame.columns.tolist() == schema_of(frame).names


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(StoreError, match="holds no sweep"):
        tables.read(tmp_path, "trials")


def test_samples_and_timings(tmp_path):
    write_results(tmp_path, [trial_row({"max_crops": 2}, trial="a")])
    sample = {"trial": "a", "sample": "q/1", "score": 0.3, "prediction": "", "capped": False, "batch_size": 4}
    timing = {"trial": "a", "repeat": 0, "request": 0, "end_to_end_ms": 12.5}
    tables.write(tmp_path, "samples", "a", [sample], schema.SAMPLES)
    tables.write(tmp_path, "timings", "a", [timing], schema.TIMINGS)
    read = tables.read(tmp_path, "samples").iloc[0]
    assert {name: read[name] for name in sample} == sample
    assert tables.read(tmp_path, "timings")["end_to_end_ms"].tolist() == [12.5]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(
    value=st.one_of(st.none(), st.floats(allow_nan=False)),
    count=st.one_of(st.none(), st.integers(-(2**53), 2**53)),
    text=st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))),
)
def test_any_value_comes_back(tmp_path, value, count, text):
    row = {"trial": "a", "accuracy": value, "samples": count, "error": text}
    kind = schema.trials_schema([])
    tables.write(tmp_path, "trials", "a", [row], kind)
    assert pq.read_table(tmp_path / "trials" / "a.parquet").select(list(row)).to_pylist() == [row]


def test_some_columns_are_those_of_the_whole_table(tmp_path):
    folder = write_results(tmp_path, [trial_row({"max_crops": 1}, trial=name) for name in "ab"])
    rows = [{"trial": "a", "sample": "q", "score": 0.5, "prediction": "long"}]
    tables.write(folder, "samples", "a", rows, schema.SAMPLES)
    older = pa.table({"trial": ["b"], "sample": ["q"]})
    pq.write_table(older, folder / "samples" / "b.parquet")
    found = tables.read_columns(folder, "samples", ["score", "trial", "cluster"])
    assert sorted(found.to_pylist(), key=lambda row: row["trial"]) == [
        {"score": 0.5, "trial": "a", "cluster": None},
        {"score": None, "trial": "b", "cluster": None},
    ]
    assert tables.read_columns(folder, "timings", ["trial", "step_ms"]).num_rows == 0
