"""Room for Ray on this machine: the folders that it writes to, looked at before it is started.

By itself it waits half a minute for files that it could not write, and says which only in the trace of an error.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from vlmprof.errors import UserError

ROOM_BYTES = 64 * 2**20
"""Of logs and sockets in a session of Ray, with plenty to spare."""


def require_room() -> None:
    """Check the folders of temporary files and of Ray's token.

    Raises:
        UserError: nothing can be written in one, or it is full; says how to name another.
    """
    named = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    _require_writable(Path(named), ROOM_BYTES, "Ray keeps its files in", "set RAY_TMPDIR to another")
    try:
        scratch = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UserError(f"{error.strerror}; set TMPDIR to a folder that can be written") from None
    _require_writable(scratch, ROOM_BYTES, "Ray Tune keeps its files in", "set TMPDIR to another")
    if os.environ.get("RAY_AUTH_MODE") == "token" and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        _require_token_folder()


def _require_token_folder() -> None:
    try:
        folder = Path.home() / ".ray"
    except RuntimeError as error:
        raise UserError(f"{error}, where Ray keeps its token; set HOME") from None
    if not (folder / "auth_token").is_file():
        other = "set HOME to another folder, or RAY_AUTH_TOKEN_PATH to a file with a token"
        _require_writable(folder, 0, "Ray keeps its token in", other)


def _require_writable(folder: Path, room_bytes: int, what: str, other: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free >= room_bytes:
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(b"x")
                probe.flush()
            return
        reason = f"{free / 2**20:.0f} MiB are free and {room_bytes / 2**20:.0f} MiB are needed"
    except OSError as error:
        reason = f"nothing can be written ({error.strerror})"
    raise UserError(f"{what} {folder}, where {reason}; {other}, or run with --inline")
