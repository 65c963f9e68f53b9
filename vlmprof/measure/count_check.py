"""The certificate: what hooks counted of one request, against what its preprocessing said.

Columns such as ``vision_tokens`` and ``crops`` come from the preprocessing, for every sample. That is trusted because a
few requests are counted inside the model: the crops that really went through the vision encoder, the places of image
tokens in the ids that the language model was given, and its forwards.
"""

from __future__ import annotations

from vlmprof.errors import Mismatch
from vlmprof.measure.model_counts import ModelCounts, ModelParts
from vlmprof.records import Run


def require_counts_match(
    before: ModelCounts, after: ModelCounts, whole: ModelParts, run: Run, *, crops_known: bool
) -> None:
    """Compare one generation of ``run`` with what was counted meanwhile.

    Args:
        before: The counts when it began.
        after: The counts when it had ended.
        whole: What was counted on.
        run: One generation for each prompt, of equal length.
        crops_known: Whether the preprocessing of this model says how many crops it makes.

    Raises:
        Mismatch: says what was planned and what was counted.
    """
    encodings = [generation.encoding for generation in run.generations]
    found = []
    if whole.vision_block is not None and crops_known:
        crops = sum(encoding.crops for encoding in encodings)
        found.append(("crops through the vision encoder", crops, after.crops - before.crops))
    if whole.network is not None:
        tokens = sum(encoding.vision_tokens for encoding in encodings)
        found.append(("image tokens in the language model", tokens, after.image_tokens - before.image_tokens))
        length = max(generation.tokens for generation in run.generations)
        found.append(("forwards of the language model", length, after.forwards - before.forwards))
    lies = [f"{what}: {said} planned, {counted} counted" for what, said, counted in found if said != counted]
    if lies:
        raise Mismatch("; ".join(lies))
