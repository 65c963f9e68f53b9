"""Provenance of the software: versions of the libraries, commit of vlmprof, process. Imports none of the libraries."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vlmprof import __version__

ARITHMETIC = ("torch", "transformers", "tokenizers", "pillow", "torchvision")
"""Distributions whose version may change an answer: the last two decode and resize pictures."""


@cache
def software() -> str:
    """The versions that may change an answer, on one line: only answers with equal lines may be combined."""
    own_version = f"vlmprof {__version__} {commit() or ''}".rstrip()
    return ", ".join([own_version, *(f"{name} {installed(name)}" for name in ARITHMETIC)])


def installed(name: str) -> str:
    """Version of a distribution; ``none`` where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:  # torchvision is optional
        return "none"


def process() -> str:
    """``host:pid`` of this process."""
    return f"{platform.node()}:{os.getpid()}"


@cache
def commit() -> str | None:
    """Commit of the source tree that vlmprof runs from, with ``+`` if the tree has changes; None if installed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed.strip() else "")
