import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs import job_file
from vlmprof.errors import SpecError, UserError, suggestion
from vlmprof.job import spec
from vlmprof.job.spec import TaskSpec
from vlmprof.trial.resolve import prepare, task_of

GOOD = {
    "name": "small",
    "models": ["demo"],
    "tasks": ["shapes_qa"],
    "knobs": {"max_crops": [1, 2], "active_blocks": [{"keep": 2, "policy": "prefix"}, [0, 3]]},
}


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def faults(folder: Path, **changes: object) -> list[str]:
    job = {**GOOD, **changes}
    path = write(folder, yaml.safe_dump({key: value for key, value in job.items() if value is not None}))
    with pytest.raises(SpecError) as caught:
        prepare(path)
    return [str(fault) for fault in caught.value.faults]


def test_short_forms_and_defaults(tmp_path: Path) -> None:
    read = spec.read(write(tmp_path, yaml.safe_dump({**GOOD, "batch": 8})))
    assert read.models == (spec.ModelSpec(family="demo"),)
    assert read.tasks == (spec.TaskSpec(name="shapes_qa"),)
    assert read.batch.size == 8
    assert read.timing.batch_size == 1
    assert read.folder == Path("results/small")


def test_a_spec_cannot_be_changed(tmp_path: Path) -> None:
    read = spec.read(write(tmp_path, yaml.safe_dump(GOOD)))
    with pytest.raises(Exception, match="frozen"):
        read.name = "other"  # type: ignore[misc]


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    found = "\n".join(
        faults(
            tmp_path,
            name="Not A Slug",
            models=["demmo"],
            tasks=[{"name": "shapes_qa", "sample": 3}],
            knobs={"max_crop": [1], "moe_top_k": [1, 1]},
            measure=["latencys"],
            timing={"repeats": 0},
        )
    )
    assert "did you mean 'demo'?" in found
    assert "unknown key 'sample'; did you mean 'samples'?" in found
    assert "no knob named 'max_crop'; did you mean 'max_crops'?" in found
    assert "1 is listed twice" in found
    assert "expected 'accuracy' or 'latency', got 'latencys'; did you mean 'latency'?" in found
    assert "Not A Slug" in found
    assert "timing.repeats" in found


def test_knob_values_are_checked_in_the_same_pass_as_the_form(tmp_path: Path) -> None:
    found = "\n".join(faults(tmp_path, nmae="x", knobs={"moe_top_k": [1, 17], "max_crops": [0]}))
    assert "unknown key 'nmae'; did you mean 'name'?" in found
    assert "moe_top_k: expected a whole number from 1 to 16, got 17" in found
    assert "max_crops: expected a whole number from 1 to 36, got 0" in found


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (4, "expected {keep: n, policy: prefix} or a list of block indices, got 4"),
        ({"keep": 4, "policy": "prefx"}, "did you mean 'prefix'?"),
        ({"keep": 9, "policy": "prefix"}, "from 1 to 8, got 9"),
        ({"keep": 4}, "expected {keep: n, policy: prefix}"),
        ([3, 1], "ascending"),
        ([], "ascending"),
        ([0, 8], "from 0 to 7, got 8"),
        ([0, True], "got true"),
    ],
)
def test_illegal_blocks_are_named(tmp_path: Path, value: object, said: str) -> None:
    assert said in "\n".join(faults(tmp_path, knobs={"active_blocks": [value]}))


def test_a_key_given_twice_is_a_fault(tmp_path: Path) -> None:
    text = yaml.safe_dump(GOOD) + "name: again\n"
    with pytest.raises(SpecError, match="name: given twice, on lines"):
        spec.read(write(tmp_path, text))


NO_JOBS = ["", "- a\n- b\n", "just words", "a: [1,\n", "{[1]: 2}\n", "!!python/object:os.system x"]


@pytest.mark.parametrize("text", NO_JOBS)
def test_what_is_no_job_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError):
        spec.read(write(tmp_path, text))


def test_a_missing_file_is_the_users_to_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        spec.read(tmp_path / "nowhere.yaml")


def test_numbers_are_not_coerced(tmp_path: Path) -> None:
    assert "tasks.0.samples" in "\n".join(faults(tmp_path, tasks=[{"name": "shapes_qa", "samples": "12"}]))


def test_an_unknown_split_names_the_splits(tmp_path: Path) -> None:
    found = faults(tmp_path, tasks=[{"name": "shapes_qa", "split": "heldout"}])
    assert "did you mean 'held_out'?" in found[0]


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"config\.json cannot be read"):
        prepare(job_file(tmp_path, tmp_path))


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_both_ways_to_say_a_subset_mean_the_same() -> None:
    apart = TaskSpec.model_validate({"name": "shapes_qa", "samples": 9, "seed": 4, "stratify": "question_type"})
    inside = {"name": "shapes_qa", "samples": {"n": 9, "seed": 4, "stratify": "question_type"}}
    assert TaskSpec.model_validate(inside) == apart


def test_fields_that_came_later_are_not_in_what_an_id_hashes() -> None:
    assert set(TaskSpec.model_validate("shapes_qa").model_dump()) == {"name", "split", "samples", "seed"}
    assert "stratify" in TaskSpec.model_validate({"name": "shapes_qa", "stratify": "question_type"}).model_dump()


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ({"n": 3, "sed": 1}, "unknown key 'sed'; did you mean 'seed'?"),
        ({"n": 0}, "expected at least 1, got 0"),
        ({"n": 3, "seed": 1}, "say it once"),
        ({"n": 3, "stratify": "answer"}, "expected '' or 'question_type'"),
    ],
)
def test_a_wrong_subset_is_told(tmp_path: Path, samples: dict[str, object], words: str) -> None:
    beside = {"seed": 0} if "seed" in samples else {}
    (fault,) = faults(tmp_path, tasks=[{"name": "shapes_qa", "samples": samples, **beside}])
    assert words in fault


def test_a_task_with_data_of_its_own_takes_no_path(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, tasks=[{"name": "shapes_qa", "path": "somewhere"}])
    assert "it takes no path" in fault


# --- values of several forms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"batch": {"size": "x"}}, "batch.size: expected a whole number or 'auto', got 'x'"),
        (
            {"batch": {"size": "aut"}},
            "batch.size: expected a whole number or 'auto', got 'aut'; did you mean 'auto'?",
        ),
        (
            {"batch": {"size": "5"}},
            "batch.size: expected a whole number or 'auto', got the text '5'; write it without quotes",
        ),
        ({"resources": {"readers": -1}}, "resources.readers: expected at least 0 or 'auto', got -1"),
        ({"timing": {"precision": -3}}, "timing.precision: expected more than 0, got -3"),
        ({"knobs": {"max_crops": 5}}, "knobs.max_crops: expected a list, got 5"),
    ],
)
def test_a_wrong_value_is_one_fault_that_names_every_form(
    tmp_path: Path, sections: dict[str, object], said: str
) -> None:
    assert [fault for fault in faults(tmp_path, **sections) if fault.startswith(said.split(":", maxsplit=1)[0])] == [
        said
    ]


def test_an_unknown_metric_is_one_fault(tmp_path: Path) -> None:
    tasks = [{"name": "local", "path": "q.jsonl", "metric": "exact_mach"}]
    (fault,) = (text for text in faults(tmp_path, tasks=tasks) if "metric" in text)
    assert "did you mean 'exact_match'?" in fault and "expected" not in fault


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"knobs": {"active_blocks": [{"keep": 2, "polcy": "prefix"}]}}, "got {keep: 2, polcy: 'prefix'}"),
        ({"knobs": {"tiling": [[1]]}}, "got [1]"),
        ({"knobs": {"output_tokens": [None]}}, "got null"),
        ({"knobs": {"dtype": [["a", 1], ["a", 1]]}}, "['a', 1] is listed twice"),
        ({"models": ["demo", "demo"]}, "models: 'demo' with the same settings is listed twice"),
        ({"tasks": ["shapes_qa", "shapes_qa"]}, "tasks: 'shapes_qa' with the same settings is listed twice"),
        ({"resources": {"labels": ["a"]}}, "resources.labels: expected a mapping, got ['a']"),
        ({"name": "A b"}, "name: expected lower-case letters, digits, - and _"),
    ],
)
def test_values_are_shown_as_yaml_writes_them(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    found = "\n".join(faults(tmp_path, **changes))
    assert said in found and not re.search(r"None|True|Spec\(|\(1,\)|\{'", found), found


def test_a_message_lists_no_thousand_names() -> None:
    said = suggestion("row", [f"n{number}" for number in range(1000)])
    assert "and 940 more)" in said and len(said) < 500


def test_a_grid_of_illegal_values_shows_some_faults_and_counts_the_others(tmp_path: Path) -> None:
    job = job_file(tmp_path, "demo", models=["demo"], knobs={"max_crops": list(range(-500, 0))})
    with pytest.raises(SpecError) as caught:
        prepare(job)
    head, *lines, last = str(caught.value).splitlines()
    assert head.endswith("500 faults") and len(caught.value.faults) == 500
    assert len(lines) == 60 and "got -500" in lines[0] and "got -441" in lines[-1]
    assert last == "  ... and 440 more; mend these first"


def test_a_task_that_states_how_indexes_count_keeps_the_statement_and_others_keep_their_ids() -> None:
    plain = TaskSpec(name="shapes_qa")
    assert "index_from" not in plain.model_dump()
    for stated in (0, 1):
        dumped = TaskSpec(name="shapes_qa", index_from=stated).model_dump()
        assert dumped["index_from"] == stated and TaskSpec.model_validate(dumped).index_from == stated
    for name, said in (("shapes_qa", "takes no index_from"), ("gqa", "remove 'index_from:'")):
        with pytest.raises(UserError, match=said):
            task_of(TaskSpec(name=name, index_from=0))


# --- timing at several batch sizes and lengths ------------------------------------------------------------------------


def test_lists_in_timing_are_every_pair_and_a_number_is_one() -> None:
    timing = spec.TimingSpec.model_validate({"batch_size": [1, 8], "output_tokens": [16, 64]})
    assert timing.settings == ((1, 16), (1, 64), (8, 16), (8, 64))
    assert spec.TimingSpec().settings == ((1, 16),)
    assert spec.TimingSpec.model_validate({"batch_size": [8]}).model_dump()["batch_size"] == 8


@given(
    st.lists(st.integers(1, 2**20), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 2**20), min_size=1, max_size=6, unique=True),
)
def test_every_pair_is_timed_once_and_the_first_of_both_lists_first(batches: list[int], lengths: list[int]) -> None:
    settings = spec.TimingSpec.model_validate({"batch_size": batches, "output_tokens": lengths}).settings
    assert settings[0] == (batches[0], lengths[0])
    assert sorted(settings) == sorted((batch, length) for batch in batches for length in lengths)


@pytest.mark.parametrize("key", ["batch_size", "output_tokens"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "expected at least one entry, got []"),
        ([8, 1, 8], "8 is listed twice"),
        ([1, 0], "expected at least 1, got 0"),
        (-3, "expected at least 1, got -3"),
        ([1, 2.5], "expected whole numbers, got 2.5"),
        ([1, "8"], "expected whole numbers, got '8'; write it without quotes"),
        ([True], "expected whole numbers, got true"),
        ("auto", "expected a whole number, or a list of them, got 'auto'"),
        ([[1]], "expected whole numbers, got [1]"),
        (list(range(1, 400)), "expected at most 12 entries, got 399; each is timed in every trial"),
    ],
)
def test_what_is_no_list_of_sizes_is_one_sentence(tmp_path: Path, key: str, given: object, said: str) -> None:
    assert faults(tmp_path, timing={key: given}) == [f"timing.{key}: {said}"]


def test_too_many_pairs_are_one_sentence(tmp_path: Path) -> None:
    (told,) = faults(tmp_path, timing={"batch_size": [1, 2, 4, 8, 16], "output_tokens": [1, 2, 4, 8, 16]})
    assert told.endswith("5 batch sizes and 5 lengths are 25 settings to time in every trial; at most 24 are allowed")


def test_a_list_of_lengths_beside_the_knob_that_sets_the_length_is_one_sentence(tmp_path: Path) -> None:
    (told,) = faults(tmp_path, timing={"output_tokens": [4, 16]}, knobs={"output_tokens": [4, 16]})
    assert "give only one of them" in told
    faults_of_one = {"timing": {"output_tokens": [4]}, "knobs": {"output_tokens": [4, 16]}}
    assert prepare(write(tmp_path, yaml.safe_dump({**GOOD, **faults_of_one}))).plans
