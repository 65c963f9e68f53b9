"""``fetch``: the results of a submitted sweep, brought here through the cluster's Jobs API.

What comes is not trusted: a path must stay inside the folder and be of a kind that results are made of, every file must
be what its sha256 says, and each is renamed into place when it is whole. What came before a broken connection is kept,
and not sent again.
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
from vlmprof.submit.client import FETCH, KIND, JobsClient
from vlmprof.submit.export import HAVE, ID, KINDS, MARK
from vlmprof.submit.submission import Submission

TRIES = 3
FOLLOW_S = 10.0
"""Between two fetches of a sweep that runs; well below the silence that means that nobody writes any more."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """What a fetch brought."""

    files: int
    came: int
    """Of them, those that were not here yet."""
    bytes: int
    place: str
    """Host and folder they came from."""


def fetch(jobs: JobsClient, submission: Submission, folder: Path) -> FetchResult:
    """Bring a sweep's tables and ledger into a folder.

    Raises:
        UserError: the sweep has no results yet, the folder holds something else, or what came is not what was sent.
    """
    _require_room(folder, submission)
    found, where = jobs.wait_for_startup(submission.id, patience_s=60)
    if where is None or not where.results:
        raise NothingYet(f"{found.id} ({found.state.lower()}) has written nothing yet")
    folder.mkdir(parents=True, exist_ok=True)
    came, received = 0, 0
    for _ in range(TRIES):
        unpacker = _receive(jobs, where.results, folder)
        came, received = came + unpacker.came, received + unpacker.received
        if unpacker.files:
            place = f"{where.host}:{where.results}"
            return FetchResult(files=unpacker.files, came=came, bytes=received, place=place)
    raise UserError(f"the connection broke {TRIES} times; {came} files are here, fetch again for the rest")


def _receive(jobs: JobsClient, results: str, folder: Path) -> Unpacker:
    """One job on the cluster that sends what is not here yet."""
    id_ = f"{ID}{uuid.uuid4().hex[:10]}"
    have = {str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in _kept(folder).items()}
    unpacker = Unpacker(folder)
    command = f"exec python -m vlmprof.submit.export {shlex.quote(results)}"
    with tempfile.TemporaryDirectory(prefix="vlmprof-have-") as bundle:
        if have:
            (Path(bundle) / HAVE).write_text(json.dumps(have), encoding="utf-8")
        jobs.run(id_, f"{command} {HAVE}" if have else command, {KIND: FETCH}, bundle if have else "")
    try:
        ended = jobs.follow(id_, unpacker.take)
    finally:
        with suppress(UserError):  # one that still runs stays on Ray's list
            jobs.forget(id_)
    if ended.state != "SUCCEEDED":
        raise UserError(f"the cluster could not send the results: {unpacker.other[-1:] or ended.said[:200]}")
    return unpacker


def follow(jobs: JobsClient, submission: Submission, folder: Path, tell: Callable[[FetchResult], None]) -> None:
    """Fetch again and again until the sweep has ended, and once more then.

    Raises:
        UserError: as ``fetch``; a sweep that has not begun to write is waited for.
    """
    while True:
        over = jobs.info(submission.id).ended
        try:
            tell(fetch(jobs, submission, folder))
        except NothingYet:
            if over:
                raise
        if over:
            return
        time.sleep(FOLLOW_S)


@final
class Unpacker:
    """Takes the log of an export apart, and lays its files down."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rest = ""
        self._open: dict[str, Any] | None = None
        self._content = bytearray()
        self._seen = 0
        self.files = 0
        """All that there are; 0 until the end has come."""
        self.came, self.received = 0, 0
        self.other: list[str] = []
        """Lines that are none of an export's."""

    def take(self, text: str) -> None:
        """The next part of the log.

        Raises:
            UserError: what comes is damaged, or leads out of the folder.
        """
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith(MARK):
                self._piece(_parsed(line.removeprefix(MARK)))
            else:
                self.other.append(line[:200])

    def _piece(self, piece: Mapping[str, Any]) -> None:
        kind = piece.get("is")
        if kind == "error":
            raise NothingYet(str(piece["why"]))
        if kind == "file":
            self._open, self._content = dict(piece), bytearray()
        elif kind == "data" and self._open:
            self._content += _decoded(piece["base64"])
        elif kind == "whole" and self._open:
            self._lay_down(self._open)
        elif kind == "same":
            self._seen += 1
        elif kind == "end":
            if piece["files"] != self._seen:
                raise UserError(f"{self._seen} of {piece['files']} files came; fetch again for the rest")
            self.files = self._seen
        else:
            raise UserError(f"the cluster sent what no export sends: '{kind}'; its vlmprof is another version")

    def _lay_down(self, said: Mapping[str, Any]) -> None:
        target = inside(self._folder, str(said["name"]))
        if hashlib.sha256(self._content).hexdigest() != said["sha256"]:
            raise UserError(f"{said['name']} came damaged; fetch again")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(self._content)
        partial.replace(target)
        self._open = None
        self._seen, self.came, self.received = self._seen + 1, self.came + 1, self.received + len(self._content)


def inside(folder: Path, name: str) -> Path:
    """Where a file that a cluster names may go.

    Raises:
        UserError: it leads out of the folder, or is of a kind that no results folder holds.
    """
    path = PurePosixPath(name)
    hidden = name != HEARTBEAT and any(part.startswith(".") for part in path.parts)
    sound = path.parts and not path.is_absolute() and not hidden
    if not sound or "\\" in name or "\0" in name or path.suffix not in KINDS:
        raise UserError(f"the cluster names a file '{name}', which has no place in results; nothing was written")
    target = folder / path
    if target.is_symlink() or not target.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"'{name}' leads out of {folder} by a link; nothing was written")
    return target


def _parsed(line: str) -> dict[str, Any]:
    try:
        piece = json.loads(line)
    except ValueError:
        piece = None
    if not isinstance(piece, dict):
        raise UserError("what came is damaged; fetch again")
    return piece


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise UserError("what came is damaged; fetch again") from None


def _kept(folder: Path) -> dict[PurePosixPath, Path]:
    found = (path for path in folder.rglob("*") if path.suffix in KINDS and path.is_file() and not path.is_symlink())
    return {PurePosixPath(path.relative_to(folder).as_posix()): path for path in found}


def _require_room(folder: Path, submission: Submission) -> None:
    """A folder that is not there, empty, or holds the same sweep."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / LEDGER).is_file():
        raise StoreError(
            f"{folder} is there and holds no sweep; name a folder that is new, empty, or was fetched before"
        )
    names = {entry["name"] for entry in read(folder) if entry["event"] == "sweep"}
    if names != {submission.name}:
        held = ", ".join(sorted(names)) or "no named one"
        raise StoreError(f"{folder} holds another sweep ({held}), and {submission.id} is of '{submission.name}'")
