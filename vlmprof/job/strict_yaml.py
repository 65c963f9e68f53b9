"""YAML without its traps: no tags that run code, no key given twice. The only module that reads YAML.

A job comes as the path of a file, as text or as a mapping; ``job_text`` makes one text of all three, so that they are
checked by the same code and mean the same.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import yaml

from vlmprof.errors import Fault, SpecError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobText:
    """A job as YAML, and where it came from."""

    text: str
    """As its author wrote it; a mapping written as YAML."""
    source: str
    """What messages call it: the path of its file, or ``job``."""


JobSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | JobText
"""How callers may give a job. A ``str`` with a line break is the text of a job; any other is the path of a file."""
UNNAMED = "job"


@final
class _Loader(yaml.SafeLoader):
    """SafeLoader that notices a key given twice, which YAML forbids and PyYAML lets pass."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.twice: list[Fault] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in seen:
                self.twice.append(Fault(field=str(key), problem=f"given twice, on lines {seen[key]} and {line}"))
            seen[key] = line
        return super().construct_mapping(node, deep)


def job_text(job: JobSource) -> JobText:
    """The job as text; ``JobSource`` says which ``str`` is a path and which is a text.

    Raises:
        SpecError: the file cannot be read, or the mapping holds values that YAML has no form for; all are named.
        TypeError: it is neither a path nor a text nor a mapping.
    """
    if isinstance(job, JobText):
        return job
    if isinstance(job, Mapping):
        faults: list[Fault] = []
        plain = _plain(job, "", faults)
        if faults:
            raise SpecError(UNNAMED, faults)
        return JobText(text=written(plain), source=UNNAMED)
    if isinstance(job, str) and "\n" in job:
        return JobText(text=job, source=UNNAMED)
    if not isinstance(job, str | os.PathLike):
        raise TypeError(f"a job is a path, a text or a mapping, got {type(job).__name__}")
    path = Path(job)
    try:
        return JobText(text=path.read_text(encoding="utf-8"), source=str(path))
    except OSError as error:
        raise SpecError(str(path), [Fault(field="", problem=f"cannot be read: {error.strerror}")]) from None


def _plain(value: Any, field: str, faults: list[Fault]) -> Any:
    """A value in the types that YAML has, also where numpy or ``pathlib`` have their own; adds a fault where none fits.

    Every list and mapping is copied: one that stands in two places would be written as an anchor and a reference to it.
    """
    if isinstance(value, Mapping):
        return {_plain(key, field, faults): _plain(item, _below(field, key), faults) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [_plain(item, _below(field, place), faults) for place, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    for accepted, plain in _SCALARS:
        if isinstance(value, accepted):
            return plain(value)
    expected = "expected text, a number, true, false, null, a list or a mapping"
    faults.append(Fault(field=field, problem=f"{expected}, got {value!r} of type {type(value).__name__}"))
    return None


_SCALARS: Sequence[tuple[type, Any]] = (
    (str, str.__str__),
    (os.PathLike, os.fspath),
    (numbers.Integral, int),
    (numbers.Real, float),
)


def _below(field: str, key: object) -> str:
    return f"{field}.{key}" if field else str(key)


def read(path: Path) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The mapping in a file, or None, and what is wrong with it as YAML.

    Raises:
        OSError: the file cannot be read.
    """
    return parse(path.read_text(encoding="utf-8"))


def parse(text: str) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The mapping in a text, or None, and what is wrong with it as YAML."""
    loader = _Loader(text)
    try:
        raw = loader.get_single_data()
    except (yaml.YAMLError, TypeError) as error:  # TypeError: an unhashable key
        return None, [Fault(field="", problem=f"is not YAML: {' '.join(str(error).split())}")]
    finally:
        loader.dispose()
    if not isinstance(raw, dict):
        expected = "a job is a mapping with at least name, models, tasks and knobs"
        return None, [Fault(field="", problem=f"{expected}; got {raw!r}")]
    return raw, loader.twice


def written(raw: dict[str, Any]) -> str:
    """The same mapping as a file that ``read`` gives back; comments are not kept."""
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
