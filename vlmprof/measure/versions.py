"""Which programs make the numbers, in which process: versions, and the commit of this one. Imports none of them."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from vlmprof import __version__

ARITHMETIC = ("torch", "transformers")
"""Distributions whose versions may change an answer."""


@cache
def software() -> str:
    """One line that changes when an answer may: answers under one line may be put together."""
    ours = f"vlmprof {__version__} {commit() or ''}".rstrip()
    return ", ".join([ours, *(f"{name} {version(name)}" for name in ARITHMETIC)])


def process() -> str:
    """This process: its host and its number there."""
    return f"{platform.node()}:{os.getpid()}"


@cache
def commit() -> str | None:
    """The commit of the source tree vlmprof runs from, with ``+`` when the tree differs from it; None if installed."""
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
