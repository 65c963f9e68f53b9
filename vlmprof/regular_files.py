"""Reading files that come from outside: regular ones only, up to a size, and JSON that may be anything.

A pipe would wait for a writer, a device may have no end, and a sparse file of any size costs nothing to make. Whatever
a job, a data set, a checkpoint or a results folder names is opened here.
"""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import fields
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Value = TypeVar("_Value", bound="DataclassInstance")


def open_regular(path: Path | str, most_bytes: int) -> BufferedReader:
    """A regular file, opened for reading.

    Raises:
        OSError: there is no such file, it cannot be read, is larger, or is a folder, a device or a pipe.
    """
    stream = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 (returned open)
    try:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        if status.st_size > most_bytes:
            raise _too_large(str(path), most_bytes)
    except BaseException:
        stream.close()
        raise
    return stream


def read_regular(path: Path | str, most_bytes: int) -> bytes:
    """The bytes of a regular file; raises as ``open_regular`` does."""
    with open_regular(path, most_bytes) as stream:
        return read_at_most(stream, most_bytes)


def read_at_most(stream: BufferedReader, most_bytes: int) -> bytes:
    """All that is left of a file that was opened with ``open_regular``.

    Raises:
        OSError: it grows beyond the limit while it is read.
    """
    content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise _too_large(str(stream.name), most_bytes)
    return content


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in bytes that may be damaged; an empty one where they hold none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # also of no bytes; brackets in brackets in brackets
        return {}
    return value if isinstance(value, dict) else {}


def sound(value: _Value) -> _Value:
    """The same instance of a dataclass, if what its fields call a number, a truth or a text is one in JSON's sense.

    Raises:
        ValueError: one is not, or is a number that is not finite.
    """
    for one in fields(value):
        name, _, optional = str(one.type).partition(" | ")
        content = getattr(value, one.name)
        kinds = _KINDS.get(name)
        if kinds is None or (content is None and optional == "None"):
            continue
        if not isinstance(content, kinds) or (isinstance(content, bool) and bool not in kinds):
            raise ValueError(f"{one.name} is {content!r}")
        if isinstance(content, float) and not math.isfinite(content):
            raise ValueError(f"{one.name} is {content!r}")
    return value


_KINDS: dict[str, tuple[type, ...]] = {
    "float": (int, float), "int": (int,), "bool": (bool,), "str": (str,), "Step": (str,), "Outcome": (str,),
}  # fmt: skip
"""Type as a field is annotated -> what JSON has for it."""


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _too_large(name: str, most_bytes: int) -> OSError:
    most = f"{most_bytes / 2**30:.3g} GiB" if most_bytes >= 2**30 else f"{most_bytes / 2**20:.3g} MiB"
    return OSError(f"{name} is larger than {most}, the most that is read of such a file")
