"""Multiple choice: the option that an answer names, without guessing.

The prompt shows options with letters and asks for the letter; ``metrics._option_reading`` lists the forms in which an
answer may name one. An answer that names none, or several, scores 0 and is counted as unparsable.

Options that are labels in the picture (all, or all but one, are single letters, as in many diagrams of AI2D) are
shown without letters of their own, as Molmo was trained and evaluated, and an answer means the option with that text:
of the options D, C, B, A, the answer ``D`` names the first. ``Example.answers`` always holds the letter of the
position, here ``A``.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmprof.errors import UserError
from vlmprof.metrics._final_answer import final_answer
from vlmprof.metrics._gold import LETTERS, names_labels, option_letters
from vlmprof.metrics._option_reading import letter_named
from vlmprof.metrics.metric import Metric, Verdict
from vlmprof.records import Example

__all__ = ["LETTERS", "METRIC", "best_option", "multiple_choice", "named_option"]


def multiple_choice(prediction: str, example: Example) -> Verdict:
    """1 when the prediction names the right option, else 0; ``example.answers`` holds the letter of the right option.

    Raises:
        UserError: the example has no options, or no right option.
    """
    if not example.choices or not example.answers:
        raise UserError(f"'{example.id}' has no options or no right option; choose a split that publishes them")
    chosen = named_option(prediction, example.choices)
    return Verdict(score=float(chosen in example.answers), parsed=chosen is not None)


def named_option(prediction: str, choices: Sequence[str]) -> str | None:
    """The letter of the position of the option that an answer names, or None."""
    positions = dict(zip(LETTERS, choices, strict=False))
    answer = final_answer(prediction)
    if not names_labels(choices):
        return letter_named(answer, positions)
    labels = {text.strip().upper(): letter for letter, text in positions.items() if len(text.strip()) == 1}
    others = {letter: text for letter, text in positions.items() if len(text.strip()) != 1}
    unused = iter(sorted(set(LETTERS) - set(labels)))
    stand_ins = {next(unused): letter for letter in others}
    named = letter_named(answer, {label: "" for label in labels} | {key: others[at] for key, at in stand_ins.items()})
    return None if named is None else (labels | stand_ins).get(named)


def best_option(example: Example) -> str:
    """What a perfect model answers: the letter of the right option, or its text if the options are labels."""
    letter = example.answers[0]
    position = LETTERS.find(letter)
    if names_labels(example.choices) and 0 <= position < len(example.choices):
        return example.choices[position]
    return letter


METRIC = Metric(
    name="multiple_choice", judge=multiple_choice, version=4, gold=option_letters, best=best_option, labels=True
)
