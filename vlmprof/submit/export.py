"""``python -m vlmprof.submit.export FOLDER [HAVE]``: print a results folder to standard output, for ``submit.fetch``.

Runs as a small job on the cluster, because the folder may be only on the head node's disk. It prints one piece per
line; its lines begin with ``MARK``. Every file comes with its sha256. The ledger is read first and sent last: the
objects that it lists existed before it was read, and an interrupted fetch receives no ledger that lists missing files.
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
"""File types of a results folder; no others are sent or accepted."""
PIECE_BYTES = 45_000
"""A multiple of three, so that no piece but the last of a file needs base64 padding."""
HAVE = "have.json"
ID = "vlmprof-fetch-"
"""Prefix of the id of a job that sends results."""
KEPT_S = 3600
"""How long the log of such a job, which contains a copy of the results, stays on the head node, in seconds."""


def pieces(where: Where, have: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The content of a results folder in pieces that fit a line.

    Args:
        where: A folder or a URI with a ledger in it.
        have: Path -> sha256 of the files that the receiver already has; of these only the name is sent.
    """
    results = results_folder(where)
    if not ledger_log.exists(results):
        yield {"is": "error", "why": f"there is no {LEDGER} in {results}: no sweep has begun to write there"}
        return
    lines = b"".join(ledger_log.read_lines(results))  # sent as one file, even if it is stored in segments here
    sent = 1
    for name in _names(results):
        content = results.read(name)
        if content is not None:  # it may have been merged into another object since it was listed
            yield from _file(name, content, have)
            sent += 1
    yield from _file(LEDGER, lines, have)
    yield {"is": "end", "files": sent, "place": str(results)}


def _names(results: ResultsFolder) -> list[str]:
    """All files of the types of ``KINDS``, and the heartbeat; not the ledger."""
    infos = results.files.get_file_info(fs.FileSelector(results.root, recursive=True))
    paths = [PurePosixPath(info.path).relative_to(results.root) for info in infos if info.is_file]
    return sorted(str(path) for path in paths if path.suffix in KINDS and _is_sent(path))


def _is_sent(path: PurePosixPath) -> bool:
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
    """Remove the logs of earlier exports in the same folder: each is a copy of results, and Ray never deletes logs."""
    for other in log.parent.glob(f"job-driver-{ID}*.log"):
        if other != log and time.time() - other.stat().st_mtime > KEPT_S:
            other.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
