"""What a checkpoint's generation configuration asks for and greedy decoding here leaves out.

Answers are the largest logit, token by token. A checkpoint may ship settings that change even a greedy answer, such as
a repetition penalty. They are not applied: every configuration of a sweep is decoded alike, and a row says what its
model would otherwise have had. Sampling (``do_sample``, ``temperature``) is left out too; it is no part of greedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "repetition_penalty": (1, None),
    "encoder_repetition_penalty": (1, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "bad_words_ids": ([], None),
    "suppress_tokens": ([], None),
    "begin_suppress_tokens": ([], None),
    "sequence_bias": ({}, [], None),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "min_length": (0, None),
    "min_new_tokens": (0, None),
    "exponential_decay_length_penalty": (None,),
    "num_beams": (1, None),
    "guidance_scale": (1, None),
    "penalty_alpha": (0, None),
    "dola_layers": (None,),
    "stop_strings": ([], None),
    "watermarking_config": (None,),
}
"""Setting that changes greedy answers -> the values with which it does not."""


def left_out(settings: Mapping[str, Any]) -> str:
    """Settings of a generation configuration that would change greedy answers, as ``name=value``, comma-separated."""
    found = {name: settings[name] for name, neutral in NEUTRAL.items() if settings.get(name) not in neutral}
    return ", ".join(f"{name}={value}" for name, value in found.items())
