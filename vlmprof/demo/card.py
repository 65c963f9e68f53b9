"""The tables of MODEL_CARD.md, from a sweep: `vlmprof run jobs/demo_card.yaml; python -m vlmprof.demo.card DIR`.

All numbers are computed from the result tables of an ordinary sweep. Intervals treat the questions about one picture as
dependent (`stats.intervals.mean_interval`).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pandas as pd

from vlmprof.stats.intervals import MeanInterval, mean_interval
from vlmprof.store import tables
from vlmprof.store.schema import knobs_of
from vlmprof.tasks._shapes.questions import TYPES, Question, scene_questions

# Training scenes from which the question-only baseline learns the most frequent answer of each question.
_BASELINE_SCENES: Final = 3_000


def accuracy(samples: pd.DataFrame) -> dict[str, MeanInterval]:
    """The accuracy of one trial's samples, per type of question and over `all`."""
    parts = {"all": samples, **{kind: samples[samples["question_type"] == kind] for kind in TYPES}}
    return {name: mean_interval(part["score"].tolist(), part["cluster"].tolist()) for name, part in parts.items()}


def questions_by_id(ids: Iterable[str]) -> list[Question]:
    """The questions with these ids, in their order."""
    by_scene: dict[tuple[str, int], tuple[Question, ...]] = {}
    questions = []
    for sample_id in ids:
        split, number, index = sample_id.split("/")
        scene = (split, int(number))
        if scene not in by_scene:
            by_scene[scene] = scene_questions(*scene)[1]
        questions.append(by_scene[scene][int(index.removeprefix("q"))])
    return questions


def baselines(questions: Iterable[Question]) -> dict[str, tuple[float, float]]:
    """Accuracy per type of two baselines without the image: the majority answer of the type, and question only.

    The question-only baseline gives the most frequent answer to the same question text in the training split. The
    majority answer is fitted on the given questions themselves, hence an upper bound.
    """
    training_answers: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(_BASELINE_SCENES):
        for question in scene_questions("train", number)[1]:
            training_answers[question.text][question.answer] += 1
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    correct: Counter[str] = Counter()
    for question in questions:
        answers[question.type][question.answer] += 1
        likeliest = training_answers[question.text].most_common(1)
        correct[question.type] += bool(likeliest) and likeliest[0][0] == question.answer
    return {kind: (max(n.values()) / n.total(), correct[kind] / n.total()) for kind, n in answers.items()}


def trained_table(trials: pd.DataFrame, samples: pd.DataFrame) -> list[str]:
    """The table of the model as trained, from the trial that sets no knob."""
    knobs = [f"knob_{name}" for name in knobs_of(map(str, trials.columns))]
    (trial,) = trials[trials[knobs].isna().all(axis=1)]["trial"]
    answered = samples[samples["trial"] == trial]
    without_image = baselines(questions_by_id(answered["sample"]))
    counts = answered["question_type"].value_counts()
    lines = [
        "| type | questions | accuracy | 95 % interval | majority answer | question only |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for name, interval in accuracy(answered).items():
        count = len(answered) if name == "all" else counts[name]
        cells = " | ".join(f"{share:.3f}" for share in without_image[name]) if name in without_image else "|"
        low_to_high = f"{interval.low:.3f} to {interval.high:.3f}"
        lines.append(f"| {name} | {count} | {interval.mean:.3f} | {low_to_high} | {cells} |")
    return lines


def knob_table(trials: pd.DataFrame, samples: pd.DataFrame, knob: str) -> list[str]:
    """The table of one knob: one row per value, with the other knobs as trained."""
    lines = [f"| {knob} | all | 95 % interval | {' | '.join(TYPES)} |", "|---" + "|--:" * (len(TYPES) + 2) + "|"]
    for _, row in _trials_of(trials, knob).iterrows():
        intervals = accuracy(samples[samples["trial"] == row["trial"]])
        cells = " | ".join(f"{intervals[kind].mean:.3f}" for kind in TYPES)
        overall = intervals["all"]
        label = str(row[f"requested_{knob}"])
        lines.append(f"| {label} | {overall.mean:.3f} | {overall.low:.3f} to {overall.high:.3f} | {cells} |")
    return lines


def _trials_of(trials: pd.DataFrame, knob: str) -> pd.DataFrame:
    """The trials that set a knob, in the order of the table."""
    rows = trials[trials[f"requested_{knob}"].notna()]
    # Lists of blocks, which leave one block out, follow the prefixes.
    listed = rows[f"requested_{knob}"].str.contains(",")
    return rows.assign(listed=listed).sort_values(["listed", f"knob_{knob}", f"requested_{knob}"], kind="stable")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Print the tables of the demo model card from the results of a sweep.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results/demo_card"))
    options = parser.parse_args(arguments)
    trials, samples = (tables.read(options.folder, name) for name in ("trials", "samples"))
    unfinished: Any = trials[trials["state"] != "done"]
    if len(unfinished):
        print(
            f"{len(unfinished)} of {len(trials)} trials are not done; run the job again to complete them",
            file=sys.stderr,
        )
        return 1
    knobs = knobs_of(map(str, trials.columns))
    tables_of_card = [trained_table(trials, samples), *(knob_table(trials, samples, knob) for knob in knobs)]
    print("\n\n".join("\n".join(lines) for lines in tables_of_card))
    return 0


if __name__ == "__main__":
    sys.exit(main())
