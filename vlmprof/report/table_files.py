"""Rows as a file that a user names: Parquet, or one JSON object a line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from vlmprof.errors import UserError
from vlmprof.store import tables

ENDINGS = (".parquet", ".jsonl")


def require_ending(file: Path) -> None:
    """Raise a ``UserError`` unless rows can be written to a file of this name."""
    if file.suffix not in ENDINGS:
        raise UserError(f"{file}: expected a name that ends in {' or '.join(ENDINGS)}")


def write_rows(frame: pd.DataFrame, file: Path) -> int:
    """Write all rows; returns how many they are. The folder is made if it is missing.

    Raises:
        UserError: a name with another ending, or a place that cannot be written to.
    """
    require_ending(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".parquet":
            file.write_bytes(tables.parquet_bytes(pa.Table.from_pandas(frame, preserve_index=False)))
        else:
            file.write_text(frame.to_json(orient="records", lines=True, force_ascii=False) if len(frame) else "")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}") from None
    return len(frame)
