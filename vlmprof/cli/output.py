"""What all commands share: two consoles, exit codes, and counts with the right plural."""

from __future__ import annotations

import sys

from vlmprof.report.terminal import Terminal

WIDE = 160
"""Columns where the output is no terminal: a table in a log must not be cut to eighty."""
SOME_FAILED, INTERRUPTED = 3, 130
"""Exit codes; see ``cli.run``."""

out = Terminal(width=None if sys.stdout.isatty() else WIDE)
err = Terminal(stderr=True, width=None if sys.stderr.isatty() else WIDE)


def plural(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {noun}{'s' if count != 1 else ''}"
