"""How a question is put: to a model that follows instructions, and to Molmo, which was trained on short style words.

Molmo's words and layout are those of ``olmo/data/data_formatter.py`` of allenai/molmo: the style, a colon, the
question; options one a line as ``A: text``, a line break after the last. A prompt never depends on chance or on a
position.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vlmprof.metrics.multiple_choice import LETTERS
from vlmprof.records import Example
from vlmprof.tasks.task import PromptOf

ONE_WORD = "Answer the question using a single word or phrase."
ONE_LETTER = "Answer with the letter of the right option only."
ONE_SENTENCE = "Describe this image in one short sentence."
YES_OR_NO = "Answer with yes or no."


def instructed(instruction: str) -> PromptOf:
    """The context if there is one, the question, its options if there are any, then what kind of answer is wanted."""

    def prompt(example: Example) -> str:
        options = [f"{letter}. {text}" for letter, text in zip(LETTERS, example.choices, strict=False)]
        return "\n".join(part for part in (example.context, example.question, *options, instruction) if part)

    return prompt


def styled(style: str) -> Mapping[str, PromptOf]:
    """The prompt for the family ``molmo``, under one of the styles it was trained with."""

    def prompt(example: Example) -> str:
        asked = "\n".join(part for part in (example.context, example.question) if part)
        options = "".join(f"{letter}: {text}\n" for letter, text in zip(LETTERS, example.choices, strict=False))
        return f"{style}: {asked}\n{options}" if options else f"{style}: {asked}".rstrip()

    return MappingProxyType({"molmo": prompt})
