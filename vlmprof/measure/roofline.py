"""The least time a stage can take on known hardware, and how much of the hardware it used.

The physics gate: a stage that took less than its floating-point operations at the hardware's peak, or less than
reading its weights once at the memory's peak, was not timed right. Sound, so never tight: caches are taken as full of
weights, keys and values as free, and of the experts only as many as one token needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

SLACK = 0.98
"""Clocks and counters have an error of their own."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Peaks of a GPU from its maker's data sheet: dense, without sparsity."""

    half_tflops: float
    """bfloat16 and float16 on tensor cores."""
    single_tflops: float
    """float32 on tensor cores (TF32), the fastest that may stand behind float32."""
    bytes_per_s: float
    cache_bytes: int
    """Last-level cache: weights in it need not come from memory."""


MIB = 2**20
HARDWARE: Mapping[str, Hardware] = {
    # NVIDIA H200 data sheet, 2024: compute as H100 SXM, 4.8 TB/s.
    "H200": Hardware(half_tflops=989.5, single_tflops=494.7, bytes_per_s=4.8e12, cache_bytes=50 * MIB),
    # NVIDIA H100 data sheet, 2023.
    "H100 80GB HBM3": Hardware(half_tflops=989.5, single_tflops=494.7, bytes_per_s=3.35e12, cache_bytes=50 * MIB),
    "H100 PCIe": Hardware(half_tflops=756.5, single_tflops=378.0, bytes_per_s=2.0e12, cache_bytes=50 * MIB),
    # NVIDIA A100 data sheet, 2021.
    "A100-SXM4-80GB": Hardware(half_tflops=312.0, single_tflops=156.0, bytes_per_s=2.039e12, cache_bytes=40 * MIB),
    "A100-SXM4-40GB": Hardware(half_tflops=312.0, single_tflops=156.0, bytes_per_s=1.555e12, cache_bytes=40 * MIB),
    "A100 80GB PCIe": Hardware(half_tflops=312.0, single_tflops=156.0, bytes_per_s=1.935e12, cache_bytes=40 * MIB),
    # NVIDIA L40S and L4 data sheets, 2023.
    "L40S": Hardware(half_tflops=362.05, single_tflops=183.0, bytes_per_s=0.864e12, cache_bytes=96 * MIB),
    "L4": Hardware(half_tflops=121.0, single_tflops=60.0, bytes_per_s=0.3e12, cache_bytes=48 * MIB),
}
"""By a part of the name that the driver gives."""


def hardware_of(device_name: str) -> Hardware | None:
    """The peaks of a device; None where its data sheet is not in the table. The longest name that fits is taken."""
    words = device_name.replace("NVIDIA", " ").split()
    fits = [name for name in HARDWARE if name in device_name and name.split()[0] in words]
    return HARDWARE[max(fits, key=len)] if fits else None


def compute_bound_ms(hardware: Hardware, flop: float, dtype: str) -> float:
    """The least time for so many floating-point operations."""
    return flop / (peak_tflops(hardware, dtype) * 1e12) * 1e3


def memory_bound_ms(hardware: Hardware, read_bytes: float) -> float:
    """The least time to read so many bytes of which the cache may already hold what fits it."""
    return max(0.0, read_bytes - hardware.cache_bytes) / hardware.bytes_per_s * 1e3


def peak_tflops(hardware: Hardware, dtype: str) -> float:
    """The peak that arithmetic of this precision can reach."""
    return hardware.single_tflops if dtype == "float32" else hardware.half_tflops


def impossible_stages(measured_ms: Mapping[str, float | None], bounds_ms: Mapping[str, float]) -> list[str]:
    """What is faster than physics, in words, one for each stage that is."""
    return [
        f"{stage} took {taken:.3f} ms where {bounds_ms[stage]:.3f} ms is the least"
        for stage, taken in measured_ms.items()
        if taken is not None and stage in bounds_ms and taken < SLACK * bounds_ms[stage]
    ]


def least_decode_bytes(decoder: Any) -> int:
    """Weights that one decode step must read at least, in bytes: all that is dense, and the experts of one token.

    Args:
        decoder: The module with ``layers``, the routers inside it set to the experts they choose. The output head and
            the embedding table lie outside and are left out.
    """
    return sum(_least_of(block) for block in decoder.layers)


def _least_of(block: Any) -> int:
    experts = [module for module in block.modules() if type(module).__name__.endswith("Experts")]
    inside = {id(weight) for module in experts for weight in module.parameters()}
    dense = sum(_bytes(weight) for weight in block.parameters() if id(weight) not in inside)
    top_k = [m.top_k for m in block.modules() if isinstance(getattr(m, "top_k", None), int) and m not in experts]
    if not experts or not top_k:
        return dense  # which experts run is not known: none is counted, and the bound stays sound
    routed = [_bytes(weight) * min(top_k) // max(1, weight.shape[0]) for m in experts for weight in m.parameters()]
    return dense + int(sum(routed))


def _bytes(weight: Any) -> int:
    return int(weight.numel() * weight.element_size())
