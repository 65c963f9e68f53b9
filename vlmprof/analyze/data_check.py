"""Whether a task's data are what the task expects: files, columns, counts, reference answers and pictures. No model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from vlmprof.errors import UserError
from vlmprof.records import Example, Picture
from vlmprof.tasks._data.decode import described
from vlmprof.tasks._data.pictures import StoredPicture
from vlmprof.tasks.task import Task, TaskRow, frame_notes

MOST_SIZES = 5


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataFault:
    """One thing wrong with the data."""

    where: str
    """The file and the row; empty for what concerns the split as a whole."""
    sample: str
    """Id of the sample; empty where the row gives none."""
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheck:
    """What a split holds, and everything that is wrong with it."""

    task: str
    split: str
    revision: str
    samples: int
    """Sound or not; rows that are no part of the task are not counted."""
    published: int | None
    """Number of samples as published; None where it is not known."""
    pictures: int
    """Different pictures."""
    sizes: tuple[tuple[tuple[int, int], int], ...]
    """((width, height), samples), the most frequent first."""
    faults: tuple[DataFault, ...]
    notes: tuple[str, ...]


def data_check(
    task: Task, split: str, *, pixels: bool = True, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> DataCheck:
    """Read a whole split and judge every row, reference answer and picture.

    Args:
        task: The task, on the data to check.
        split: Name of the split; empty for the default.
        pixels: Decode every picture; otherwise only headers are read, which do not show that pixels are missing.
        progress: Wraps the samples while they are looked at.

    Raises:
        UserError: a file is missing or is not of the task's layout.
    """
    split = task.split(split)
    rows = list(task.rows(split)) if task.rows else [TaskRow(where="", example=one) for one in task.examples(split)]
    faults = [DataFault(where=row.where, sample="", reason=row.fault) for row in rows if row.fault]
    found = [(row.where, row.example) for row in rows if row.example is not None]
    faults += _repeated(found)
    seen: dict[Any, str] = {}
    for where, example in progress(found):
        reasons = [*_about_gold(task, example), *_about_picture(example.picture, seen, pixels=pixels)]
        faults += [DataFault(where=where, sample=example.id, reason=reason) for reason in reasons]
    examples = [example for _, example in found]
    samples, published = len(found) + sum(bool(row.fault) for row in rows), task.published.get(split)
    if not samples:
        faults.append(DataFault(where="", sample="", reason="the files hold no sample"))
    if published is not None and samples != published:
        reason = f"{samples:,} samples, where {published:,} are published: files are missing, or rows"
        faults.append(DataFault(where="", sample="", reason=reason))
    return DataCheck(
        task=task.name,
        split=split,
        revision=task.revision,
        samples=samples,
        published=published,
        pictures=len(seen),
        sizes=tuple(_sizes(examples).most_common(MOST_SIZES)),
        faults=tuple(faults),
        notes=(*task.notes, *frame_notes(task.name, examples)),
    )


def _repeated(found: Sequence[tuple[str, Example]]) -> Iterator[DataFault]:
    first: dict[str, str] = {}
    for where, example in found:
        if example.id in first:
            reason = f"the id '{example.id}' is that of {first[example.id]} too; ids must be unique"
            yield DataFault(where=where, sample=example.id, reason=reason)
        first.setdefault(example.id, where)


def _about_gold(task: Task, example: Example) -> Iterator[str]:
    """What is wrong with the reference answers of a task without rows; where there are rows, they say it."""
    if task.rows is None:
        try:
            task.metric.check_gold(example)
        except UserError as error:
            yield str(error)


def _about_picture(picture: Picture, seen: dict[Any, str], *, pixels: bool) -> Iterator[str]:
    """What is wrong with a picture; one that several samples share is decoded once."""
    key = picture.load.key if isinstance(picture.load, StoredPicture) else picture.load
    if key not in seen:
        seen[key] = picture.fault or (_fault_of_pixels(picture) if pixels else "")
    if seen[key]:
        yield seen[key]


def _fault_of_pixels(picture: Picture) -> str:
    load = picture.load.decode if isinstance(picture.load, StoredPicture) else picture.load
    try:
        image = load()
    except Exception as error:  # whatever a decoder raises is what is wrong with the picture
        return described(error)
    if image.size != (picture.width, picture.height):
        return f"it is {image.size[0]} x {image.size[1]} pixels, and {picture.width} x {picture.height} were expected"
    return ""


def _sizes(examples: Sequence[Example]) -> Counter[tuple[int, int]]:
    sound = (example.picture for example in examples if not example.picture.fault)
    return Counter((picture.width, picture.height) for picture in sound)
