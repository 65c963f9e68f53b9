"""How fast pictures come: a plain ``datasets`` and PIL loop against vlmprof's reader, cold and warm. Prints one JSON.

    python -m tests.benchmarks.loader > loader.json      # about a minute; `pip install datasets` for the plain loop

Photos are JPEG of 640 x 480, pages are PNG of 1700 x 2200, both made here, in Parquet as the Hub holds them. Every
pixel is touched, as a preprocessing does. ``beside a model`` is what a model waits for pictures when it takes 20 ms of
another device for each: there decoding ahead hides, as far as there are cores. CPU time counts all processes; unlike
wall time it says the same on a busy machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from vlmprof.records import Picture
from vlmprof.tasks._data.index import Columns, read_index
from vlmprof.tasks._data.prefetch import PicturePrefetcher

MODEL_SECONDS, BATCH = 0.020, 8


def photo(number: int) -> bytes:
    """A JPEG that decodes like a photo: smooth shapes and noise."""
    generator = np.random.default_rng(number)
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = np.clip(smooth + generator.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    return encoded(Image.fromarray(noisy), "JPEG", quality=90)


def page(number: int) -> bytes:
    """A PNG that decodes like a scanned page: lines of text on white."""
    image = Image.new("RGB", (1700, 2200), "white")
    draw = ImageDraw.Draw(image)
    for line in range(60):
        draw.text((120, 100 + 34 * line), f"{number} {line} " + "the quick brown fox jumps over it " * 5, fill="black")
    return encoded(image, "PNG")


def encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def made(folder: Path, kind: str, count: int) -> Path:
    make = {"photos": photo, "pages": page}[kind]
    file = folder / f"{kind}.parquet"
    rows = [{"n": n, "image": {"bytes": make(n), "path": f"{n}"}} for n in range(count)]
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=100)
    return file


def consume(image: Image.Image) -> None:
    np.asarray(image).max()


def timed(action: Callable[[], Iterable[Image.Image]], rest_seconds: float = 0.0) -> dict[str, float]:
    """Pictures a second, and the longest and the mean wait for one."""
    waits, began, spent = [], time.perf_counter(), cpu_seconds()
    pictures = iter(action())
    while True:
        asked = time.perf_counter()
        image = next(pictures, None)
        if image is None:
            break
        consume(image)
        waits.append(time.perf_counter() - asked)
        time.sleep(rest_seconds)
    whole = time.perf_counter() - began
    return {
        "pictures_per_s": round(len(waits) / whole, 1),
        "cpu_ms_per_picture": round(1000 * (cpu_seconds() - spent) / len(waits), 2),
        "wait_ms_mean": round(1000 * float(np.mean(waits)), 2),
        "wait_ms_p99": round(1000 * float(np.quantile(waits, 0.99)), 2),
    }


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def plain(file: Path) -> Iterable[Image.Image]:
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(file.parent / "hf"))
    feature = rows.cast_column("image", datasets.Image())
    return (row["image"].convert("RGB") for row in feature)


def ours(pictures: list[Picture], readers: int) -> Iterable[Image.Image]:
    with PicturePrefetcher(pictures, readers) as ahead:
        for start in range(0, len(pictures), BATCH):
            batch = pictures[start : start + BATCH]
            ahead.wait(batch)
            yield from (one.load() for one in batch)


def measured(folder: Path, kind: str, count: int, readers: int) -> dict[str, Any]:
    file = made(folder, kind, count)
    found: dict[str, Any] = {}
    if importlib.util.find_spec("datasets"):
        plain(file)  # its Arrow conversion is not counted
        found["datasets and PIL"] = timed(lambda: plain(file))
        found["datasets and PIL, beside a model"] = timed(lambda: plain(file), MODEL_SECONDS)
    began = time.perf_counter()
    pictures = [row.picture for row in read_index([file], Columns(required=("n",)))]
    found["index_s"] = round(time.perf_counter() - began, 3)
    began = time.perf_counter()
    read_index([file], Columns(required=("n",)))
    found["index_again_s"] = round(time.perf_counter() - began, 3)
    for name, workers, rest in (
        ("0 readers", 0, 0.0),
        (f"{readers} readers", readers, 0.0),
        (f"{readers} readers, beside a model", readers, MODEL_SECONDS),
    ):
        os.environ["VLMPROF_CACHE"] = str(folder / f"{kind} {name}")
        found[f"vlmprof cold, {name}"] = timed(partial(ours, pictures, workers), rest)
    found["vlmprof warm"] = timed(lambda: ours(pictures, 0))
    found["vlmprof warm, beside a model"] = timed(lambda: ours(pictures, 0), MODEL_SECONDS)
    kept = sum(entry.stat().st_size for entry in (folder / f"{kind} 0 readers").rglob("*.arrow"))
    found["cache_mb_per_picture"] = round(kept / count / 1e6, 3)
    return found


def machine() -> dict[str, object]:
    packages = {name: version(name) for name in ("pillow", "pyarrow", "numpy")}
    if importlib.util.find_spec("datasets"):
        packages["datasets"] = version("datasets")
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "machine": platform.machine(),
        **packages,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--readers", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"VLMPROF_CACHE": f"{name}/cache", "HF_HUB_OFFLINE": "1"}
        folder = Path(name)
        found = {
            "machine": machine(),
            "photos": measured(folder, "photos", asked.photos, asked.readers),
            "pages": measured(folder, "pages", asked.pages, asked.readers),
        }
    json.dump(found, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
