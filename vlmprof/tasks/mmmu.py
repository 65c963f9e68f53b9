"""``mmmu``: MMMU, college questions of thirty subjects (Yue et al., CVPR 2024).

The models here see one picture. A question about several is asked with the first one and says so in its question type,
so that it can be left out of a reading; the official count of 900 is kept.
"""

from __future__ import annotations

import ast
import re

from vlmprof.metrics.mmmu import METRIC
from vlmprof.records import Example
from vlmprof.tasks._data.dataset import Dataset, Split, sample
from vlmprof.tasks._data.index import Columns, IndexedRow
from vlmprof.tasks._prompts import ONE_LETTER, ONE_WORD, instructed, styled

_PLACE = re.compile(r"<image (\d)>")


def _read(row: IndexedRow) -> Example:
    values = row.values
    choices = ast.literal_eval(values["options"]) if values["options"] else []
    gold = values["answer"]
    text = "\n".join([values["question"], *map(str, choices)])
    several = ", several pictures" if set(_PLACE.findall(text)) - {"1"} else ""
    return sample(
        row,
        id=values["id"],
        question=_PLACE.sub(r"(picture \1)", values["question"]),
        question_type=f"{values['question_type']}{several}",
        answers=ast.literal_eval(gold) if gold.startswith("[") else [gold],
        choices=[_PLACE.sub(r"(picture \1)", str(choice)) for choice in choices],
    )


def _prompt(example: Example) -> str:
    return instructed(ONE_LETTER if example.choices else ONE_WORD)(example)


def _molmo(example: Example) -> str:
    return styled("a_okvqa_mc" if example.choices else "vqa2")["molmo"](example)


DATASET = Dataset(
    name="mmmu",
    repository="lmms-lab/MMMU",  # MMMU/MMMU with its thirty subjects in one table
    revision="5f93af86377c18552077e1ffdb193d9f8d2b1343",
    splits={"validation": Split(files="data/validation-*.parquet", count=900)},
    columns=Columns(required=("id", "question", "options", "answer", "question_type"), image="image_1"),
    read=_read,
    metric=METRIC,
    prompt=_prompt,
    styles={"molmo": _molmo},
    max_new_tokens=32,
    licence="Apache-2.0",
    pictures="textbooks and the web, as the dataset",
    clusters="image",
)
TASK = DATASET.task()
