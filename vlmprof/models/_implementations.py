"""What a loaded model computes with, read off its modules, and what an architecture could compute with.

Nothing here trusts what a model was asked for: dtypes are those of its tensors, kernels those that its attention and
experts modules look up at every forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from vlmprof.errors import ModelError

EXPERTS_KERNELS = ("grouped_mm", "eager", "batched_mm")
"""The first is used where nothing is said. Kernels that the library fetches as code from a Hub are left out."""

ATTENTION_SUPPORT: Mapping[str, str] = {
    "sdpa": "_supports_sdpa",
    "eager": "",
    "flash_attention_2": "_supports_flash_attn",
    "flex_attention": "_supports_flex_attn",
}
"""Attention kernel -> the library's flag for it, empty where every model has it; the library prefers the first."""

NEEDS_PACKAGE: Mapping[str, str] = {"flash_attention_2": "flash_attn"}


def read_implementations(model: Any) -> dict[str, str]:
    """``dtype``, ``attention`` and ``experts_kernel`` of a loaded model; several that differ are joined by ``+``."""
    return {
        "dtype": _joined(_dtypes(model)),
        "attention": _joined(_looked_up(model, "Attention", "_attn_implementation")),
        "experts_kernel": _joined(_looked_up(model, "Experts", "_experts_implementation")),
    }


def attention_kernels(model: Any) -> tuple[str, ...]:
    """The attention kernels that every part of a model has, the library's own choice first."""
    parts = [module for module in model.modules() if hasattr(module, "_supports_sdpa")]
    return tuple(
        kernel
        for kernel, flag in ATTENTION_SUPPORT.items()
        if not flag or all(getattr(part, flag, False) for part in parts)
    )


def require_package(attention: str) -> None:
    """Refuse an attention kernel whose package is missing: the library would fetch code from a Hub instead.

    Raises:
        ModelError: naming the package.
    """
    package = NEEDS_PACKAGE.get(attention)
    if package and find_spec(package) is None:
        raise ModelError(f"attention '{attention}' needs the package {package}, which is not installed on this machine")


def _dtypes(model: Any) -> Iterator[str]:
    # What a model keeps in float32 by declaration (ERNIE: its routers), and vectors, are no sign of another precision.
    kept = {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
    kept |= {*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
    for name, parameter in model.named_parameters():
        declared = any(f".{part}." in f".{name}." for part in kept)
        if parameter.dim() > 1 and parameter.is_floating_point() and not declared:
            yield str(parameter.dtype).removeprefix("torch.")


def _looked_up(model: Any, ending: str, attribute: str) -> Iterator[str]:
    for module in model.modules():
        if type(module).__name__.endswith(ending):
            found = getattr(getattr(module, "config", None), attribute, None)
            if found:
                yield str(found)


def _joined(words: Iterable[str]) -> str:
    return "+".join(sorted(set(words)))
