"""Which storage a job may name: a path or a URI, judged by its letters alone; nothing is asked."""

from __future__ import annotations

from pathlib import Path

from vlmprof.errors import UserError

STORES = ("file", "s3", "gs", "gcs", "abfs", "abfss")
"""Kinds of URIs where an object is whole once it is there; files of HDFS are seen while they are written."""


def problem(where: str) -> str:
    """What is wrong with a path or a URI of results; empty when nothing is."""
    scheme, found, rest = where.partition("://")
    if not found:
        return ""
    if scheme not in STORES:
        return f"'{scheme}://' is no storage; expected a path, or one of {', '.join(f'{name}://' for name in STORES)}"
    user, found, _ = rest.partition("/")[0].rpartition("@")
    if found and (scheme == "s3" or ":" in user):
        # The job is kept in the ledger, and keys must not be.
        return f"keys do not belong into a URI; give them to {scheme}:// by the environment"
    return "" if rest.strip("/") and ".." not in rest.split("/") else f"'{where}' names no folder"


def storable(where: str) -> str:
    """The same place; a ValueError, for pydantic, where it is none."""
    if found := problem(where):
        raise ValueError(found)
    return where


def mounted(where: str) -> Path:
    """The folder, for what needs one on a mounted file system.

    Raises:
        UserError: it is in an object store.
    """
    if "://" in where:
        raise UserError(f"this needs a folder on a mounted file system, and the results are in {where}")
    return Path(where)
