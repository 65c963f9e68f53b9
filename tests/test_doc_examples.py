"""The examples of the docs, run as they stand on the page: a knob, a task and a model of a third party."""

from __future__ import annotations

import ast
import gc
import importlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.contracts.knob_contract import fingerprint, observe
from tests.jobs import small_job
from tests.tasks.public import cell, write_parquet
from tests.test_docs import DOCS, PAGES, fenced
from vlmprof import registry
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import KnobValueError
from vlmprof.models.family import AbstractModel, Checkpoint
from vlmprof.records import Prompt
from vlmprof.surfaces import Anatomy
from vlmprof.tasks.task import DataSource
from vlmprof.trial.executor import Executor

SHOWN = {
    "crop_share": ("knobs", "KNOB", "add-a-knob.md"),
    "brightness": ("tasks", "TASK", "add-a-task.md"),
    "always": ("models", "FAMILY", "add-a-model.md"),
}


def complete(page: str, name: str) -> str:
    """The file that a page shows whole: the block whose first line names it, or the only candidate."""
    blocks = fenced(DOCS / page, "python")
    return next((block for block in blocks if f"``{name}``" in block.splitlines()[0]), blocks[0])


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The three examples, installed as a third party's package would be."""
    info = tmp_path / "shown-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shown\nVersion: 1\n")
    entries = [f"[vlmprof.{kind}]\n{name} = {name}:{constant}\n" for name, (kind, constant, _) in SHOWN.items()]
    (info / "entry_points.txt").write_text("\n".join(entries))
    for name, (_, _, page) in SHOWN.items():
        (tmp_path / f"{name}.py").write_text(complete(page, name))
    monkeypatch.syspath_prepend(tmp_path)
    yield {name: importlib.import_module(name) for name in SHOWN}
    for name in SHOWN:
        del sys.modules[name]


def test_the_three_examples_make_a_sweep_together(shown: dict[str, ModuleType], tmp_path: Path) -> None:
    job = small_job(
        tmp_path,
        "",
        models=["always"],
        tasks=[{"name": "brightness", "samples": 40}],
        measure=["accuracy"],  # a generation of 50 microseconds has no stages that a clock can tell apart
        knobs={"crop_share": [0.5, 1], "active_blocks": [[0], [0, 1]], "output_tokens": [2]},
    )
    executor = Executor(BatchSizer(), gpus=0, name="inline")
    results = [executor.run(plan, lambda progress: None) for plan in job.plans]
    assert [result.state for result in results] == ["done"] * 4, results[0].trace
    for result in results:
        assert result.row["accuracy"] == 0  # "yes" is never right here
        assert result.row["effect_crop_share"] == "saturated"
        assert {sample["prediction"] for sample in result.samples} == {"yes"}
    assert [result.row["effect_active_blocks"] for result in results] == ["effective", "no-op"] * 2


def test_the_knob_of_the_example_keeps_the_contract_that_is_shown_with_it(
    shown: dict[str, ModuleType], tiny_checkpoint: Path
) -> None:
    knob, (effective, illegal) = registry.load("knobs", "crop_share"), values_shown()
    model, anatomy, prompts = demo(tiny_checkpoint)
    before = fingerprint(model)
    idle = observe(model, prompts)
    for value in effective:
        knob.check(value, anatomy)
        assert knob.effect(value, anatomy, observe(model, prompts, knob, value)) == "effective"
        assert knob.effect(value, anatomy, idle) == "mismatch"
        assert fingerprint(model) == before
    for value in illegal:
        with pytest.raises(KnobValueError, match="crop_share"):
            knob.check(value, anatomy)


def values_shown() -> tuple[list[Any], list[Any]]:
    """The values of the contract class on the page. The class goes again: it would count as a knob of the package."""
    scope: dict[str, Any] = {}
    exec(compile(fenced(DOCS / "add-a-knob.md", "python")[1], "add-a-knob.md", "exec"), scope)
    suite = scope.pop("TestCropShare")()
    assert suite.name == "crop_share"
    values = suite.effective(), suite.illegal()
    del suite, scope
    gc.collect()
    return values


def demo(folder: Path) -> tuple[AbstractModel, Anatomy, list[Prompt]]:
    family, task = registry.load("models", "demo"), registry.load("tasks", "shapes_qa")
    checkpoint = Checkpoint(path=str(folder), revision="", dtype="float32")
    prompts = [task.ask(example) for example in task.subset("", 4, 0)]
    return family.load(checkpoint, "cpu"), family.describe(checkpoint), prompts


def test_the_task_of_the_example_has_stable_samples(shown: dict[str, ModuleType]) -> None:
    task = registry.load("tasks", "brightness")
    few, many = task.subset("", 10, 0), task.subset("", None, 0)
    assert [one.id for one in many[:10]] == [one.id for one in few]
    assert len({one.id for one in many}) == len(many)
    assert all(one.picture.load().size == (one.picture.width, one.picture.height) for one in few)
    assert all(task.metric.judge(one.answers[0], one).score == 1 for one in few)


def test_a_new_dataset_is_declared_in_under_forty_lines_and_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = complete("add-a-task.md", "sign_qa")
    assert len(block.splitlines()) < 40
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sign_qa.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    rows = [{"question_id": n, "photo_id": n // 2, "question": f"{n}?", "answer": "stop"} for n in range(6)]
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data/test-0.parquet", [{**row, "image": cell(row["question_id"])} for row in rows])
    task = importlib.import_module("sign_qa").TASK.at(DataSource(path=str(tmp_path)))
    del sys.modules["sign_qa"]
    some = task.subset("", 4, 0)
    assert all(one.picture.load().size == (one.picture.width, one.picture.height) for one in some)
    assert {task.metric.judge("Stop.", one).score for one in some} == {1.0}
    assert task.ask(some[0], "molmo").text == f"text_vqa: {some[0].question}"


@pytest.mark.parametrize("block", [block for page in PAGES for block in fenced(page, "python")])
def test_python_in_the_docs_imports_what_exists(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("vlmprof"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}"), alias.name
