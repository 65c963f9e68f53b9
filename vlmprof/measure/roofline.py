"""The least time that a stage can take on known hardware: a check of measured times, and the base of MFU and MBU.

A stage that took less time than its floating-point operations at the hardware's peak, or than reading its weights once
at the peak memory bandwidth, was timed wrongly. The bounds are always valid and so never tight: the cache is assumed to
be full of weights, keys and values to cost nothing, and only the experts that one token needs are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

SLACK = 0.98
"""A stage is impossible below this share of its bound: clocks and counters have an error too."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Peaks of a GPU from the manufacturer's data sheet, without sparsity."""

    half_tflops: float
    """bfloat16 and float16 on tensor cores."""
    single_tflops: float
    """TF32 on tensor cores, the fastest arithmetic that may be used for float32."""
    bytes_per_s: float
    """Memory bandwidth."""
    cache_bytes: int
    """Last-level cache: weights in it need not be read from memory."""


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
"""Part of the device name that the driver reports -> peaks."""


def hardware_of(device_name: str) -> Hardware | None:
    """The peaks of a device, by the longest matching name; None if its data sheet is not in the table."""
    words = device_name.replace("NVIDIA", " ").split()
    matches = [name for name in HARDWARE if name in device_name and name.split()[0] in words]
    return HARDWARE[max(matches, key=len)] if matches else None


def compute_bound_ms(hardware: Hardware, flop: float, dtype: str) -> float:
    """The least time for so many floating-point operations."""
    return flop / (peak_tflops(hardware, dtype) * 1e12) * 1e3


def memory_bound_ms(hardware: Hardware, read_bytes: float) -> float:
    """The least time to read so many bytes, if the cache already holds as many of them as fit."""
    return max(0.0, read_bytes - hardware.cache_bytes) / hardware.bytes_per_s * 1e3


def peak_tflops(hardware: Hardware, dtype: str) -> float:
    """Peak throughput of arithmetic in this dtype."""
    return hardware.single_tflops if dtype == "float32" else hardware.half_tflops


def impossible_stages(measured_ms: Mapping[str, float | None], bounds_ms: Mapping[str, float]) -> list[str]:
    """A message for each stage that took less time than its bound."""
    return [
        f"{stage} took {ms:.3f} ms, less than its lower bound of {bounds_ms[stage]:.3f} ms"
        for stage, ms in measured_ms.items()
        if ms is not None and stage in bounds_ms and ms < SLACK * bounds_ms[stage]
    ]


def least_decode_bytes(decoder: Any) -> int:
    """Bytes of weights that one decode step must read at least: all dense weights, and the experts of one token.

    Args:
        decoder: The module with ``layers``, its routers set to the number of experts they choose. The output head and
            the embedding table are not part of it and are not counted.
    """
    return sum(_least_block_bytes(block) for block in decoder.layers)


def _least_block_bytes(block: Any) -> int:
    experts = [module for module in block.modules() if type(module).__name__.endswith("Experts")]
    expert_ids = {id(weight) for module in experts for weight in module.parameters()}
    dense_bytes = sum(_nbytes(weight) for weight in block.parameters() if id(weight) not in expert_ids)
    top_k = [m.top_k for m in block.modules() if isinstance(getattr(m, "top_k", None), int) and m not in experts]
    if not experts or not top_k:
        return dense_bytes  # how many experts run is not known: none is counted, and the bound stays valid
    routed = [_nbytes(weight) * min(top_k) // max(1, weight.shape[0]) for m in experts for weight in m.parameters()]
    return dense_bytes + int(sum(routed))


def _nbytes(weight: Any) -> int:
    return int(weight.numel() * weight.element_size())
