"""Every task of the package against the contract, on small data sets with the public schemas."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.contracts.task_contract import TaskContract
from tests.tasks.public import QUESTIONS, ROWS, picture, write
from vlmprof import registry
from vlmprof.metrics.multiple_choice import LETTERS
from vlmprof.records import Example
from vlmprof.tasks.task import DataSource, Task


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMPROF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pattern(name: str) -> str:
    dataset = importlib.import_module(f"vlmprof.tasks.{name}").DATASET
    return str(next(iter(dataset.splits.values())).files)


def at(folder: Path, name: str) -> Task:
    task = registry.load("tasks", name).at(DataSource(path=str(folder)))
    assert isinstance(task, Task)
    return task


def other_letter(example: Example) -> str:
    """A letter that is not the right one; a wrong word where there are no options."""
    wrong = next(letter for letter in LETTERS if letter not in example.answers)
    return wrong if example.choices else {"yes": "no", "no": "no"}.get(example.answers[0], "zzz qqq")


@pytest.mark.parametrize("name", sorted(ROWS))
class TestPublicTasks(TaskContract):
    @pytest.fixture
    def folder(self, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write(tmp_path_factory.mktemp(name), name, pattern(name))

    @pytest.fixture
    def place(self, folder: Path) -> dict[str, str]:
        return {"path": str(folder)}

    @pytest.fixture
    def task(self, folder: Path, name: str) -> Task:
        return at(folder, name)

    @pytest.fixture
    def wrong(self) -> Callable[[Example], str]:
        return other_letter

    def test_one_question_is_one_sample(self, task: Task) -> None:
        assert len(self.everything(task)) == QUESTIONS

    def test_the_subset_does_not_depend_on_how_rows_are_listed_or_sharded(
        self, task: Task, name: str, tmp_path: Path
    ) -> None:
        other = at(write(tmp_path, name, pattern(name), backwards=True), name)
        assert [one.id for one in other.subset("", 7, 3)] == [one.id for one in task.subset("", 7, 3)]
        everything = task.subset("", None, 3)
        shards = [everything[rank::3] for rank in range(3)]
        assert sorted(one.id for shard in shards for one in shard) == sorted(one.id for one in everything)


class TestLocal(TaskContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> dict[str, str]:
        lines = []
        for n in range(QUESTIONS):
            (tmp_path / f"{n}.png").write_bytes(picture(n))
            lines.append(json.dumps({"image": f"{n}.png", "question": f"What is {n}?", "answer": str(n)}))
        (tmp_path / "mine.jsonl").write_text("\n".join(lines))
        return {"path": str(tmp_path), "metric": "exact_match"}

    @pytest.fixture
    def task(self, place: dict[str, str]) -> Task:
        task = registry.load("tasks", "local").at(DataSource(**cast("dict[str, Any]", place)))
        assert isinstance(task, Task)
        return task


class TestShapes(TaskContract):
    @pytest.fixture
    def task(self) -> Task:
        task = registry.load("tasks", "shapes_qa")
        assert isinstance(task, Task)
        return task


def test_every_task_is_tested() -> None:
    assert {*ROWS, "shapes_qa", "local"} == set(registry.names("tasks")) - {"brightness"}
