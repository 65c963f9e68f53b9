"""Reading files that come from outside: regular ones only, up to a size, and JSON that may be anything.

A pipe would wait for a writer, a device may have no end, and a sparse file of any size costs nothing to make. Whatever
a job, a data set, a checkpoint or a results folder names is opened here.
"""

from __future__ import annotations

import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any


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


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _too_large(name: str, most_bytes: int) -> OSError:
    most = f"{most_bytes / 2**30:.3g} GiB" if most_bytes >= 2**30 else f"{most_bytes / 2**20:.3g} MiB"
    return OSError(f"{name} is larger than {most}, the most that is read of such a file")
