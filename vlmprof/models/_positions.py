"""How many tokens a text model has positions for, read off its configuration."""

from __future__ import annotations

from typing import Any


def positions_of(text: Any) -> int | None:
    """The most tokens of prompt and answer together; None where the configuration does not say.

    A scaled rotary embedding reaches further than the length that the model was first trained on.
    """
    stated = getattr(text, "max_position_embeddings", None)
    if not isinstance(stated, int) or stated < 1:
        return None
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    # One set of parameters, or one for each kind of block.
    sets = [one for one in scaling.values() if isinstance(one, dict)] or [scaling]
    reached = [stated]
    for one in sets:
        factor = one.get("factor")
        if one.get("rope_type", "default") != "default" and isinstance(factor, int | float):
            reached.append(int(factor * (one.get("original_max_position_embeddings") or stated)))
    return max(reached)
