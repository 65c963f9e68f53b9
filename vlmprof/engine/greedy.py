"""Greedy generation: the loop behind every answer, and, with a clock, behind every latency.

Purpose: accuracy and latency from the same loop. A clock is called at the end of each stage and never changes the work
itself. At a fixed output length no step waits for the device; where answers may end early, the check for the end does
not leave the device idle. Limits: greedy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from vlmprof.decoding import Batch, Clock, Mark, TokenMaker, unmarked
from vlmprof.engine.base import EAGER, AbstractEngine
from vlmprof.engine.device_errors import classify, free_share, release
from vlmprof.engine.not_finite import where_not_finite
from vlmprof.engine.vision_cache import PreparedBatch, VisionFeatureCache, compute_inputs
from vlmprof.errors import Mismatch, NotFinite, OutOfMemory
from vlmprof.records import EndReason, Generation, Prompt, Run


def generate(  # noqa: PLR0913 (the request, and by keyword how it is run)
    model: TokenMaker,
    prompts: Sequence[Prompt] | PreparedBatch,
    *,
    max_new_tokens: int,
    stop_at_eos: bool = True,
    timed: bool | None = None,
    clock: Clock | None = None,
    engine: AbstractEngine = EAGER,
    vision_cache: VisionFeatureCache | None = None,
) -> Run:
    """Answer a batch of prompts.

    Args:
        model: The loaded model.
        prompts: One batch, which runs together: prompts that are encoded here, stage by stage, or a prepared batch,
            whose missing features are computed.
        max_new_tokens: Longest answer in tokens, an end-of-sequence token included.
        stop_at_eos: False runs every row to exactly ``max_new_tokens``; the tokens before end-of-sequence are the same.
        timed: Whether the engine runs the batch as one that is timed; None: if it runs to exactly ``max_new_tokens``.
        clock: Marked at the end of every stage; None leaves ``stages`` of the returned run None.
        engine: How the tokens after the first are generated.
        vision_cache: Keeps the features that a prepared batch lacked; not used for plain prompts.

    Raises:
        ValueError: there are no prompts, or ``max_new_tokens`` is less than one.
        OutOfMemory: the device could not hold the batch; all its memory has been freed.
        Mismatch: the number of vision features is not the number of image-token positions in the prompts.
        NotFinite: a logit of the batch is not a finite number; says which module made the first such value.
    """
    if not len(prompts) or max_new_tokens < 1:
        raise ValueError(
            f"expected at least one prompt and max_new_tokens of at least 1, got {len(prompts)} and {max_new_tokens}"
        )
    try:
        # All tensors on the device belong to the frame of this call, so that a failure frees them.
        exact = not stop_at_eos if timed is None else timed
        return _generate(model, prompts, max_new_tokens, stop_at_eos, exact, clock, engine, vision_cache)
    except RuntimeError as error:
        kind = classify(error, free_share())
        if kind in ("lost", "other"):
            raise
        detail = str(error).splitlines()[0]
    # After the except block, and not in a context manager, whose exit runs while the error is still being handled:
    # only here has the failed frame been released, and with it its tensors.
    engine.forget()
    release()
    raise OutOfMemory(len(prompts), detail, size_limit=kind == "size_limit")


def _generate(  # noqa: PLR0913, PLR0917 (those of generate)
    model: TokenMaker,
    prompts: Sequence[Prompt] | PreparedBatch,
    max_new_tokens: int,
    stop_at_eos: bool,
    exact: bool,
    clock: Clock | None,
    engine: AbstractEngine,
    vision_cache: VisionFeatureCache | None,
) -> Run:
    mark: Mark = clock.mark if clock else unmarked
    if clock:
        clock.start()
    if isinstance(prompts, PreparedBatch):
        inputs = (vision_cache or VisionFeatureCache(0)).complete(model, prompts)
    else:
        inputs = compute_inputs(model, prompts, mark, partial(engine.see, model, exact=exact))
    mark("connector")
    batch, features = inputs.batch, inputs.features
    _require_feature_count(batch, len(features))
    decoding = engine.begin(model, inputs.device_batch, features, max_new_tokens, exact=exact)
    # An asynchronous copy into pinned memory: it is read only after all steps, so the host does not wait here.
    first = decoding.first.to("cpu", non_blocking=True)
    mark("prefill")
    stop = model.eos_ids if stop_at_eos else frozenset()
    steps = [first, *decoding.rest(max_new_tokens - 1, stop, mark)]
    stages = clock.stop() if clock else None
    finite = decoding.finite.to("cpu", non_blocking=True)
    model.synchronize()
    if not bool(finite.all()):
        raise NotFinite(where_not_finite(model, prompts, inputs, max_new_tokens))
    rows = [list(row) for row in zip(*(step.tolist() for step in steps), strict=True)]
    return Run(generations=tuple(_answers(model, batch, rows, stop_at_eos)), stages=stages)


def _answers(model: TokenMaker, batch: Batch, rows: list[list[int]], stop_at_eos: bool) -> list[Generation]:
    answers = []
    for tokens, encoding in zip(rows, batch.encodings, strict=True):
        eos_positions = [i for i, token in enumerate(tokens) if token in model.eos_ids] if stop_at_eos else []
        answer = tokens[: eos_positions[0] + 1] if eos_positions else tokens
        text = model.text(answer[:-1] if eos_positions else answer)
        end: EndReason = "eos" if eos_positions else "cap"
        answers.append(Generation(text=text, tokens=len(answer), end=end, encoding=encoding, ids=tuple(answer)))
    return answers


def _require_feature_count(batch: Batch, features: int) -> None:
    positions = sum(encoding.vision_tokens for encoding in batch.encodings)
    if features != positions:
        raise Mismatch(
            f"the vision encoder returned {features} features for {positions} image-token positions in the prompts"
        )
