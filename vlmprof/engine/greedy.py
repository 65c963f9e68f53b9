"""Greedy generation: the loop behind every answer, and, with a clock, behind every latency.

Purpose: accuracy and latency from the same loop. A clock is told where each stage ends and never changes what is done.
At exact length no step waits for the device, and where answers may end by themselves it is never left idle by being
looked at. Limits: greedy only.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmprof.decoding import Batch, Clock, Mark, TokenMaker, unmarked
from vlmprof.engine.base import EAGER, AbstractEngine
from vlmprof.engine.device_errors import classify, free_share, release
from vlmprof.engine.vision_cache import Inputs, PreparedBatch, VisionFeatureCache, compute_inputs
from vlmprof.errors import Mismatch, OutOfMemory
from vlmprof.records import EndReason, Generation, Prompt, Run


def generate(  # noqa: PLR0913 (what is asked for, and by name how it is done)
    model: TokenMaker,
    prompts: Sequence[Prompt] | PreparedBatch,
    *,
    max_new_tokens: int,
    stop_at_eos: bool = True,
    clock: Clock | None = None,
    engine: AbstractEngine = EAGER,
    vision_cache: VisionFeatureCache | None = None,
) -> Run:
    """Answer a batch of prompts.

    Args:
        model: The loaded model.
        prompts: One batch, which runs at once: prompts that are encoded here, stage by stage, or a prepared batch,
            whose missing features are computed.
        max_new_tokens: Longest answer, an end-of-sequence token included.
        stop_at_eos: False runs every row to exactly ``max_new_tokens``; the tokens before end-of-sequence are the same.
        clock: Told of every stage as it ends; None leaves ``stages`` of the answer empty.
        engine: How the tokens after the first are made.
        vision_cache: Keeps the features that a prepared batch lacked; not used for plain prompts.

    Raises:
        OutOfMemory: the device could not hold the batch; everything of it is freed.
        Mismatch: the vision encoder gave another number of features than the prompt has places for.
    """
    if not len(prompts) or max_new_tokens < 1:
        raise ValueError(f"expected prompts and at least one token, got {len(prompts)} and {max_new_tokens}")
    try:
        # Everything on the device belongs to the frame of this call, so that a failure frees it.
        return _generate(model, prompts, max_new_tokens, stop_at_eos, clock, engine, vision_cache)
    except RuntimeError as error:
        kind = classify(error, free_share())
        if kind in ("lost", "other"):
            raise
        detail = str(error).splitlines()[0]
    # Outside of the except block, and not in a context manager either, whose exit runs while the error is still
    # being handled: only here is the failed frame gone, and with it its tensors.
    engine.forget()
    release()
    raise OutOfMemory(len(prompts), detail, size_limit=kind == "size_limit")


def _inputs(
    model: TokenMaker, prompts: Sequence[Prompt] | PreparedBatch, vision_cache: VisionFeatureCache | None, mark: Mark
) -> Inputs:
    if not isinstance(prompts, PreparedBatch):
        return compute_inputs(model, prompts, mark)
    return (vision_cache or VisionFeatureCache(0)).complete(model, prompts)


def _generate(  # noqa: PLR0913, PLR0917 (those of generate)
    model: TokenMaker,
    prompts: Sequence[Prompt] | PreparedBatch,
    max_new_tokens: int,
    stop_at_eos: bool,
    clock: Clock | None,
    engine: AbstractEngine,
    vision_cache: VisionFeatureCache | None,
) -> Run:
    mark: Mark = clock.mark if clock else unmarked
    if clock:
        clock.start()
    inputs = _inputs(model, prompts, vision_cache, mark)
    mark("connector")
    batch, features = inputs.batch, inputs.features
    _require_places(batch, len(features))
    decoding = engine.begin(model, inputs.moved, features, max_new_tokens, exact=not stop_at_eos)
    # Not waited for: the copy lies in pinned memory once the device has got so far, and is read after all steps.
    first = decoding.first.to("cpu", non_blocking=True)
    mark("prefill")
    stop = model.eos_ids if stop_at_eos else frozenset()
    steps = [first, *decoding.rest(max_new_tokens - 1, stop, mark)]
    stages = clock.stop() if clock else None
    model.synchronize()
    rows = [list(row) for row in zip(*(step.tolist() for step in steps), strict=True)]
    return Run(generations=tuple(_answers(model, batch, rows, stop_at_eos)), stages=stages)


def _answers(model: TokenMaker, batch: Batch, rows: list[list[int]], stop_at_eos: bool) -> list[Generation]:
    answers = []
    for tokens, encoding in zip(rows, batch.encodings, strict=True):
        ends = [i for i, token in enumerate(tokens) if token in model.eos_ids] if stop_at_eos else []
        kept = tokens[: ends[0] + 1] if ends else tokens
        text = model.text(kept[:-1] if ends else kept)
        end: EndReason = "eos" if ends else "cap"
        answers.append(Generation(text=text, tokens=len(kept), end=end, encoding=encoding, ids=tuple(kept)))
    return answers


def _require_places(batch: Batch, features: int) -> None:
    places = sum(encoding.vision_tokens for encoding in batch.encodings)
    if features != places:
        raise Mismatch(f"the vision encoder gave {features} features for {places} places in the prompts")
