"""Questions that hold the text of a special token, such as ``<image>`` or ``</s>``: asked as text, not as the token.

A processor looks for its placeholders in the whole rendered prompt and cannot tell those of the template from those of
the question. So a stand-in takes the question's place, and the question's own tokens, with special tokens spelled out,
take the place of the stand-in afterwards. Limit: tokens cannot join across the two ends of such a question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken

STAND_IN = "\ue000question\ue001"


def control_tokens(processor: Any) -> tuple[str, ...]:
    """Every text that the processor or its tokenizer does not read as text."""
    tokenizer = processor.tokenizer
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    own = [value for name, value in vars(processor).items() if name.endswith("_token")]
    names = {
        str(token) for token in (*tokenizer.all_special_tokens, *added, *own) if isinstance(token, str | AddedToken)
    }
    return tuple(sorted(names - {""}))


def add_stand_in(tokenizer: Any) -> int:
    """Make the stand-in one token of this tokenizer, which must be the caller's own; returns its id."""
    if STAND_IN not in tokenizer.get_added_vocab():
        tokenizer.add_tokens([AddedToken(STAND_IN, special=True, normalized=False)], special_tokens=True)
    token_id: int = tokenizer.convert_tokens_to_ids(STAND_IN)
    return token_id


def put_in_question(
    processed: Mapping[str, Tensor], tokenizer: Any, question: str, literals: tuple[str, ...]
) -> dict[str, Tensor]:
    """Replace the stand-in in a processed prompt by the tokens of the question.

    Args:
        processed: Inputs of one prompt; those with an entry for each token have the shape (1, tokens).
        tokenizer: The tokenizer that made them.
        question: The text.
        literals: The texts of special tokens that it holds.

    Raises:
        ValueError: the tokenizer cannot write one of them as text, or the template does not show the question once.
    """
    ids = processed["input_ids"][0]
    at = (ids == tokenizer.convert_tokens_to_ids(STAND_IN)).nonzero().flatten().tolist()
    if len(at) != 1:
        raise ValueError(f"the question holds {', '.join(literals)}, and the chat template shows it {len(at)} times")
    options = {"add_special_tokens": False, "truncation": False, "padding": False, "split_special_tokens": True}
    spelled: list[int] = tokenizer(question, **options)["input_ids"]
    read = [literal for literal in literals if tokenizer.convert_tokens_to_ids(literal) in spelled]
    if read:
        raise ValueError(f"the question holds {', '.join(read)}, which this tokenizer cannot write as text")
    place, tokens = at[0], len(ids)
    whole = dict(processed)
    for name, tensor in processed.items():
        if tuple(tensor.shape) == (1, tokens):
            between = tensor[:, place : place + 1].expand(1, len(spelled))
            between = torch.tensor([spelled], dtype=tensor.dtype) if name == "input_ids" else between
            whole[name] = torch.cat([tensor[:, :place], between, tensor[:, place + 1 :]], dim=1)
    return whole
