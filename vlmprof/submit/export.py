"""``python -m vlmprof.submit.export FOLDER [HAVE]``: a results folder on standard output, for ``submit.fetch``.

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
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from vlmprof.store import ledger_log
from vlmprof.store.filesystem import ResultsFolder, Where, results_folder
from vlmprof.store.heartbeat import HEARTBEAT
from vlmprof.store.ledger_log import LEDGER

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


def pieces(where: Where, have: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What is said about results, and what is in them.

    Args:
        where: A folder or a URI with a ledger in it.
        have: Path -> sha256 of what the receiver holds already; only its name is sent again.
    """
    place = results_folder(where)
    if not ledger_log.exists(place):
        yield {"is": "error", "why": f"there is no {LEDGER} in {place}: no sweep has begun to write there"}
        return
    lines = b"".join(ledger_log.read_lines(place))  # one file there, however it lies here
    sent = 1
    for name in _names(place):
        content = place.read(name)
        if content is not None:  # it may have been replaced by a newer form of itself in between
            yield from _file(name, content, have)
            sent += 1
    yield from _file(LEDGER, lines, have)
    yield {"is": "end", "files": sent, "place": str(place)}


def _names(place: ResultsFolder) -> list[str]:
    """All objects that are tables or say something of them, and the sign of life; the ledger aside."""
    found = place.files.get_file_info(fs.FileSelector(place.root, recursive=True))
    paths = [PurePosixPath(info.path).relative_to(place.root) for info in found if info.is_file]
    return sorted(str(path) for path in paths if path.suffix in KINDS and _is_shown(path))


def _is_shown(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return str(path) == HEARTBEAT or (not hidden and path.parts[0] not in (LEDGER, ledger_log.SEGMENTS))


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
    for piece in pieces(arguments[0], have):
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
