"""Prompts: for instruction-following models, and for Molmo, which was trained with short style words.

Molmo's style words and layout are those of ``olmo/data/data_formatter.py`` of allenai/molmo: the style, a colon, the
question; then one option per line as ``A: text``, with a line break after the last. A prompt depends on the example
alone, never on random numbers or on the position of the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vlmprof.metrics._gold import LETTERS, names_labels
from vlmprof.records import Example
from vlmprof.tasks.task import PromptOf

ONE_WORD = "Answer the question using a single word or phrase."
ONE_LETTER = "Answer with the letter of the right option only."
ONE_LABEL = "Answer with the right option only."
ONE_SENTENCE = "Describe this image in one short sentence."
YES_OR_NO = "Answer with yes or no."


def instructed(instruction: str, *, lettered: bool = False) -> PromptOf:
    """A prompt of the context, the question, its options (each only if present) and the instruction how to answer.

    Options that are labels in the picture get no letters, and the instruction asks for the option itself, unless all
    options are to be ``lettered``: that is for metrics that name every option by its letter (``Metric.labels``).
    """

    def prompt(example: Example) -> str:
        options = [f"{letter}. {text}" for letter, text in zip(LETTERS, example.choices, strict=False)]
        how = instruction
        if names_labels(example.choices) and not lettered:
            options, how = list(example.choices), ONE_LABEL if instruction == ONE_LETTER else instruction
        return "\n".join(part for part in (example.context, example.question, *options, how) if part)

    return prompt


def styled(style: str, *, lettered: bool = False) -> Mapping[str, PromptOf]:
    """The prompt for the family ``molmo``, in one of the styles of its training mixture.

    For options that are labels in the picture, that is ``ai2_diagram_no_letter`` instead of ``ai2_diagram``; any style
    then shows the options without letters, unless all options are to be ``lettered``.
    """

    def prompt(example: Example) -> str:
        question = "\n".join(part for part in (example.context, example.question) if part)
        options = "".join(f"{letter}: {text}\n" for letter, text in zip(LETTERS, example.choices, strict=False))
        if names_labels(example.choices) and not lettered:
            named = f"{style}_no_letter" if style == "ai2_diagram" else style
            return f"{named}: {question}\n" + "".join(f"{text}\n" for text in example.choices)
        return f"{style}: {question}\n{options}" if options else f"{style}: {question}".rstrip()

    return MappingProxyType({"molmo": prompt})
