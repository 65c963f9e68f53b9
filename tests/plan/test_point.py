import subprocess
import sys
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from vlmprof.job.spec import ModelSpec, TaskSpec, TimingSpec
from vlmprof.plan.point import Point, Timing, TrialPlan, canonical

TIMING = Timing(
    batch_size=1,
    requests=1,
    output_tokens=2,
    warmup=1,
    warmup_seconds=0.0,
    repeats=6,
    max_repeats=6,
    max_seconds=60.0,
    precision=0.01,
    processes=1,
    exclusive=False,
    energy_seconds=0.0,
)
VALUES = st.one_of(st.integers(), st.lists(st.integers(), max_size=4), st.fixed_dictionaries({"keep": st.integers()}))


def plan(**changes: object) -> TrialPlan:
    base = TrialPlan(
        model=ModelSpec(family="demo"),
        model_fingerprint="f",
        task=TaskSpec(name="shapes_qa"),
        task_revision="1",
        point=Point.of({"max_crops": 4}),
        measure=("accuracy",),
        timing=TIMING,
        batch_size=None,
        batch_max=32,
        audit_samples=0,
        flip_rate_allowed=0.01,
        accelerator="",
        gpus="auto",
        threads=1,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@given(st.dictionaries(st.text(min_size=1, max_size=5), VALUES, max_size=4))
def test_a_point_does_not_depend_on_the_order_it_was_written_in(values: dict[str, object]) -> None:
    backwards = dict(reversed(values.items()))
    assert Point.of(values) == Point.of(backwards)
    assert hash(Point.of(values)) == hash(Point.of(backwards))
    assert dict(Point.of(values)) == values


def test_tuples_and_lists_are_the_same_value() -> None:
    assert Point.of({"active_blocks": (0, 1)}) == Point.of({"active_blocks": [0, 1]})


def test_the_id_follows_from_what_decides_the_outcome_and_from_nothing_else() -> None:
    ids = {
        plan().id,
        plan(point=Point.of({"max_crops": 5})).id,
        plan(model_fingerprint="g").id,
        plan(task=TaskSpec(name="shapes_qa", seed=1)).id,
        plan(task_revision="2").id,
        plan(batch_size=8).id,
        plan(audit_samples=64).id,
        plan(measure=("latency",)).id,
        plan(accelerator="H200").id,
        plan(timing=replace(TIMING, repeats=7)).id,
    }
    assert len(ids) == 10
    assert {plan(batch_max=64).id, plan(flip_rate_allowed=0.5).id, plan(threads=2).id, plan(gpus="1").id} == {plan().id}
    timed = plan(measure=("accuracy", "latency"))
    assert len({timed.id, replace(timed, threads=2).id, replace(timed, gpus="0").id}) == 3


def test_the_id_is_the_same_in_another_process() -> None:
    code = "from tests.plan.test_point import plan; print(plan().id)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert told == plan().id


def test_canonical_json_has_one_spelling() -> None:
    assert canonical({"b": (1, 2), "a": 1}) == '{"a":1,"b":[1,2]}'


def test_further_timed_settings_are_part_of_the_id_only_where_there_are_any() -> None:
    """The id of a job with plain numbers is the one that it had before there were lists."""
    before = plan(measure=("latency",)).id
    assert before == "6e0c5a3da528"
    more = {
        plan(measure=("latency",), timing=replace(TIMING, further=further)).id for further in (((8, 2),), ((2, 2),))
    }
    assert len(more | {before}) == 3


def test_a_list_of_one_gives_the_trials_of_the_number() -> None:
    listed = Timing.of(TimingSpec.model_validate({"batch_size": [4], "output_tokens": [2]}))
    assert plan(timing=listed).id == plan(timing=Timing.of(TimingSpec(batch_size=4, output_tokens=2))).id


def test_the_settings_are_told_in_words() -> None:
    timing = Timing.of(TimingSpec.model_validate({"batch_size": [1, 8], "output_tokens": [2, 16]}))
    assert timing.words == "batch size 1, 8 and output tokens 2, 16"
    assert timing.settings == ((1, 2), (1, 16), (8, 2), (8, 16))
