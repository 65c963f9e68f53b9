"""The answer within an output: what is left when the text in which a model reasons aloud is removed.

Reasoning models write ``<think>...</think>`` before their answer; other tags mean the same. The chat template of some
models already opens the tag, so that the output holds only the closing one. Some models put their answer into
``<answer>...</answer>``, LLaVA-CoT into ``<CONCLUSION>...</CONCLUSION>``. All metrics receive the
answer alone, because ``Metric`` calls this function.
"""

from __future__ import annotations

import re

_NAMES = r"(?:think|thinking|thought|thoughts|reasoning|reason|analysis|scratchpad|reflection|rationale)"
_OPEN = rf"<\s*\|?(?:\w+:)?{_NAMES}\|?\s*>|◁think▷|\[THINK\]|<\|begin_of_thought\|>"
_CLOSE = rf"<\|?/\s*(?:\w+:)?{_NAMES}\|?\s*>|◁/think▷|\[/THINK\]|<\|end_of_thought\|>"
_REASONING = re.compile(rf"(?:{_OPEN}).*?(?:{_CLOSE})", re.DOTALL | re.IGNORECASE)
_OPENED, _CLOSED = re.compile(_OPEN, re.IGNORECASE), re.compile(_CLOSE, re.IGNORECASE)
_ANSWERS = r"(?:answer|final_answer|conclusion)"
_ANSWER_OPENED = re.compile(rf"<\s*{_ANSWERS}\s*>|<\|begin_of_box\|>|<\|begin_of_solution\|>", re.IGNORECASE)
_ANSWER_CLOSED = re.compile(rf"</\s*{_ANSWERS}\s*>|<\|end_of_box\|>|<\|end_of_solution\|>", re.IGNORECASE)


def final_answer(output: str) -> str:
    """The output without reasoning; unchanged if it has no tag, empty if the reasoning never ends."""
    if not any(mark in output for mark in ("<", "◁", "[")):
        return output
    text = _REASONING.sub("", output)
    text = _CLOSED.split(text)[-1]  # the template opened the reasoning, or the tags were nested
    text = _OPENED.split(text)[0]  # the output was cut while the model reasoned
    return _unwrapped(text) if text != output or _ANSWER_OPENED.search(text) else output


def _unwrapped(text: str) -> str:
    """The content of the last answer tag, or the whole text."""
    return _ANSWER_CLOSED.split(_ANSWER_OPENED.split(text)[-1])[0].strip()
