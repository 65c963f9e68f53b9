"""How long pictures take to cut: on one core of the host, and on the device, a GPU if there is one. Prints one JSON.

    python -m tests.benchmarks.preprocess > preprocess.json          # about a minute

Both ways begin with an opened RGB picture and end with ``pixel_values`` on the device. ``host`` cuts and then sends
float32; ``device`` has three parts: ``encode`` (what the host still does, without the text), ``send`` and ``cut``. The
ratio pairs the repeats of both ways, which take turns, so that a change of the machine meets both. Every case says the
largest difference between the pixels of the two ways, and of a resize with torch's own ``interpolate`` on the device
from the same on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.sections import gpu_state, sync
from vlmprof.models.molmo.device_cutting import Normalisation, UncutPicture, cut_pictures
from vlmprof.models.molmo.image_processing import MolmoImageProcessor

SIZES = ((768, 1024), (480, 640), (336, 336), (2200, 1700), (3000, 4000))


class Cutting:
    """A batch of equally large pictures, cut on either way."""

    def __init__(self, size: tuple[int, int], pictures: int, max_crops: int, device: str) -> None:
        noise = np.random.default_rng(0)
        self.pictures = [noise.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(pictures)]
        self.processor, self.max_crops, self.device = MolmoImageProcessor(), max_crops, device
        self.normalisation = Normalisation.of(self.processor, device)

    def on_host(self) -> Tensor:
        made = self.processor.preprocess(self.pictures, max_crops=self.max_crops)
        pixels: Tensor = made["pixel_values"]
        return pixels.to(self.device, non_blocking=True)

    def encode(self) -> tuple[list[UncutPicture], int]:
        layout = self.processor.layout(self.pictures, max_crops=self.max_crops)
        return [UncutPicture.of(placed) for placed in layout.pictures], layout.crops

    def send(self, uncut: Sequence[UncutPicture]) -> list[UncutPicture]:
        return [picture.on(self.device) for picture in uncut]

    def cut(self, sent: Sequence[UncutPicture], crops: int) -> Tensor:
        return cut_pictures(sent, crops, self.processor.geometry, self.normalisation)

    def on_device(self) -> tuple[Tensor, dict[str, float]]:
        """The pixels, and the milliseconds of each part; the device is waited for after each."""
        (uncut, crops), encode_ms = self._timed(self.encode)
        sent, send_ms = self._timed(lambda: self.send(uncut))
        pixels, cut_ms = self._timed(lambda: self.cut(sent, crops))
        return pixels, {"encode": encode_ms, "send": send_ms, "cut": cut_ms}

    def _timed(self, work: Callable[[], Any]) -> tuple[Any, float]:
        began = time.perf_counter()
        made = work()
        sync(self.device)
        return made, 1e3 * (time.perf_counter() - began)


def spread(times: Sequence[float], pictures: int) -> dict[str, float]:
    """Milliseconds for each picture: the median, and the range of the middle half."""
    scaled = [one / pictures for one in times]
    low, middle, high = statistics.quantiles(scaled, n=4)
    return {"median_ms": round(middle, 4), "quarter_ms": round(low, 4), "three_quarters_ms": round(high, 4)}


@torch.inference_mode()
def measured(size: tuple[int, int], pictures: int, max_crops: int, device: str, repeats: int) -> dict[str, Any]:
    cutting = Cutting(size, pictures, max_crops, device)
    difference = float((cutting.on_host() - cutting.on_device()[0]).abs().max())
    host: list[float] = []
    parts: dict[str, list[float]] = {"encode": [], "send": [], "cut": []}
    for _ in range(repeats):
        host.append(cutting._timed(cutting.on_host)[1])
        for name, taken in cutting.on_device()[1].items():
            parts[name].append(taken)
    whole = [sum(taken) for taken in zip(*parts.values(), strict=True)]
    ratios = [one / other for one, other in zip(host, whole, strict=True)]
    sent = sum(picture.pixels.nbytes + picture.weights.nbytes for picture in cutting.encode()[0])
    return {
        "size": size,
        "pictures": pictures,
        "max_crops": max_crops,
        "host": spread(host, pictures),
        "device": spread(whole, pictures),
        "device_parts": {name: spread(taken, pictures) for name, taken in parts.items()},
        "host_over_device": round(statistics.median(ratios), 2),
        "bytes_sent": sent,
        "bytes_of_float_pixels": cutting.on_host().nbytes,
        "largest_difference": difference,
        "largest_difference_of_interpolate": difference_of_interpolate(size, device),
    }


def difference_of_interpolate(size: tuple[int, int], device: str) -> float:
    """What a resize into one crop differs by when torch's interpolate runs on the device instead of the CPU."""
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))

    def resized(where: str) -> Tensor:
        options: dict[str, Any] = {"mode": "bilinear", "align_corners": False, "antialias": True}
        return torch.nn.functional.interpolate(image.to(where), size=(252, 336), **options).cpu()

    return float((resized(device) - resized("cpu")).abs().max())


def machine(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "gpu": gpu_state() if device == "cuda" else None,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "machine": platform.machine(),
        "processor": platform.processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy", "pillow", "vlmprof")},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", nargs="+", default=[f"{height}x{width}" for height, width in SIZES])
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--max-crops", type=int, nargs="+", default=[12, 1])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="of the host's arithmetic")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cases = [
        measured((int(height), int(width)), pictures, max_crops, asked.device, asked.repeats)
        for height, width in (size.split("x") for size in asked.sizes)
        for pictures in asked.pictures
        for max_crops in asked.max_crops
    ]
    json.dump({"machine": machine(asked.device), "cases": cases}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
