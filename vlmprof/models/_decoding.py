"""Settings of a checkpoint's generation configuration that vlmprof does not apply.

Decoding is greedy: each token is the one with the largest logit. A checkpoint may ship settings that change even a
greedy answer, such as a repetition penalty. They are not applied, so that every configuration of a sweep is decoded the
same way, and the column ``decoding_left_out`` lists them. Sampling settings (``do_sample``, ``temperature``) are
ignored without being listed, because they do not change greedy decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
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
"""Setting that can change greedy answers -> the values with which it changes nothing."""


def ignored_settings(settings: Mapping[str, Any]) -> str:
    """Settings of a generation configuration that would change greedy answers, as ``name=value``, comma-separated."""
    ignored = {name: settings[name] for name, neutral in NEUTRAL_VALUES.items() if settings.get(name) not in neutral}
    return ", ".join(f"{name}={value}" for name, value in ignored.items())
