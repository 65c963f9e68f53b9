"""How much a job may list, and which paths it may name: bounds that no person meets."""

from __future__ import annotations

import os
from typing import Any

from vlmprof.errors import as_written

MOST_ENTRIES = 200
"""Models, tasks or knobs of a job."""
LONGEST_NAME, LONGEST_PATH = 255, 4096
"""Bytes of one part of a path and of all of it, which Linux allows."""


def usable_path(text: str) -> str:
    """A path, a URI or a Hub id that the file system can be asked about."""
    if len(os.fsencode(text)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in text.split("/")):
        raise ValueError(f"expected a path that a file system can have, got {as_written(text)}")
    home = text.partition("/")[0]
    if home.startswith("~") and os.path.expanduser(home) == home:  # noqa: PTH111 (pathlib raises)
        raise ValueError(f"there is no home folder {as_written(home)} here")
    return text


def few(value: Any) -> Any:
    """The entries of a list or a mapping, as long as they can each be looked at."""
    if isinstance(value, list | tuple | dict) and len(value) > MOST_ENTRIES:
        raise ValueError(f"expected at most {MOST_ENTRIES} entries, got {len(value):,}")
    return value
