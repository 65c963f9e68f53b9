"""The seeded order of a split; identical in every process, on every machine and for every configuration."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from vlmprof.records import Example


def by_id(examples: Sequence[Example], seed: int) -> list[Example]:
    """Ordered by a hash of seed and id, independent of the order of the input."""
    return sorted(examples, key=lambda example: (_rank(example.id, seed), example.id))


def by_position(examples: Sequence[Example], seed: int) -> list[Example]:
    """A seeded permutation of the list."""
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def stratified(ordered: Sequence[Example]) -> list[Example]:
    """The same examples, reordered so that every prefix has the question types in the proportions of the whole.

    The ``k``-th of ``m`` examples of a type (``k`` from 0) goes to relative position ``(k + 1/2) / m``; ties keep their
    order.
    """
    sizes = Counter(example.question_type for example in ordered)
    counts: defaultdict[str, int] = defaultdict(int)
    positions = []
    for index, example in enumerate(ordered):
        kind = example.question_type
        # Integer arithmetic: with floats, rounding of (2k + 1) / (2m) would decide the order.
        positions.append(((2 * counts[kind] + 1) * len(ordered) // (2 * sizes[kind]), index))
        counts[kind] += 1
    return [ordered[index] for _, index in sorted(positions)]


def _rank(sample_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{sample_id}".encode()).digest()
