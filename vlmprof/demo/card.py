"""The tables of MODEL_CARD.md, from a sweep: `vlmprof run jobs/demo_card.yaml; python -m vlmprof.demo.card DIR`.

Every number comes from the rows of the sweep, as anybody's would. Intervals count the questions about one picture as
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

# Scenes from which a blind answerer that reads the question learns the likeliest answer of each.
_BLIND_SCENES: Final = 3_000


def accuracy(samples: pd.DataFrame) -> dict[str, MeanInterval]:
    """The accuracy of one trial's samples, of each type of question and of `all`."""
    parts = {"all": samples, **{kind: samples[samples["question_type"] == kind] for kind in TYPES}}
    return {name: mean_interval(part["score"].tolist(), part["cluster"].tolist()) for name, part in parts.items()}


def asked(ids: Iterable[str]) -> list[Question]:
    """The questions with these ids."""
    by_scene: dict[tuple[str, int], tuple[Question, ...]] = {}
    found = []
    for one in ids:
        split, number, place = one.split("/")
        scene = (split, int(number))
        if scene not in by_scene:
            by_scene[scene] = scene_questions(*scene)[1]
        found.append(by_scene[scene][int(place.removeprefix("q"))])
    return found


def blind(questions: Iterable[Question]) -> dict[str, tuple[float, float]]:
    """Accuracy a type without looking: the best single answer of a type, and the likeliest answer to the very question.

    The first is fitted on these questions themselves, hence an upper bound; the second on the training split.
    """
    learnt: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(_BLIND_SCENES):
        for question in scene_questions("train", number)[1]:
            learnt[question.text][question.answer] += 1
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    guessed: Counter[str] = Counter()
    for question in questions:
        answers[question.type][question.answer] += 1
        likely = learnt[question.text].most_common(1)
        guessed[question.type] += bool(likely) and likely[0][0] == question.answer
    return {kind: (max(n.values()) / n.total(), guessed[kind] / n.total()) for kind, n in answers.items()}


def trained(trials: pd.DataFrame, samples: pd.DataFrame) -> list[str]:
    """The table of the model as it was trained: the trial that sets no knob."""
    knobs = [f"knob_{name}" for name in knobs_of(map(str, trials.columns))]
    (trial,) = trials[trials[knobs].isna().all(axis=1)]["trial"]
    mine = samples[samples["trial"] == trial]
    guesses, counts = blind(asked(mine["sample"])), mine["question_type"].value_counts()
    lines = [
        "| type | questions | accuracy | 95 % interval | best blind answer | blind, reads the question |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for name, found in accuracy(mine).items():
        number = len(mine) if name == "all" else counts[name]
        blindly = " | ".join(f"{share:.3f}" for share in guesses[name]) if name in guesses else "|"
        lines.append(f"| {name} | {number} | {found.mean:.3f} | {found.low:.3f} to {found.high:.3f} | {blindly} |")
    return lines


def curve(trials: pd.DataFrame, samples: pd.DataFrame, knob: str) -> list[str]:
    """The table of one knob: a row a value, the others as trained."""
    lines = [f"| {knob} | all | 95 % interval | {' | '.join(TYPES)} |", "|---" + "|--:" * (len(TYPES) + 2) + "|"]
    for _, row in _set(trials, knob).iterrows():
        found = accuracy(samples[samples["trial"] == row["trial"]])
        cells = " | ".join(f"{found[kind].mean:.3f}" for kind in TYPES)
        whole = found["all"]
        label = str(row[f"requested_{knob}"])
        lines.append(f"| {label} | {whole.mean:.3f} | {whole.low:.3f} to {whole.high:.3f} | {cells} |")
    return lines


def _set(trials: pd.DataFrame, knob: str) -> pd.DataFrame:
    rows = trials[trials[f"requested_{knob}"].notna()]
    # Lists that leave one block out come after the prefixes.
    listed = rows[f"requested_{knob}"].str.contains(",")
    return rows.assign(listed=listed).sort_values(["listed", f"knob_{knob}", f"requested_{knob}"], kind="stable")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Print the tables of the demo's model card from a sweep.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results/demo_card"))
    options = parser.parse_args(arguments)
    trials, samples = (tables.read(options.folder, name) for name in ("trials", "samples"))
    unfinished: Any = trials[trials["state"] != "done"]
    if len(unfinished):
        print(f"{len(unfinished)} of {len(trials)} trials did not end well; run the job again", file=sys.stderr)
        return 1
    parts = [trained(trials, samples), *(curve(trials, samples, knob) for knob in knobs_of(map(str, trials.columns)))]
    print("\n\n".join("\n".join(lines) for lines in parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
