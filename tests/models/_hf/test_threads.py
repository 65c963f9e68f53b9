"""Prompts encoded on many threads at once become what they are on one, for every family and changing budgets."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.jobs import small_job
from tests.models._hf.families import Family, ask
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.models._hf.runtime import LoadedVlm
from vlmprof.records import Prompt
from vlmprof.trial.columns.row import finished
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.resolve import planned_counts, resolve
from vlmprof.trial.run import run_trial
from vlmprof.trial.samples import samples_of

THREADS, ENCODES = 8, 10
SIZES = [(90, 60), (64, 64), (50, 110), (120, 80), (200, 40), (33, 100)]
TEXTS = ["what colour is the cat", "how many dog are there left of the tree", "red"]


@pytest.fixture(autouse=True)
def threads_that_change_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def encoded(model: LoadedVlm, prompt: Prompt) -> tuple[dict[str, Any], Any]:
    batch = model.encode([prompt])
    return dict(batch.inputs), batch.encodings


def same(one: tuple[dict[str, Any], Any], other: tuple[dict[str, Any], Any]) -> bool:
    return one[1] == other[1] and all(torch.equal(one[0][name], other[0][name]) for name in one[0].keys() | other[0])


def limits_of(family: Family) -> list[dict[str, int | None]]:
    """Settings of the vision knobs: the trained one, a cap, a target that gives every size another budget."""
    settings: list[dict[str, int | None]] = [{}, {"vision_tokens": family.recipe.vision_tokens}]
    settings += [{name: cap} for name in ("max_crops", "max_pixels") if (cap := getattr(family.recipe, name))]
    return settings


def test_many_threads_encode_what_one_encodes(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all families and settings more than 1,000 encodes, with the budgets of images mixed."""
    prompts = [ask(text, *size, seed=i) for i, (text, size) in enumerate(itertools.product(TEXTS, SIZES))]
    for limits in limits_of(family):
        with monkeypatch.context() as knobs:
            for name, value in limits.items():
                knobs.setattr(family.model, name, value)
            expected = [encoded(family.model, prompt) for prompt in prompts]
            start = threading.Barrier(THREADS)

            def work(thread: int, expected: list[Any] = expected, start: threading.Barrier = start) -> list[int]:
                order = [(thread * 5 + i * (thread + 1)) % len(prompts) for i in range(ENCODES)]
                start.wait(timeout=60)
                return [i for i in order if not same(encoded(family.model, prompts[i]), expected[i])]

            with ThreadPoolExecutor(THREADS) as pool:
                assert [wrong for some in pool.map(work, range(THREADS)) for wrong in some] == []


@pytest.mark.parametrize("name", ["llava_next_olmoe", "llava_onevision", "internvl", "qwen3_vl"])
def test_planning_meanwhile_changes_nothing(family_named: Callable[[str], Family], name: str) -> None:
    """One thread plans with other budgets while others encode: the processor that plans share is never changed."""
    family, done = family_named(name), threading.Event()
    model = family.model
    prompts = [ask("red", *size, seed=i) for i, size in enumerate(SIZES)]
    expected = [encoded(model, prompt) for prompt in prompts]
    assert model._budget is not None
    before = dict(model._processor.image_processor.to_dict())

    def plan() -> None:
        while not done.is_set():
            for value, (width, height) in itertools.product(list(model._budget.values())[:9], SIZES):  # type: ignore[union-attr]
                model._budget.count(height, width, value)  # type: ignore[union-attr]

    planner = threading.Thread(target=plan)
    planner.start()
    try:
        wrong = [
            i for _ in range(10) for i, prompt in enumerate(prompts) if not same(encoded(model, prompt), expected[i])
        ]
    finally:
        done.set()
        planner.join()
    assert wrong == [] and dict(model._processor.image_processor.to_dict()) == before


@pytest.mark.parametrize("name", ["llava_next_olmoe", "llava_onevision"])
def test_caps_that_change_from_trial_to_trial_are_what_ran(
    tmp_path: Path, family_named: Callable[[str], Family], name: str
) -> None:
    """Whole score passes on one loaded model, its next batches encoded on threads."""
    family = family_named(name)
    model = {"family": "transformers_vlm", "checkpoint": family.checkpoint.path}
    caps = [family.anatomy.max_crops, 1, 2, family.anatomy.max_crops, 1]
    loaded = LoadedModel(family.model)
    for number, cap in enumerate(caps):
        folder = tmp_path / str(number)
        folder.mkdir()
        knobs = {"max_crops": [cap]}
        (plan,) = small_job(folder, "", models=[model], knobs=knobs, measure=["accuracy"], batch=2).plans
        resolved = resolve(plan)
        result = finished(run_trial(resolved, loaded, BatchSizer(), lambda progress: None), family.model, {})
        pictures = {sample.example.id: sample.prompt.picture for sample in samples_of(resolved)}
        assert result.state == "done"
        for row in result.samples:
            picture = pictures[str(row["sample"])]
            assert row["vision_tokens"] == planned_counts(resolved, picture.height, picture.width).vision_tokens
        assert len(result.samples) == 12
