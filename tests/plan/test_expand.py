from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs import small_job
from vlmprof import registry
from vlmprof.job.spec import ModelSpec, SweepSpec
from vlmprof.plan.expand import expand, size
from vlmprof.plan.model_space import ModelSpace

SPEC = {"name": "any", "models": ["demo"], "tasks": ["shapes_qa", "vqa_v2"], "knobs": {"max_crops": [1]}}
SPACES = st.dictionaries(
    st.sampled_from(["max_crops", "moe_top_k", "output_tokens"]),
    st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(tuple),
)


def test_every_point_becomes_a_trial_with_an_id_of_its_own(tmp_path: Path, tiny_checkpoint: Path) -> None:
    plans = small_job(tmp_path, tiny_checkpoint).plans
    assert len({plan.id for plan in plans}) == len(plans) == 4


def test_adding_a_value_keeps_the_ids_of_the_others(tmp_path: Path, tiny_checkpoint: Path) -> None:
    few = {plan.id for plan in small_job(tmp_path, tiny_checkpoint).plans}
    knobs = {"max_crops": [1, 2, 4], "moe_top_k": [1, 4]}
    more = {plan.id for plan in small_job(tmp_path, tiny_checkpoint, knobs=knobs).plans}
    assert few < more


@pytest.mark.parametrize("strategy", registry.names("strategies"))
@given(spaces=st.lists(SPACES, min_size=1, max_size=4))
def test_each_model_has_the_points_of_its_own_space_once(
    strategy: str, spaces: list[dict[str, tuple[int, ...]]]
) -> None:
    spec = SweepSpec.model_validate({**SPEC, "strategy": strategy})
    models = [
        ModelSpace(model=ModelSpec(family="demo", checkpoint=str(i)), fingerprint=str(i), knobs=space)
        for i, space in enumerate(spaces)
    ]
    plans = expand(spec, models, dict.fromkeys(spec.tasks, "1"))
    assert size(spec, models) == len(plans) == len({plan.id for plan in plans})
    for i, space in enumerate(spaces):
        alone = expand(spec, models[i : i + 1], dict.fromkeys(spec.tasks, "1"))
        assert [plan for plan in plans if plan.model_fingerprint == str(i)] == list(alone), "whatever the others sweep"
        assert all(value in space[name] for plan in alone for name, value in plan.point)
        tried = {(name, value) for plan in alone for name, value in plan.point}
        assert tried == {(name, value) for name, values in space.items() for value in values}
        if not space:
            assert [str(plan.point) for plan in alone] == ["as trained"] * len(spec.tasks)


def test_what_a_model_has_nothing_for_is_no_part_of_an_id() -> None:
    spec = SweepSpec.model_validate(SPEC)
    plain, told = (
        ModelSpace(model=ModelSpec(family="demo"), fingerprint="f", knobs={"max_crops": (1,)}, inapplicable=names)
        for names in ((), ("moe_top_k",))
    )
    revisions = dict.fromkeys(spec.tasks, "1")
    assert [p.id for p in expand(spec, [plain], revisions)] == [p.id for p in expand(spec, [told], revisions)]


def test_knobs_of_an_entry_are_no_part_of_what_a_model_is() -> None:
    entry = ModelSpec.model_validate({"family": "demo", "knobs": {"active_blocks": [{"keep": 2}], "max_crops": None}})
    plain = ModelSpec(family="demo")
    assert entry.without_knobs == plain and hash(entry.without_knobs) == hash(plain)
    assert plain.model_dump() == {"family": "demo", "checkpoint": "", "revision": "", "dtype": "float32"}
    assert ModelSpec.model_validate(entry.model_dump()) == entry, "the ledger keeps them"
    with pytest.raises(TypeError):
        hash(entry)
    assert entry.space({"max_crops": (1,), "tiling": ((1, 1),)}) == {
        "tiling": ((1, 1),),
        "active_blocks": ({"keep": 2},),
    }
