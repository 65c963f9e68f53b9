"""Greedy generation, timed stage by stage from ONE run.

The stages are consecutive readings of one clock, so they cover the generation without gap or overlap; end-to-end is a
second pair of readings, and whoever trusts the numbers compares the two (``trial.run`` does). Purpose: accuracy and
latency from the same loop. Limits: greedy only; one host synchronisation a token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

from vlmprof.engine.memory import is_out_of_memory, release
from vlmprof.errors import Mismatch, OutOfMemory
from vlmprof.records import Generation, Prompt, Run, StageTimes
from vlmprof.surfaces import Batch, TokenMaker


def generate(model: TokenMaker, prompts: Sequence[Prompt], *, max_new_tokens: int, stop_at_eos: bool = True) -> Run:
    """Answer a batch of prompts.

    Args:
        model: The loaded model.
        prompts: One batch; all at once.
        max_new_tokens: Longest answer, an end-of-sequence token included.
        stop_at_eos: False runs every row to exactly ``max_new_tokens``; the tokens before end-of-sequence are the same.

    Raises:
        OutOfMemory: the device could not hold the batch; everything of it is freed.
        Mismatch: the vision encoder gave another number of features than the prompt has places for.
    """
    if not prompts or max_new_tokens < 1:
        raise ValueError(f"expected prompts and at least one token, got {len(prompts)} and {max_new_tokens}")
    try:
        return _generate(model, prompts, max_new_tokens, stop_at_eos)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        detail = str(error).splitlines()[0]
    # Outside of the except block, and not in a context manager either, whose exit runs while the error is still
    # being handled: only here is the failed frame gone, and with it its tensors.
    release()
    raise OutOfMemory(len(prompts), detail)


def _generate(model: TokenMaker, prompts: Sequence[Prompt], max_new_tokens: int, stop_at_eos: bool) -> Run:
    begin = _now(model)
    marks = [_now(model)]
    batch = model.encode(prompts)
    marks.append(_now(model))
    features = model.see(batch)
    marks.append(_now(model))
    _require_places(batch, len(features))
    state = model.prefill(batch, features, max_new_tokens)
    steps = [state.next_tokens.tolist()]
    marks.append(_now(model))
    open_rows = set(range(len(prompts)))
    while len(steps) < max_new_tokens:
        open_rows -= {row for row in open_rows if stop_at_eos and steps[-1][row] in model.eos_ids}
        if not open_rows:
            break
        state = model.step(state)
        steps.append(state.next_tokens.tolist())
    marks.append(_now(model))
    preprocess, vision, prefill, decode = (after - before for before, after in pairwise(marks))
    stages = StageTimes(
        preprocess_ms=preprocess,
        vision_ms=vision,
        prefill_ms=prefill,
        decode_ms=decode,
        end_to_end_ms=_now(model) - begin,
        decode_steps=len(steps) - 1,
    )
    rows = [list(row) for row in zip(*steps, strict=True)]
    return Run(generations=tuple(_answers(model, batch, rows, stop_at_eos)), stages=stages)


def _answers(model: TokenMaker, batch: Batch, rows: list[list[int]], stop_at_eos: bool) -> list[Generation]:
    answers = []
    for tokens, encoding in zip(rows, batch.encodings, strict=True):
        ends = [i for i, token in enumerate(tokens) if token in model.eos_ids] if stop_at_eos else []
        kept = tokens[: ends[0] + 1] if ends else tokens
        text = model.text(kept[:-1] if ends else kept)
        answers.append(Generation(text=text, tokens=len(kept), end="eos" if ends else "cap", encoding=encoding))
    return answers


def _require_places(batch: Batch, features: int) -> None:
    places = sum(encoding.vision_tokens for encoding in batch.encodings)
    if features != places:
        raise Mismatch(f"the vision encoder gave {features} features for {places} places in the prompts")


def _now(model: TokenMaker) -> float:
    """Milliseconds on the host's clock, once the device has caught up."""
    model.synchronize()
    return time.perf_counter_ns() / 1e6
