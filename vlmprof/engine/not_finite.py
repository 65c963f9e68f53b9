"""Finds the module whose output is not finite: a batch that gave a NaN or an infinity runs once more, with hooks.

Purpose: a float16 overflow or a broken weight is named by module and precision, not only noticed. It runs only after
logits were not finite. Limits: a module is named by its output, so an operation between two modules counts as part of
the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from vlmprof.decoding import unmarked
from vlmprof.engine.vision_cache import Inputs, PreparedBatch, compute_inputs
from vlmprof.records import Prompt


def where_not_finite(model: Any, prompts: Sequence[Prompt] | PreparedBatch, inputs: Inputs, max_new_tokens: int) -> str:
    """A message that names the first module whose output is not finite, and its precision.

    Args:
        model: The loaded model.
        prompts: The batch.
        inputs: The same with its features.
        max_new_tokens: Tokens to generate at most.
    """
    network = getattr(model, "network", None) or model.decoder
    try:
        with _first_not_finite(network) as found:
            _run_again(model, prompts, inputs, max_new_tokens, found)
    except RuntimeError as error:  # the run with hooks needs a little more memory
        found = [f"which module made them is not known: {str(error).splitlines()[0]}"]
    where = found[0] if found else "run again module by module, the same batch is finite: the engine's kernels differ"
    return f"the logits are not finite (NaN or infinity): {where}"


def _run_again(
    model: Any, prompts: Sequence[Prompt] | PreparedBatch, inputs: Inputs, max_new_tokens: int, found: list[str]
) -> None:
    """The same generation, eager, until something is found."""
    if not isinstance(prompts, PreparedBatch):
        inputs = compute_inputs(model, prompts, unmarked)
    elif prompts.missing is not None:
        model.see(model.transfer(prompts.missing), unmarked)
    state = None
    for _ in range(max_new_tokens):
        if found:
            return
        state = (
            model.prefill(inputs.device_batch, inputs.features, max_new_tokens) if state is None else model.step(state)
        )


@contextmanager
def _first_not_finite(network: Any) -> Iterator[list[str]]:
    """A list that takes the first module with an output that is not finite; inner modules end before outer ones."""
    found: list[str] = []
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            hooks.callback(module.register_forward_hook(_hook(name, found)).remove)
        yield found


def _hook(name: str, found: list[str]) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        if found:
            return
        for tensor in _tensors(output):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                what = "NaN" if bool(torch.isnan(tensor).any()) else "infinity"
                dtype = str(tensor.dtype).removeprefix("torch.")
                advice = "; its range ends at 65504, try dtype: bfloat16 or float32" if dtype == "float16" else ""
                place = name or "the whole model"
                found.append(f"the first is {what} in the output of {place} ({type(module).__name__}, {dtype}){advice}")
                return

    return hook


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
