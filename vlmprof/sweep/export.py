"""``python -m vlmprof.sweep.export FOLDER [HAVE]``: a results folder on standard output, for ``sweep.fetch``.

Runs as a small job on the cluster, because the folder may be on the head's disk alone. A line a piece: what is a line
of ours begins with ``MARK``. Every file comes with its sha256. The ledger is read first and sent last: what it lists
was there before it was read, and a fetch that is cut off lists nothing that did not come.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmprof.store import journal
from vlmprof.store.journal import LEDGER
from vlmprof.store.place import at

MARK = "vlmprof-fetch "
KINDS = (".parquet", ".jsonl", ".json")
"""What a results folder is made of; nothing else is sent, and nothing else is taken."""
PIECE_BYTES = 45_000
"""A multiple of three, so that the pieces of a file are one base64 text."""
HAVE = "have.json"
ID = "vlmprof-fetch-"
"""Before the id of a job that sends results."""
KEPT_S = 3600
"""How long the log of such a job, which holds a copy of the results, is left on the head."""


def pieces(folder: Path, have: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What is said about a folder, and what is in it.

    Args:
        folder: With a ledger in it.
        have: Path -> sha256 of what the receiver holds already; only its name is sent again.
    """
    if not journal.exists(at(folder)):
        yield {"is": "error", "why": f"there is no {LEDGER} in {folder}: no sweep has begun to write there"}
        return
    lines = b"".join(journal.read_lines(at(folder)))  # one file there, however it lies here
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.suffix in KINDS]
    sent = 0
    for name in names:
        parts = Path(name).parts
        if parts[0] in (LEDGER, journal.SEGMENTS) or any(part.startswith(".") for part in parts):
            continue
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            continue  # replaced by a newer form of itself in between
        yield from _file(name, content, have)
        sent += 1
    yield from _file(LEDGER, lines, have)
    yield {"is": "end", "files": sent + 1, "folder": str(folder)}


def _file(name: str, content: bytes, have: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    digest = hashlib.sha256(content).hexdigest()
    if have.get(name) == digest:
        yield {"is": "same", "name": name}
        return
    yield {"is": "file", "name": name, "bytes": len(content), "sha256": digest}
    for start in range(0, len(content), PIECE_BYTES):
        yield {"is": "data", "base64": base64.b64encode(content[start : start + PIECE_BYTES]).decode()}
    yield {"is": "whole", "name": name}


def main(arguments: list[str]) -> None:
    """Print the pieces."""
    have = json.loads(Path(HAVE).read_text(encoding="utf-8")) if HAVE in arguments[1:] else {}
    for piece in pieces(Path(arguments[0]), have):
        sys.stdout.write(f"{MARK}{json.dumps(piece)}\n")
    sys.stdout.flush()
    log = Path(f"/proc/self/fd/{sys.stdout.fileno()}").resolve()
    if log.name.startswith(f"job-driver-{ID}"):
        clean(log)


def clean(log: Path) -> None:
    """Remove the logs of earlier exports beside this one's: each is a copy of results, and Ray keeps logs for good."""
    for other in log.parent.glob(f"job-driver-{ID}*.log"):
        if other != log and time.time() - other.stat().st_mtime > KEPT_S:
            other.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
