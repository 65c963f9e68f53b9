"""Looking for a secret in all files of a folder: logs, tables, sockets' neighbours."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def files_with(secret: str, *folders: Path) -> list[str]:
    """The files that hold a secret, anywhere below these folders; Parquet is decompressed."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10, f"nothing was looked at in {folders}"
    return [str(path) for path in files if secret.encode() in _bytes(path)]


def _bytes(path: Path) -> bytes:
    if path.suffix != ".parquet":
        return path.read_bytes()
    table = pq.read_table(path)
    return f"{table.schema.metadata} {[field.metadata for field in table.schema]} {table.to_pylist()}".encode()
