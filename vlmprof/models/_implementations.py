"""The dtype and kernels that a loaded model uses, read from its modules, and the kernels an architecture supports.

Nothing here relies on what was requested at load time: dtypes are those of the tensors, kernels are those that the
attention and experts modules look up at every forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from vlmprof.errors import ModelError

EXPERTS_KERNELS = ("grouped_mm", "eager", "batched_mm")
"""The first is the default. Kernels whose code transformers downloads from the Hub are left out."""

ATTENTION_SUPPORT: Mapping[str, str] = {
    "sdpa": "_supports_sdpa",
    "eager": "",
    "flash_attention_2": "_supports_flash_attn",
    "flex_attention": "_supports_flex_attn",
}
"""Attention kernel -> the flag of transformers for it, empty where every model has it. The first is its default."""

NEEDS_PACKAGE: Mapping[str, str] = {"flash_attention_2": "flash_attn"}


def read_implementations(model: Any) -> dict[str, str]:
    """``dtype``, ``attention`` and ``experts_kernel`` of a loaded model; several values are joined by ``+``."""
    return {
        "dtype": _join_distinct(_dtypes(model)),
        "attention": _join_distinct(_implementation_names(model, "Attention", "_attn_implementation")),
        "experts_kernel": _join_distinct(_implementation_names(model, "Experts", "_experts_implementation")),
    }


def attention_kernels(model: Any) -> tuple[str, ...]:
    """The attention kernels that every part of a model supports, the default of transformers first."""
    parts = [module for module in model.modules() if hasattr(module, "_supports_sdpa")]
    return tuple(
        kernel
        for kernel, flag in ATTENTION_SUPPORT.items()
        if not flag or all(getattr(part, flag, False) for part in parts)
    )


def require_package(attention: str) -> None:
    """Refuse an attention kernel whose package is missing: transformers would download code from the Hub instead.

    Raises:
        ModelError: names the package.
    """
    package = NEEDS_PACKAGE.get(attention)
    if package and find_spec(package) is None:
        raise ModelError(f"attention '{attention}' needs the package {package}, which is not installed on this machine")


def _dtypes(model: Any) -> Iterator[str]:
    # Not evidence of the model's dtype: vectors, and modules that the class keeps in float32 (the routers of ERNIE).
    in_float32 = {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
    in_float32 |= {*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
    for name, parameter in model.named_parameters():
        declared = any(f".{part}." in f".{name}." for part in in_float32)
        if parameter.dim() > 1 and parameter.is_floating_point() and not declared:
            yield str(parameter.dtype).removeprefix("torch.")


def _implementation_names(model: Any, ending: str, attribute: str) -> Iterator[str]:
    for module in model.modules():
        if type(module).__name__.endswith(ending):
            name = getattr(getattr(module, "config", None), attribute, None)
            if name:
                yield str(name)


def _join_distinct(names: Iterable[str]) -> str:
    return "+".join(sorted(set(names)))
