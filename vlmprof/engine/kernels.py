"""The kernels of a static decode step, and their registration in the kernel tables of transformers.

A decode step has one token a row and needs other kernels than a prompt. Where ours do not apply, those of transformers
run; which one runs depends on sizes alone, is the same for every step of a batch, and is recorded in the row.

* attention: ``fixed_split`` splits the masked cache over the GPU; elsewhere ``sdpa`` of transformers with a mask.
* experts, by which reads the fewest bytes from memory:

  - ``gathered``: few (token, expert) pairs. Each pair reads its expert's matrices in place; two pairs of one expert
    read them twice.
  - ``dense``: so many pairs that nearly every expert is needed anyway. All experts run on all tokens in two plain
    matrix products, weighted by the router, with weight zero for experts it did not choose: no sorting, no gathering.
    Up to about a hundred tokens the arithmetic takes less time than reading the weights.
  - ``grouped_mm``: that of transformers, for sizes in between, and for more tokens.
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
"""``gathered`` runs up to this many (token, expert) pairs for each expert of the block: at most a quarter of the reads
are then repeated."""
DENSE_SHARE = 0.6
"""``dense`` runs if a batch is expected to need at least this share of the experts."""
DENSE_TOKENS = 128
"""Up to this many tokens, the products of all experts take less time than reading their weights."""


@torch.library.custom_op("vlmprof::attend", mutates_args=())
def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention of one query a row over a masked cache; see ``triton_kernels.attend``."""
    ATTEND_CALLS[0] += 1
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
    """The experts kernel for ``tokens`` tokens that are each sent to ``top_k`` of ``experts`` experts, on a GPU."""
    if tokens * top_k <= GATHERED_PAIRS * experts:
        return "gathered"
    needed = 1 - (1 - top_k / experts) ** tokens
    if tokens <= DENSE_TOKENS and needed >= DENSE_SHARE:
        return "dense"
    # Only the bf16 version of transformers' grouped product avoids synchronizing with the host, as a CUDA graph needs.
    return "grouped_mm" if dtype == torch.bfloat16 else "dense"


def run_experts(kernel: str, experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Run the experts of a block by the named kernel, one token a row.

    Args:
        kernel: ``gathered``, ``dense`` or ``grouped_mm``.
        experts: A module of transformers that holds the matrices of all experts of a block.
        hidden: (tokens, width).
        chosen: (tokens, top-k) indices of the experts.
        weights: (tokens, top-k) router weights of the experts' outputs.

    Returns:
        (tokens, width)
    """
    if kernel == "gathered":
        return _gathered(experts, hidden, chosen, weights)
    if kernel == "dense":
        return _dense(experts, hidden, chosen, weights)
    result: Tensor = grouped_mm_experts_forward(experts, hidden, chosen, weights)
    return result


def supports_layout(experts: Any) -> bool:
    """Whether our kernels can read a module's matrices: gate and up in one matrix, output by input, no bias."""
    flags = {"has_gate": True, "has_bias": False, "is_transposed": False, "has_post_expert_norm": False}
    return all(getattr(experts, name, None) == value for name, value in flags.items())


def _gathered(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    tokens, top_k = chosen.shape
    pairs = chosen.reshape(-1)
    gated = experts._apply_gate(gathered_product(hidden.contiguous(), experts.gate_up_proj, pairs, top_k))
    down = gathered_product(gated.contiguous(), experts.down_proj, pairs, 1)
    weighted = down * weights.reshape(-1, 1)
    output: Tensor = weighted.view(tokens, top_k, -1).sum(dim=1).to(hidden.dtype)
    return output


def _dense(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    tokens, (count, _, width) = hidden.shape[0], experts.gate_up_proj.shape
    gate_up = torch.nn.functional.linear(hidden, experts.gate_up_proj.view(-1, width)).view(tokens, count, -1)
    gated = experts._apply_gate(gate_up).transpose(0, 1)
    down = torch.bmm(gated, experts.down_proj.transpose(1, 2))  # (experts, tokens, width)
    dense_weights = weights.new_zeros(tokens, count).scatter_(1, chosen, weights)
    output: Tensor = (down * dense_weights.t()[..., None]).sum(dim=0).to(hidden.dtype)
    return output


def _decode_experts(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    kernel = experts_kernel(hidden.shape[0], chosen.shape[-1], experts.num_experts, hidden.dtype)
    return run_experts(kernel if supports_layout(experts) else "grouped_mm", experts, hidden, chosen, weights)


def _decode_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    size = query.shape[-1]
    bool_mask = attention_mask is not None and attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1
    extra = any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias", "sliding_window"))
    if query.shape[2] != 1 or not bool_mask or extra or size & (size - 1) or size != value.shape[-1]:
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return result
    scale = kwargs.get("scaling")
    out = attend(query, key, value, attention_mask, size**-0.5 if scale is None else scale)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _decode_attention)
ALL_EXPERTS_FUNCTIONS.register(EXPERTS, _decode_experts)


@final
class DecodeKernels:
    """Puts our kernels in place of those of transformers while a decode step is recorded."""

    def __init__(self, *, attention: bool, experts: bool) -> None:
        """``attention`` and ``experts``: whether ours replace the model's own kernel."""
        self._attention, self._experts = attention, experts

    @contextmanager
    def applied(self, decoder: Any) -> Iterator[None]:
        """Use our kernels inside a ``with`` block; no prompt may run in it."""
        config = decoder.config
        with ExitStack() as undo:
            for name, ours, replaced, enabled in (
                ("_attn_implementation", ATTENTION, "sdpa", self._attention),
                ("_experts_implementation", EXPERTS, "grouped_mm", self._experts),
            ):
                before = getattr(config, name, None)
                if enabled and before == replaced:
                    undo.callback(setattr, config, name, before)
                    setattr(config, name, ours)
            yield

    def names(self, model: Any, tokens: int, calls: int) -> Mapping[str, str]:
        """The columns ``decode_attention`` and ``decode_experts``: the kernels of a decode step.

        Args:
            model: The ``TokenMaker``, with its knobs applied.
            tokens: Tokens of a step, one a row.
            calls: How often our attention ran while the step was recorded; 0 where the model's attention has features
                that ours lacks, so that ``sdpa`` ran instead.
        """
        config, dtype = model.decoder.config, next(model.decoder.parameters()).dtype
        attention, experts = config._attn_implementation or "", getattr(config, "_experts_implementation", None) or ""
        blocks = [m for block in model.decoder.layers for m in block.modules() if type(m).__name__.endswith("Experts")]
        if self._experts and experts == "grouped_mm" and blocks and model.routers:
            top_ks = {router.top_k for router in model.routers}
            count = blocks[0].num_experts
            names = {experts_kernel(tokens, k, count, dtype) if supports_layout(blocks[0]) else experts for k in top_ks}
            experts = "+".join(sorted(names))
        return {
            "decode_attention": "fixed_split" if calls else attention,
            "decode_experts": experts if blocks else "",
        }


ATTEND_CALLS = [0]
"""How often ``attend`` ran in this process, in a list so that it can be counted up."""
