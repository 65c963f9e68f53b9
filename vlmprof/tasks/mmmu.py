"""``mmmu``: MMMU, college questions from thirty subjects (Yue et al., CVPR 2024).

The models receive one picture. A question about several pictures is asked with the first one, and its question type
says so, which allows excluding it from an analysis; the official count of 900 is kept. A reference such as
``<image 1>`` in a question or an option is rewritten to ``(picture 1)``, for all models: it is no text that they know,
and near the text of some models' special tokens.
"""

from __future__ import annotations

import ast
import re

from vlmprof.metrics.mmmu import METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import ONE_LETTER, ONE_WORD, instructed, styled

_IMAGE_REFERENCE = re.compile(r"<image (\d)>")


def _read(row: IndexedRow) -> Example:
    values = row.values
    choices = ast.literal_eval(values["options"]) if values["options"] else []
    answer = values["answer"]
    text = "\n".join([values["question"], *map(str, choices)])
    several = ", several pictures" if set(_IMAGE_REFERENCE.findall(text)) - {"1"} else ""
    return sample(
        row,
        id=values["id"],
        question=_IMAGE_REFERENCE.sub(r"(picture \1)", values["question"]),
        question_type=f"{values['question_type']}{several}",
        answers=ast.literal_eval(answer) if answer.startswith("[") else [answer],
        choices=[_IMAGE_REFERENCE.sub(r"(picture \1)", str(choice)) for choice in choices],
    )


def _prompt(example: Example) -> str:
    return instructed(ONE_LETTER if example.choices else ONE_WORD, lettered=True)(example)


def _molmo(example: Example) -> str:
    return styled("a_okvqa_mc" if example.choices else "vqa2", lettered=True)["molmo"](example)


DATASET = Dataset(
    name="mmmu",
    repository="lmms-lab-encoder/MMMU",  # the thirty subjects of MMMU/MMMU in one table
    revision="5f93af86377c18552077e1ffdb193d9f8d2b1343",
    splits={"validation": Split(files="data/validation-*.parquet", count=900)},
    columns=Columns(required=("id", "question", "options", "answer", "question_type"), image="image_1"),
    read=_read,
    metric=METRIC,
    prompt=_prompt,
    styles={"molmo": _molmo},
    max_new_tokens=32,
    licence="Apache-2.0",
    pictures="textbooks and the web, dataset's licence",
    clusters="image",
    notes=(
        "mmmu: '<image 1>' in questions and options is asked as '(picture 1)', and questions about several pictures are"
        " asked with the first one",
    ),
)
TASK = DATASET.task()
