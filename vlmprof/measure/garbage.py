"""Keeps Python's garbage collector out of what is timed.

A collection of all objects takes a few tenths of a second in a process that has loaded torch, and one starts whenever
enough objects were made: in the middle of a generation, which is then longer by it. ``timeit`` of the standard library
switches it off as well.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def old_objects_set_aside() -> Iterator[None]:
    """Inside a ``with`` block collections look at objects only that were made in it, and take next to no time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def no_collections() -> Iterator[None]:
    """Inside a ``with`` block nothing is collected; at its end, what it left is."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
            gc.collect()
