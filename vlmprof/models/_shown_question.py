"""Whether a chat template shows a question as it is: one that cuts or rewrites it would ask something else."""

from __future__ import annotations


def with_question(text: str, question: str) -> str:
    """The rendered prompt itself; blanks around the question may be gone.

    Raises:
        ValueError: it does not hold the whole question.
    """
    if question.strip() not in text:
        raise ValueError("the chat template does not show the question as it is, but cuts or rewrites it")
    return text
