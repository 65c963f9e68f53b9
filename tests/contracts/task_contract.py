"""What every task owes, as a suite to inherit: fixtures say which task and what a wrong answer is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from vlmprof.records import Example
from vlmprof.tasks.task import Task

ELSEWHERE = """
import json, sys
from vlmprof import registry
from vlmprof.tasks.task import DataSource
name, place = sys.argv[1], json.loads(sys.argv[2])
task = registry.load("tasks", name)
task = task.at(DataSource(**place)) if place else task
print(json.dumps([one.id for one in task.subset("", None, 7)][:50]))
"""


class TaskContract:
    """Inherit, and give the fixtures ``task`` and, where its data lie in files, ``place``."""

    @pytest.fixture
    def place(self) -> dict[str, str]:
        """Arguments of ``Place``, or nothing where the task has its data with it."""
        return {}

    @pytest.fixture
    def wrong(self) -> Callable[[Example], str]:
        """An answer that is wrong for any example."""
        return lambda example: "zzz qqq"

    def everything(self, task: Task) -> Sequence[Example]:
        return list(task.examples(task.split("")))

    def test_ids_are_unique_and_every_sample_is_complete(self, task: Task) -> None:
        examples = self.everything(task)
        assert len({one.id for one in examples}) == len(examples) > 0
        for one in examples:
            assert one.id and one.answers and one.cluster
            assert one.picture.width > 0 and one.picture.height > 0

    def test_a_picture_has_the_size_that_was_told(self, task: Task) -> None:
        for one in self.everything(task)[:6]:
            image = one.picture.load()
            assert image.mode == "RGB"
            assert image.size == (one.picture.width, one.picture.height)

    def test_the_gold_answer_scores_full_marks_and_a_wrong_one_nothing(
        self, task: Task, wrong: Callable[[Example], str]
    ) -> None:
        examples = self.everything(task)[:40]
        gold = [max(one.answers, key=one.answers.count) for one in examples]
        bad = [wrong(one) for one in examples]
        if task.metric.kind == "mean":
            assert {task.metric.judge(text, one).score for text, one in zip(gold, examples, strict=True)} == {1.0}
            assert {task.metric.judge(text, one).score for text, one in zip(bad, examples, strict=True)} == {0.0}
            return
        assert task.metric.corpus is not None
        best = task.metric.corpus.value(task.metric.corpus.parts(gold, examples))
        assert 0.25 * task.metric.perfect < best <= task.metric.perfect
        assert task.metric.corpus.value(task.metric.corpus.parts(bad, examples)) == 0

    def test_the_subset_is_the_same_in_another_process(self, task: Task, place: dict[str, str]) -> None:
        command = [sys.executable, "-c", ELSEWHERE, task.name, json.dumps(place)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert json.loads(told) == [one.id for one in task.subset("", None, 7)][:50]

    def test_a_smaller_subset_begins_a_larger_one_and_seeds_differ(self, task: Task) -> None:
        whole = [one.id for one in task.subset("", None, 0)]
        assert [one.id for one in task.subset("", 5, 0)] == whole[:5]
        assert sorted(whole) == sorted(one.id for one in self.everything(task))
        assert whole != [one.id for one in task.subset("", None, 1)]

    def test_a_stratified_subset_keeps_the_shares_of_the_types(self, task: Task) -> None:
        examples = self.everything(task)
        kinds = {one.question_type for one in examples}
        half = task.subset("", len(examples) // 2, 0, "question_type")
        for kind in kinds:
            share = sum(one.question_type == kind for one in examples) / 2
            assert abs(sum(one.question_type == kind for one in half) - share) <= 1 + len(kinds) / 2

    def test_the_prompt_asks_the_question_of_every_family(self, task: Task) -> None:
        for one in self.everything(task)[:6]:
            for family in ("demo", "molmo", "transformers_vlm"):
                text = task.ask(one, family).text
                assert text and one.question in text
                assert all(choice in text for choice in one.choices)
                assert one.context in text
