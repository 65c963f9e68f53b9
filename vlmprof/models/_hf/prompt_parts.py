"""What the recorded parts of a prompt depend on, for any model of transformers.

transformers prepares a prefill on the host: positions, masks, and, in Qwen-VL, three-dimensional positions from the
grid of an image. All of it follows from the integer inputs of a batch. So these are part of a recording's key, by
value; what was prepared for the first batch of a key holds for all of them, and only pixels and features differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from vlmprof.decoding import StaticInputs, StepInputs
from vlmprof.errors import ModelError

DROPS_EMPTY_CROPS = "pixel_attention_mask"
"""An input of models that drop crops whose pixels are all zero: those that pad a batch, whose number is in the key."""
UNUSED = ("last_hidden_state", "hidden_states", "attentions")
"""What ``get_image_features`` returns beside the features, and no forward reads."""
ENCODED = "mm_encoder_outputs"
"""The argument of a forward that takes the features."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PromptConstants:
    """What transformers prepared for the first batch of a key."""

    arguments: Mapping[str, Any]
    """Keyword arguments of the forward, without the cache."""
    ids: Tensor
    """(batch, tokens)"""
    carried: Mapping[str, Any]
    """Keyword arguments that transformers passes from one forward to the next."""
    step: StepInputs
    """The inputs of the first decode step; only its tokens differ from batch to batch."""


def values_of(inputs: Mapping[str, Tensor], rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Hashable]:
    """The values of all integer inputs of a batch on the host, for keys, and the shapes of pixels before padding."""
    values = {name: _value(tensor) for name, tensor in inputs.items() if not tensor.is_floating_point()}
    for name, tensor in inputs.items():
        if tensor.is_floating_point():
            values[name] = tuple(tuple(row[name].shape) for row in rows)
    return values


def _value(tensor: Tensor) -> Hashable:
    shape = tuple(tensor.shape), tensor.dtype
    if tensor.numel() > 4096 and bool((tensor == 1).all()):  # a mask that hides nothing, megabytes of it
        return shape
    return *shape, hashlib.blake2b(tensor.contiguous().numpy().tobytes(), digest_size=16).digest()


def vision_inputs(arguments: Mapping[str, Tensor], values: Mapping[str, Hashable], budgets: Hashable) -> StaticInputs:
    """The inputs of the vision side.

    Args:
        arguments: Of ``get_image_features``.
        values: As ``values_of`` gives them.
        budgets: The vision budget of each image.
    """
    return StaticInputs(
        tensors=arguments,
        key=(tuple((name, values[name]) for name in arguments), budgets),
        fixed=frozenset(name for name, tensor in arguments.items() if not tensor.is_floating_point()),
        host_reads="any" if DROPS_EMPTY_CROPS in arguments else "fixed",
        settings=budgets,
    )


def only_features(output: Any) -> Any:
    """What ``get_image_features`` returned, without what no forward reads."""
    return type(output)(**{name: value for name, value in output.items() if name not in UNUSED})


def prompt_inputs(output: Any, values: Mapping[str, Hashable]) -> StaticInputs:
    """The inputs of the prefill: the features, in whatever nest ``get_image_features`` returned them.

    Raises:
        ModelError: there is something other than tensors among them.
    """
    leaves, spec = tree_flatten(output)
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ModelError(f"the features of {type(output).__name__} are not tensors alone")
    tensors = {f"features {number}": leaf for number, leaf in enumerate(leaves)}
    return StaticInputs(tensors=tensors, key=(tuple(values.items()), str(spec)), host_reads="fixed", settings=spec)


def features_in(inputs: StaticInputs) -> Any:
    """The features as ``get_image_features`` returned them, of the tensors that ``prompt_inputs`` made of them."""
    return tree_unflatten(list(inputs.tensors.values()), inputs.settings)


def constant_arguments(prepared: Mapping[str, Any], of_vision: frozenset[str]) -> dict[str, Any]:
    """The arguments of a forward that hold for all batches of a key.

    Args:
        prepared: Those of the first batch.
        of_vision: The arguments of ``get_image_features``, which is not run again.

    Raises:
        ModelError: one of them holds values that the key does not have.
    """
    constant = {name: value for name, value in prepared.items() if name != "past_key_values"}
    for name, value in constant.items():
        if isinstance(value, Tensor) and value.is_floating_point() and name not in of_vision:
            raise ModelError(f"the forward takes '{name}', which may differ between prompts of the same shape")
    return constant
