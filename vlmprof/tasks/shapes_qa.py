"""``shapes_qa``: questions about procedurally drawn shapes, the task that the demo model was trained on.

Nothing is downloaded: a scene is a function of its number. Images vary in size and aspect ratio. The question types
need different abilities (``reading`` needs the high-resolution crops, ``code`` needs memorised facts, ``colour`` needs
neither), so that each knob affects some types more than others, as on real tasks. Licence: that of vlmprof.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from vlmprof.metrics.vqa import METRIC
from vlmprof.records import Example, Picture
from vlmprof.tasks._shapes.questions import Question, scene_questions
from vlmprof.tasks._shapes.scenes import Scene
from vlmprof.tasks.task import Task

SCENES = 600
"""Scenes per split, with about six questions each."""


def _examples(split: str) -> Iterator[Example]:
    return iter(_all_examples(split))


@lru_cache(maxsize=4)
def _all_examples(split: str) -> tuple[Example, ...]:
    scenes = (scene_questions(split, number) for number in range(SCENES))
    return tuple(_example(scene, question) for scene, questions in scenes for question in questions)


def _example(scene: Scene, question: Question) -> Example:
    return Example(
        id=question.id,
        question=question.text,
        question_type=question.type,
        answers=question.answers,
        picture=Picture(width=scene.width, height=scene.height, load=scene.render),
        cluster=question.id.rpartition("/")[0],
    )


TASK = Task(
    name="shapes_qa",
    revision="2",
    splits=("held_out", "train"),
    examples=_examples,
    prompt=lambda example: example.question,
    metric=METRIC,
    max_new_tokens=8,
    order="position",
)
