from pathlib import Path

from tests.jobs import small_job


def test_every_point_becomes_a_trial_with_an_id_of_its_own(tmp_path: Path, tiny_checkpoint: Path) -> None:
    plans = small_job(tmp_path, tiny_checkpoint).plans
    assert len({plan.id for plan in plans}) == len(plans) == 4


def test_adding_a_value_keeps_the_ids_of_the_others(tmp_path: Path, tiny_checkpoint: Path) -> None:
    few = {plan.id for plan in small_job(tmp_path, tiny_checkpoint).plans}
    knobs = {"max_crops": [1, 2, 4], "moe_top_k": [1, 4]}
    more = {plan.id for plan in small_job(tmp_path, tiny_checkpoint, knobs=knobs).plans}
    assert few < more
