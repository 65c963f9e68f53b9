"""Compares what hooks counted during one generation with the counts that its preprocessing reported.

Columns such as ``vision_tokens`` and ``crops`` come from the preprocessing, for every sample. They are trusted because
a few requests are also counted inside the model: the crops that really went through the vision encoder, the image-token
positions in the ids that the language model was given, and the forwards of the language model.
"""

from __future__ import annotations

from vlmprof.errors import Mismatch
from vlmprof.measure.model_counts import ModelCounts, ModelParts
from vlmprof.records import Run


def require_counts_match(
    before: ModelCounts, after: ModelCounts, parts: ModelParts, run: Run, *, crops_known: bool
) -> None:
    """Compare a run with what was counted while it ran; what a hook could not count is not compared.

    Args:
        before: The counts at its start.
        after: The counts at its end.
        parts: The parts of the model that were counted on.
        run: One generation for each prompt, all of equal length.
        crops_known: Whether the preprocessing of this model reports how many crops it makes.

    Raises:
        Mismatch: a planned and a counted number differ; the message names each such pair.
    """
    encodings = [generation.encoding for generation in run.generations]
    comparisons = []
    if parts.vision_block is not None and crops_known and "vision" not in after.failures:
        crops = sum(encoding.crops for encoding in encodings)
        comparisons.append(("crops through the vision encoder", crops, after.crops - before.crops))
    if parts.network is not None and "network" not in after.failures:
        tokens = sum(encoding.vision_tokens for encoding in encodings)
        comparisons.append(("image tokens in the language model", tokens, after.image_tokens - before.image_tokens))
        length = max(generation.tokens for generation in run.generations)
        comparisons.append(("forwards of the language model", length, after.forwards - before.forwards))
    differences = [
        f"{name}: {planned} planned, {counted} counted" for name, planned, counted in comparisons if planned != counted
    ]
    if differences:
        raise Mismatch("; ".join(differences))
