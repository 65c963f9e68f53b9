import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import combined_sweep, read_rows, trial_row
from vlmprof.analyze.objectives import Objective, parse_objectives
from vlmprof.analyze.pareto import front, pareto, to_arrow
from vlmprof.errors import UserError
from vlmprof.store.schema import trials_schema

ACCURACY = Objective(column="accuracy", better="higher", unit="fraction")
LATENCY = Objective(column="latency_ms_p50", better="lower", unit="ms")
MEMORY = Objective(column="peak_bytes", better="lower", unit="bytes")


def brute(values: list[tuple[float, ...]], objectives: list[Objective]) -> list[bool]:
    """The definition, pair by pair, in plain Python."""

    def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        pairs = [(a, b) if o.better == "lower" else (b, a) for a, b, o in zip(one, other, objectives, strict=True)]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [not any(dominates(other, row) for other in values) for row in values]


def points(dimensions: int):
    # Few different values, so that ties and duplicates are the rule.
    coarse = st.tuples(*[st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 2.0])] * dimensions)
    fine = st.tuples(*[st.floats(-1e9, 1e9)] * dimensions)
    return st.lists(st.one_of(coarse, fine), max_size=40)


directions = st.sampled_from(["lower", "higher"])


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@given(data=st.data())
def test_front_equals_its_definition(dimensions, data):
    rows = data.draw(points(dimensions))
    objectives = [Objective(column=f"o{i}", better=data.draw(directions)) for i in range(dimensions)]
    values = np.array(rows, dtype=float).reshape(len(rows), dimensions)
    assert front(values, objectives).tolist() == brute(rows, objectives)


@given(points(2), st.randoms())
def test_front_does_not_depend_on_order(rows, rng):
    objectives = [ACCURACY, LATENCY]
    order = list(range(len(rows)))
    rng.shuffle(order)
    values = np.array(rows, dtype=float).reshape(len(rows), 2)
    assert front(values[order], objectives).tolist() == front(values, objectives)[order].tolist()


def test_exact_ties_all_stay():
    values = np.array([[0.7, 10.0], [0.7, 10.0], [0.6, 10.0], [0.7, 11.0], [0.8, 12.0]])
    assert front(values, [ACCURACY, LATENCY]).tolist() == [True, True, False, False, True]


def test_large_front_agrees_with_the_plain_way():
    rng = np.random.default_rng(3)
    values = rng.integers(0, 60, (2000, 2)).astype(float)
    third = np.column_stack([values, np.zeros(2000)])  # an objective on which all agree changes nothing
    assert (front(values, [LATENCY, MEMORY]) == front(third, [LATENCY, MEMORY, ACCURACY])).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        front(np.array([[0.5, 1.0], [bad, 1.0]]), [ACCURACY, LATENCY])


def test_shape_must_fit():
    with pytest.raises(ValueError, match="2 objectives"):
        front(np.zeros((3, 3)), [ACCURACY, LATENCY])


def test_objectives_come_from_the_schema():
    schema = trials_schema(["max_crops"])
    assert parse_objectives(["accuracy", "latency_ms_p50"], schema) == [ACCURACY, LATENCY]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["acuracy"], "did you mean 'accuracy'"),
        (["latency"], "there are: .*latency_ms_p50"),
        (["crops"], "'crops' has no better direction"),
        (["accuracy", "accuracy"], "each once"),
        ([], "none"),
    ],
)
def test_objectives_that_cannot_be(names, message):
    with pytest.raises(UserError, match=message):
        parse_objectives(names, trials_schema([]))


def test_pareto_of_a_sweep(tmp_path):
    trials = read_rows(tmp_path, combined_sweep())
    frame = pareto(trials, [ACCURACY, LATENCY])
    values = list(frame[["accuracy", "latency_ms_p50"]].itertuples(index=False, name=None))
    assert frame["on_front"].tolist() == brute(values, [ACCURACY, LATENCY])
    assert frame["accuracy"].is_monotonic_decreasing
    assert frame["group"].nunique() == 1
    assert frame.attrs["left_out"] == {}


def test_order_is_by_objectives_then_id(tmp_path):
    rows = [trial_row({"max_crops": i}, trial=f"t{i}", accuracy=a, latency_ms_p50=m) for i, a, m in
            [(3, 0.5, 10.0), (1, 0.5, 10.0), (2, 0.5, 9.0), (4, 0.9, 20.0)]]  # fmt: skip
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])
    assert frame["trial"].tolist() == ["t4", "t2", "t1", "t3"]
    assert frame["on_front"].tolist() == [True, True, False, False]


def test_unfinished_trials_are_left_out_and_counted(tmp_path):
    rows = [
        trial_row({"max_crops": 1}),
        trial_row({"max_crops": 2}, state="oom", accuracy=None, latency_ms_p50=None),
        trial_row({"max_crops": 3}, state="failed", accuracy=None, latency_ms_p50=None),
        trial_row({"max_crops": 4}, state="failed", accuracy=0.99),
    ]
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])
    assert len(frame) == 1
    assert frame.attrs["left_out"] == {"failed": 2, "oom": 1}


def test_a_missing_objective_is_refused_by_name(tmp_path):
    rows = [trial_row({"max_crops": 1}), trial_row({"max_crops": 2}, trial="latency-only", accuracy=None)]
    with pytest.raises(UserError, match="accuracy is missing or not finite in 1 of 2: latency-only"):
        pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])


@pytest.mark.parametrize(
    "other",
    [
        {"device": "NVIDIA A100"},
        {"task": "textvqa"},
        {"split": "train"},
        {"model": "demo"},
        {"timing_batch_size": 8},
        {"timing_output_tokens": 64},
        {"model_fingerprint": "beef"},
        {"dtype": "float32"},
        {"seed": 1},
        {"samples": 100},
    ],
)
def test_what_cannot_be_compared_is_not(tmp_path, other):
    better = {"accuracy": 0.9, "latency_ms_p50": 1.0}
    rows = [trial_row({"max_crops": 1}), trial_row({"max_crops": 2}, **better, **other)]
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])
    assert frame["group"].nunique() == 2
    assert frame["on_front"].all()
    assert all(str(value) in " ".join(frame["group"]) for value in other.values())


def test_a_precision_that_was_swept_is_what_is_compared(tmp_path):
    """Half the bits against all of them is one question, with one front; kernels that were swept are not a surprise."""
    knobs = [{"dtype": 32, "attention": 3}, {"dtype": 16, "attention": 2}]
    rows = [trial_row(knobs[0], dtype="float32", attention="sdpa"), trial_row(knobs[1], attention="eager")]
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])
    assert frame["group"].nunique() == 1
    assert not [sentence for sentence in frame.attrs["mixed"] if "attention" in sentence]


def test_two_processors_are_two_machines(tmp_path):
    rows = [
        trial_row({"max_crops": 1}, device="CPU", cpu="Old", cpu_threads=4),
        trial_row({"max_crops": 1}, device="CPU", cpu="New", cpu_threads=4),
        trial_row({"max_crops": 1}, device="CPU", cpu="New", cpu_threads=8),
    ]
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])
    assert frame["group"].nunique() == 3
    assert "CPU New, 8 threads" in frame["group"].str.cat()


def test_a_swept_output_length_does_not_split_the_front(tmp_path):
    rows = [
        trial_row({"output_tokens": length}, timing_output_tokens=length, latency_ms_p50=length * 10.0)
        for length in (4, 8, 16)
    ]
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])
    assert frame["group"].nunique() == 1
    assert frame["on_front"].sum() == 1


def test_lengths_that_a_job_fixed_stay_apart_from_swept_ones(tmp_path):
    rows = [
        trial_row({"output_tokens": 4}, timing_output_tokens=4),
        trial_row({"output_tokens": 8}, timing_output_tokens=8),
        trial_row({"max_crops": 2}, timing_output_tokens=8),
    ]
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])
    assert sorted(frame["group"].value_counts()) == [1, 2]


def test_by_splits_further(tmp_path):
    rows = combined_sweep()
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY], by=["requested_active_blocks", "task"])
    assert sorted(frame["group"].value_counts()) == [8, 8]
    assert "requested_active_blocks=prefix 8" in frame["group"].str.cat()


def test_by_an_unknown_column(tmp_path):
    with pytest.raises(UserError, match="no column named 'taks' to group by; did you mean 'task'"):
        pareto(read_rows(tmp_path, combined_sweep()), [ACCURACY, LATENCY], by=["taks"])


def test_what_else_differs_is_said(tmp_path):
    rows = [trial_row({"max_crops": 1}, torch="2.11"), trial_row({"max_crops": 2}, torch="2.12")]
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])
    assert len(frame.attrs["mixed"]) == 1
    assert "2 different values of torch: 2.11, 2.12" in frame.attrs["mixed"][0]


def test_an_empty_table_has_an_empty_front(tmp_path):
    rows = [trial_row({"max_crops": 1}, state="oom", accuracy=None)]
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])
    assert frame.empty
    assert {"group", "on_front"} <= set(frame.columns)
    assert frame.attrs["left_out"] == {"oom": 1}


def test_written_front_keeps_units(tmp_path):
    frame = pareto(read_rows(tmp_path, [*combined_sweep(), trial_row({"max_crops": 3})]), [ACCURACY, LATENCY])
    pq.write_table(to_arrow(frame), tmp_path / "pareto.parquet")
    table = pq.read_table(tmp_path / "pareto.parquet")
    assert table.schema.field("latency_ms_p50").metadata[b"unit"] == b"ms"
    assert table.column("trial").to_pylist() == frame["trial"].tolist()
    assert table.column("on_front").to_pylist() == frame["on_front"].tolist()
    assert table.schema.field("samples").type == pa.int64()
    assert table.column("knob_moe_top_k").null_count == 1


def test_the_table_given_is_left_alone(tmp_path):
    trials = read_rows(tmp_path, combined_sweep())
    before = trials.copy()
    pareto(trials, [ACCURACY, LATENCY])
    pd.testing.assert_frame_equal(trials, before)


def test_a_time_that_beats_physics_is_on_no_front(tmp_path):
    rows = [
        trial_row({"max_crops": 1}, accuracy=0.5, latency_ms_p50=50.0, impossible=False),
        trial_row({"max_crops": 2}, accuracy=0.9, latency_ms_p50=1.0, impossible=True, impossible_why="prefill"),
        trial_row({"max_crops": 3}, accuracy=0.8, latency_ms_p50=80.0),
    ]
    frame = pareto(read_rows(tmp_path, rows), [ACCURACY, LATENCY])
    assert frame["knob_max_crops"].tolist() == [3.0, 1.0] and frame["on_front"].all()
    assert frame.attrs["left_out"] == {"impossible": 1}
