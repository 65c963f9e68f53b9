"""``fetch``: download the results of a submitted sweep through the cluster's Jobs API.

What arrives is not trusted: a path must stay inside the folder and have a file type of a results folder, every file
must match its sha256, and it is renamed into place only when it is complete. Files that arrived before a connection
broke are kept, and not sent again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import shlex
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, final

from vlmprof.errors import NothingYet, StoreError, UserError
from vlmprof.store.heartbeat import HEARTBEAT
from vlmprof.store.ledger import LEDGER, read
from vlmprof.submit.client import JobsClient
from vlmprof.submit.export import HAVE, ID, KINDS, MARK
from vlmprof.submit.origin import FETCH, KIND
from vlmprof.submit.submission import Submission

TRIES = 3
FOLLOW_S = 10.0
"""Between two fetches of a running sweep: well below the age at which its heartbeat counts as stale."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """What a fetch downloaded."""

    files: int
    """Files of the results folder."""
    new_files: int
    """Those that were downloaded, because they were not here yet."""
    bytes: int
    """Downloaded."""
    source: str
    """Host and folder on the cluster."""


def fetch(jobs: JobsClient, submission: Submission, folder: Path) -> FetchResult:
    """Download a sweep's tables and ledger into a folder.

    Raises:
        UserError: the sweep has no results yet, the folder holds something else, or the transfer was damaged.
    """
    _require_usable(folder, submission)
    current, report = jobs.wait_for_startup(submission.id, timeout_s=60)
    if report is None or not report.results:
        raise NothingYet(f"{current.id} ({current.state.lower()}) has written nothing yet")
    folder.mkdir(parents=True, exist_ok=True)
    new_files, received = 0, 0
    for _ in range(TRIES):
        unpacker = _receive(jobs, report.results, folder)
        new_files, received = new_files + unpacker.new_files, received + unpacker.received
        if unpacker.files:
            source = f"{report.host}:{report.results}"
            return FetchResult(files=unpacker.files, new_files=new_files, bytes=received, source=source)
    raise UserError(f"the connection broke {TRIES} times; {new_files} files have arrived, fetch again for the rest")


def _receive(jobs: JobsClient, results: str, folder: Path) -> Unpacker:
    """Run one job on the cluster that sends the files that are not here yet."""
    id_ = f"{ID}{uuid.uuid4().hex[:10]}"
    have = {str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in _local_files(folder).items()}
    unpacker = Unpacker(folder)
    command = f"exec python -m vlmprof.submit.export {shlex.quote(results)}"
    with tempfile.TemporaryDirectory(prefix="vlmprof-have-") as bundle:
        if have:
            (Path(bundle) / HAVE).write_text(json.dumps(have), encoding="utf-8")
        jobs.run(id_, f"{command} {HAVE}" if have else command, {KIND: FETCH}, bundle if have else "")
    try:
        ended = jobs.follow(id_, unpacker.take)
    finally:
        with suppress(UserError):  # Ray refuses to delete a job that still runs
            jobs.delete(id_)
    if ended.state != "SUCCEEDED":
        raise UserError(f"the cluster could not send the results: {unpacker.other[-1:] or ended.message[:200]}")
    return unpacker


def follow(jobs: JobsClient, submission: Submission, folder: Path, report: Callable[[FetchResult], None]) -> None:
    """Fetch repeatedly until the sweep has ended, and a last time after that.

    Raises:
        UserError: see ``fetch``; but waits for a sweep that has not begun to write.
    """
    while True:
        over = jobs.info(submission.id).ended
        try:
            report(fetch(jobs, submission, folder))
        except NothingYet:
            if over:
                raise
        if over:
            return
        time.sleep(FOLLOW_S)


@final
class Unpacker:
    """Parses the log of an export, and writes its files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rest = ""
        """An incomplete last line."""
        self._header: dict[str, Any] | None = None
        """Header of the file that is being received."""
        self._content = bytearray()
        self._count = 0
        """Files that are complete here, new or not."""
        self.files = 0
        """Files of the results folder; 0 until the end marker has arrived."""
        self.new_files, self.received = 0, 0
        self.other: list[str] = []
        """Lines that the export did not print."""

    def take(self, text: str) -> None:
        """Process the next part of the log.

        Raises:
            UserError: the data are damaged, or a path leads out of the folder.
        """
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith(MARK):
                self._apply(_parsed(line.removeprefix(MARK)))
            else:
                self.other.append(line[:200])

    def _apply(self, piece: Mapping[str, Any]) -> None:
        kind = piece.get("is")
        if kind == "error":
            raise NothingYet(str(piece["why"]))
        if kind == "file":
            self._header, self._content = dict(piece), bytearray()
        elif kind == "data" and self._header:
            self._content += _decoded(piece["base64"])
        elif kind == "whole" and self._header:
            self._write_file(self._header)
        elif kind == "same":
            self._count += 1
        elif kind == "end":
            if piece["files"] != self._count:
                raise UserError(f"{self._count} of {piece['files']} files arrived; fetch again for the rest")
            self.files = self._count
        else:
            raise UserError(f"the cluster sent an unknown piece '{kind}'; its vlmprof is another version")

    def _write_file(self, header: Mapping[str, Any]) -> None:
        target = inside(self._folder, str(header["name"]))
        if hashlib.sha256(self._content).hexdigest() != header["sha256"]:
            raise UserError(f"{header['name']} arrived damaged; fetch again")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(self._content)
        partial.replace(target)
        self._header = None
        self._count, self.new_files = self._count + 1, self.new_files + 1
        self.received += len(self._content)


def inside(folder: Path, name: str) -> Path:
    """The local path for a file name that the cluster sent.

    Raises:
        UserError: it leads out of the folder, or has a file type that no results folder contains.
    """
    path = PurePosixPath(name)
    hidden = name != HEARTBEAT and any(part.startswith(".") for part in path.parts)
    valid = path.parts and not path.is_absolute() and not hidden
    if not valid or "\\" in name or "\0" in name or path.suffix not in KINDS:
        raise UserError(f"the cluster sent a file '{name}', which no results folder contains; it was not written")
    target = folder / path
    if target.is_symlink() or not target.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"'{name}' leads out of {folder} by a link; it was not written")
    return target


def _parsed(line: str) -> dict[str, Any]:
    try:
        piece = json.loads(line)
    except ValueError:
        piece = None
    if not isinstance(piece, dict):
        raise UserError("the data arrived damaged; fetch again")
    return piece


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise UserError("the data arrived damaged; fetch again") from None


def _local_files(folder: Path) -> dict[PurePosixPath, Path]:
    files = (path for path in folder.rglob("*") if path.suffix in KINDS and path.is_file() and not path.is_symlink())
    return {PurePosixPath(path.relative_to(folder).as_posix()): path for path in files}


def _require_usable(folder: Path, submission: Submission) -> None:
    """Refuse a folder unless it does not exist, is empty, or holds the same sweep."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / LEDGER).is_file():
        raise StoreError(f"{folder} exists and holds no sweep; name a folder that is new, empty, or was fetched before")
    names = {entry["name"] for entry in read(folder) if entry["event"] == "sweep"}
    if names != {submission.name}:
        other = ", ".join(sorted(names)) or "no named one"
        raise StoreError(f"{folder} holds another sweep ({other}), and {submission.id} is of '{submission.name}'")
