"""The seeded order of a split: the same in every process, on every machine and for every configuration."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from vlmprof.records import Example


def by_id(examples: Sequence[Example], seed: int) -> list[Example]:
    """Ordered by a hash of seed and id: how the examples were listed does not matter."""
    return sorted(examples, key=lambda example: (_rank(example.id, seed), example.id))


def by_position(examples: Sequence[Example], seed: int) -> list[Example]:
    """A seeded permutation of the list."""
    listed = list(examples)
    random.Random(seed).shuffle(listed)
    return listed


def spread(ordered: Sequence[Example]) -> list[Example]:
    """The same examples, so that every beginning holds the question types in their shares of the whole.

    The ``k``-th of ``m`` examples of a type goes to the place ``(k + 1/2) / m`` of the way; ties keep their order.
    """
    sizes = Counter(example.question_type for example in ordered)
    seen: defaultdict[str, int] = defaultdict(int)
    places = []
    for index, example in enumerate(ordered):
        kind = example.question_type
        # Compared as whole numbers: (2k + 1) / (2m) in floats would order by rounding.
        places.append(((2 * seen[kind] + 1) * len(ordered) // (2 * sizes[kind]), index))
        seen[kind] += 1
    return [ordered[index] for _, index in sorted(places)]


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()
