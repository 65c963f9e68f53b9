"""Pictures in files, the cache of decoded ones, and the processes that fill it."""

import io
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tasks.public import picture, write_parquet
from vlmprof.records import Picture
from vlmprof.tasks._data import prefetch
from vlmprof.tasks._data.cache import PixelCache
from vlmprof.tasks._data.index import Columns, read_index
from vlmprof.tasks._data.pictures import StoredPicture, header_size
from vlmprof.tasks._data.prefetch import PicturePrefetcher

IMAGE = Columns(required=("n",))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    write_parquet(tmp_path / "p.parquet", [{"n": n, "image": {"bytes": picture(n), "path": ""}} for n in range(17)])
    return [row.picture for row in read_index([tmp_path / "p.parquet"], IMAGE)]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_every_row_finds_its_own_picture(pictures: list[Picture]) -> None:
    for n in (16, 0, 9, 4, 5):  # row groups hold five
        with Image.open(io.BytesIO(picture(n))) as expected:
            assert (pixels(pictures[n].load()) == pixels(expected.convert("RGB"))).all()


def test_the_second_time_nothing_is_decoded(pictures: list[Picture], monkeypatch: pytest.MonkeyPatch) -> None:
    first = [pixels(one.load()).copy() for one in pictures]

    def refuse(self: StoredPicture) -> bytes:
        raise AssertionError("decoded twice")

    monkeypatch.setattr(StoredPicture, "encoded", refuse)
    for one, before in zip(pictures, first, strict=True):
        again = one.load()
        assert again.mode == "RGB" and (pixels(again) == before).all()


def test_the_index_is_read_once(pictures: list[Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmprof.tasks._data.index.examine", None)  # would fail if a header were read
    again = read_index([tmp_path / "p.parquet"], IMAGE)
    assert [row.picture.width for row in again] == [one.width for one in pictures]
    assert [row.values["n"] for row in again] == list(range(17))


def test_a_camera_s_rotation_counts_for_size_and_pixels(tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (30, 20)), Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert header_size(tmp_path / "turned.jpg") == (20, 30)
    assert StoredPicture(path=str(tmp_path / "turned.jpg"), key="t").decode().size == (20, 30)


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_missing_or_broken_picture_fails_when_it_is_opened(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    (tmp_path / "q.jsonl").write_text('{"n": 1, "image": "x.png"}')
    (row,) = read_index([tmp_path / "q.jsonl"], IMAGE)
    with pytest.raises(OSError, match=r"x\.png|cannot identify"):
        row.picture.load()


@pytest.mark.parametrize("kind", ["page", "photo"])
def test_the_cache_gives_back_what_was_put_compressed_or_not(tmp_path: Path, kind: str) -> None:
    side, cache = 256, PixelCache(tmp_path / "c", 10 * 2**20)
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    image = Image.fromarray(noise if kind == "photo" else np.full_like(noise, 255))
    cache.put("k", image)
    kept = cache.get("k")
    assert kept is not None and (pixels(kept) == pixels(image)).all()
    size = (tmp_path / "c" / "k.arrow").stat().st_size
    assert (size < side * side * 3 / 10) == (kind == "page")


def test_the_cache_stays_within_its_bound_and_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    one = 64 * 64 * 3
    cache = PixelCache(tmp_path / "c", 6 * (one + 1024))
    noise = np.random.default_rng(2)
    for n in range(12):
        cache.put(str(n), Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)))
        time.sleep(0.002)  # the order of use is a time on the disk
        assert cache.get("0") is not None, "used again and again"
        time.sleep(0.002)
    kept = list((tmp_path / "c").iterdir())
    assert sum(path.stat().st_size for path in kept) <= 6 * (one + 1024)
    assert "11" in cache and "1" not in cache


def test_a_bound_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "c", 0)
    assert cache.put("k", Image.new("RGB", (8, 8))).size == (8, 8)
    assert not (tmp_path / "c").exists() and cache.get("k") is None


def test_workers_decode_ahead_and_none_is_left(pictures: list[Picture], cache: Path) -> None:
    with PicturePrefetcher(pictures, workers=2) as ahead:
        ahead.wait(pictures[:9])
        kept = PixelCache.default()
        assert all(one.load.key in kept for one in pictures[:9])  # type: ignore[attr-defined]
        processes = list(ahead._processes)
        assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)
    assert not list(cache.rglob("*.partial"))


def test_a_worker_ends_when_its_input_closes() -> None:
    with subprocess.Popen(prefetch.COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_a_picture_that_a_worker_cannot_read_is_left_to_who_opens_it(tmp_path: Path) -> None:
    broken = Picture(width=1, height=1, load=StoredPicture(path=str(tmp_path / "none.png"), key="none"))
    with PicturePrefetcher([broken], workers=1) as ahead:
        ahead.wait([broken])
        with pytest.raises(FileNotFoundError):
            broken.load()


def test_a_worker_that_is_killed_holds_nobody_up(pictures: list[Picture]) -> None:
    with PicturePrefetcher(pictures, workers=1) as ahead:
        for process in ahead._processes:
            process.kill()
        ahead.wait(pictures)
        assert pictures[3].load().size == (pictures[3].width, pictures[3].height)


def test_pictures_in_no_file_start_no_process() -> None:
    drawn: Callable[[], Image.Image] = lambda: Image.new("RGB", (4, 4))  # noqa: E731
    one = Picture(width=4, height=4, load=drawn)
    with PicturePrefetcher([one], workers=2) as ahead:
        ahead.wait([one])
        assert ahead._processes == []


def test_no_more_are_decoded_than_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "WINDOW", 3)
    (tmp_path / "a.png").write_bytes(picture(1))
    many = [
        Picture(width=1, height=1, load=StoredPicture(path=str(tmp_path / "a.png"), key=f"k{n}")) for n in range(20)
    ]
    with PicturePrefetcher(many, workers=1) as ahead:
        ahead.wait(many[:2])
        time.sleep(0.3)
        assert len(ahead._done) <= 2 + 3
