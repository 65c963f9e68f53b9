"""Which kernels a decode step on fixed memory runs on, and their entry into the library's own tables of kernels.

One token a row is another problem than a prompt. The library's kernels still serve it where ours do not fit; which
one runs follows from sizes alone, is the same for every step of a batch, and is recorded in the row.

* attention: ``fixed_split`` splits the masked cache over the GPU; elsewhere the library's ``sdpa`` with a mask.
* experts, by what is cheapest in bytes read from memory:

  - ``gathered``: few (token, expert) pairs. Each reads its expert's matrices in place; two pairs of one expert read
    them twice.
  - ``dense``: so many pairs that nearly every expert is needed anyway. All experts on all tokens in two plain matrix
    products, weighed by the router, zero where it did not choose: nothing to sort, nothing to gather. Up to some
    hundred tokens the arithmetic hides behind reading the weights.
  - ``grouped_mm``: the library's, for what is between, and for more tokens than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION, EXPERTS = "vlmprof_fixed_split", "vlmprof_decode"
GATHERED_PAIRS = 0.5
"""Up to this many (token, expert) pairs an expert of the block: gathering re-reads a quarter at most."""
DENSE_SHARE = 0.6
"""From this share of experts on that a batch is expected to need, all of them are run."""
DENSE_TOKENS = 128
"""Up to so many tokens the products of all experts still take less time than reading their weights."""


@torch.library.custom_op("vlmprof::attend", mutates_args=())
def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention of one query a row over a masked cache; see ``triton_kernels.attend``."""
    ATTENDED[0] += 1
    if query.is_cuda:
        from vlmprof.engine import triton_kernels

        return triton_kernels.attend(query, keys, values, mask, scale)
    groups = query.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(groups, dim=1) for part in (keys, values))
    return torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)


@attend.register_fake
def _(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    return query.new_empty(query.shape)


@torch.library.custom_op("vlmprof::gathered_product", mutates_args=())
def gathered_product(rows: Tensor, matrices: Tensor, chosen: Tensor, share: int) -> Tensor:
    """Each pair's row times the transpose of its matrix; see ``triton_kernels.gathered_product``."""
    if rows.is_cuda:
        from vlmprof.engine import triton_kernels

        return triton_kernels.gathered_product(rows, matrices, chosen, share)
    return torch.bmm(matrices[chosen], rows.repeat_interleave(share, dim=0)[..., None])[..., 0]


@gathered_product.register_fake
def _(rows: Tensor, matrices: Tensor, chosen: Tensor, share: int) -> Tensor:
    return rows.new_empty(chosen.shape[0], matrices.shape[1])


def experts_kernel(tokens: int, top_k: int, experts: int, dtype: torch.dtype) -> str:
    """The kernel for ``tokens`` tokens that are sent to ``top_k`` of ``experts`` experts each, on a GPU."""
    if tokens * top_k <= GATHERED_PAIRS * experts:
        return "gathered"
    needed = 1 - (1 - top_k / experts) ** tokens
    if tokens <= DENSE_TOKENS and needed >= DENSE_SHARE:
        return "dense"
    # Of the library's grouped product only the one for bf16 leaves the host out of it, as a recording needs.
    return "grouped_mm" if dtype == torch.bfloat16 else "dense"


def run_experts(kernel: str, experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The experts of a block on one token a row, (tokens, width), by a kernel of that name.

    Args:
        kernel: ``gathered``, ``dense`` or ``grouped_mm``.
        experts: A module of the library that holds the matrices of all experts of a block.
        hidden: (tokens, width).
        chosen: (tokens, top-k) which experts.
        weights: (tokens, top-k) of their outputs.
    """
    if kernel == "gathered":
        return _gathered(experts, hidden, chosen, weights)
    if kernel == "dense":
        return _dense(experts, hidden, chosen, weights)
    result: Tensor = grouped_mm_experts_forward(experts, hidden, chosen, weights)
    return result


def supports_layout(experts: Any) -> bool:
    """Whether a module's matrices lie as our products read them: gate and up in one, output by input, no bias."""
    flags = {"has_gate": True, "has_bias": False, "is_transposed": False, "has_post_expert_norm": False}
    return all(getattr(experts, name, None) == value for name, value in flags.items())


def _gathered(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    tokens, top_k = chosen.shape
    pairs = chosen.reshape(-1)
    inner = experts._apply_gate(gathered_product(hidden.contiguous(), experts.gate_up_proj, pairs, top_k))
    outer = gathered_product(inner.contiguous(), experts.down_proj, pairs, 1)
    weighted = outer * weights.reshape(-1, 1)
    output: Tensor = weighted.view(tokens, top_k, -1).sum(dim=1).to(hidden.dtype)
    return output


def _dense(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    tokens, (count, _, width) = hidden.shape[0], experts.gate_up_proj.shape
    both = torch.nn.functional.linear(hidden, experts.gate_up_proj.view(-1, width)).view(tokens, count, -1)
    inner = experts._apply_gate(both).transpose(0, 1)
    outer = torch.bmm(inner, experts.down_proj.transpose(1, 2))  # (experts, tokens, width)
    share = weights.new_zeros(tokens, count).scatter_(1, chosen, weights)
    output: Tensor = (outer * share.t()[..., None]).sum(dim=0).to(hidden.dtype)
    return output


def _decode_experts(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    kernel = experts_kernel(hidden.shape[0], chosen.shape[-1], experts.num_experts, hidden.dtype)
    return run_experts(kernel if supports_layout(experts) else "grouped_mm", experts, hidden, chosen, weights)


def _decode_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    size = query.shape[-1]
    plain = attention_mask is not None and attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1
    special = any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias", "sliding_window"))
    if query.shape[2] != 1 or not plain or special or size & (size - 1) or size != value.shape[-1]:
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return result
    scale = kwargs.get("scaling")
    out = attend(query, key, value, attention_mask, size**-0.5 if scale is None else scale)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _decode_attention)
ALL_EXPERTS_FUNCTIONS.register(EXPERTS, _decode_experts)


@final
class DecodeKernels:
    """Our kernels in the place of the library's, while a decode step is recorded."""

    def __init__(self, *, attention: bool, experts: bool) -> None:
        """Where one is False the model's own kernel stays."""
        self._attention, self._experts = attention, experts

    @contextmanager
    def applied(self, decoder: Any) -> Iterator[None]:
        """For the length of a ``with`` block; prompts must not be run in it."""
        config = decoder.config
        with ExitStack() as undo:
            for name, own, replaced, wanted in (
                ("_attn_implementation", ATTENTION, "sdpa", self._attention),
                ("_experts_implementation", EXPERTS, "grouped_mm", self._experts),
            ):
                before = getattr(config, name, None)
                if wanted and before == replaced:
                    undo.callback(setattr, config, name, before)
                    setattr(config, name, own)
            yield

    def names(self, model: Any, tokens: int, calls: int) -> Mapping[str, str]:
        """``decode_attention`` and ``decode_experts``: what runs for so many tokens, as the row says it.

        Args:
            model: The token maker, at its setting.
            tokens: Of a step.
            calls: How often our attention ran in a rehearsal: it gives way where a model attends in a special way.
        """
        config, dtype = model.decoder.config, next(model.decoder.parameters()).dtype
        attention, experts = config._attn_implementation or "", getattr(config, "_experts_implementation", None) or ""
        blocks = [m for block in model.decoder.layers for m in block.modules() if type(m).__name__.endswith("Experts")]
        if self._experts and experts == "grouped_mm" and blocks and model.routers:
            chosen = {router.top_k for router in model.routers}
            count = blocks[0].num_experts
            names = {experts_kernel(tokens, k, count, dtype) if supports_layout(blocks[0]) else experts for k in chosen}
            experts = "+".join(sorted(names))
        return {
            "decode_attention": "fixed_split" if calls else attention,
            "decode_experts": experts if blocks else "",
        }


ATTENDED = [0]
"""How often ``attend`` ran in this process."""
