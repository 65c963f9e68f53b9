"""Which decoder blocks a value of ``active_blocks`` keeps: every form of the value, each with its checks."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlmprof.errors import KnobValueError, as_written, suggestion
from vlmprof.job.storage import DEFAULT, STORAGE
from vlmprof.knobs.knob import require_integer
from vlmprof.regular_files import read_regular

EXPECTED = "expected {keep: n, policy: prefix} or a list of block indices"

LEGACY_FIRST = 4
"""``legacy_random`` always keeps this many blocks at the start."""

MOST_TABLE_BYTES = 2**20
"""A table has a score for each block."""

SHORTEST_DIGEST = 12
"""Fewest hexadecimal digits of a SHA-256 that identify a table of scores."""


def kept_blocks(value: Any, blocks: int) -> tuple[int, ...]:
    """The indices of the blocks that a value keeps, in a checkpoint of ``blocks`` blocks.

    Raises:
        KnobValueError: an importance table cannot be read, or does not score every block.
    """
    if isinstance(value, Mapping):
        return POLICIES[value["policy"]](value, blocks)
    return tuple(value)


def check_choice(value: Any, blocks: int) -> None:
    """Refuse a value that does not select decoder blocks.

    Raises:
        KnobValueError: the message says what was expected.
    """
    if isinstance(value, Mapping):
        _check_policy(value, blocks)
    elif isinstance(value, list | tuple):
        _check_indices(value, blocks, "kept")
    else:
        raise KnobValueError(f"active_blocks: {EXPECTED}, got {as_written(value)}; policies are {', '.join(POLICIES)}")


def _prefix(value: Mapping[str, Any], blocks: int) -> tuple[int, ...]:
    return tuple(range(value["keep"]))


def _drop(value: Mapping[str, Any], blocks: int) -> tuple[int, ...]:
    return tuple(block for block in range(blocks) if block not in value["drop"])


def _nested_random(value: Mapping[str, Any], blocks: int) -> tuple[int, ...]:
    """The first n of one seeded shuffle: with the same seed, smaller sets are subsets of larger ones."""
    order = list(range(blocks))
    random.Random(value["seed"]).shuffle(order)
    return tuple(sorted(order[: value["keep"]]))


def _legacy_random(value: Mapping[str, Any], blocks: int) -> tuple[int, ...]:
    """The choice of the predecessor of vlmprof: the first four blocks, and others at random, seeded by their number.

    The sets are not nested: a block kept at n = 10 may be missing at n = 12, so accuracy over n mixes depth with the
    random choice. The policy exists to run the predecessor's grids again under a name that says so.
    """
    import numpy as np

    generator = np.random.RandomState(42 + 1000 * value["keep"])
    others = generator.choice(range(LEGACY_FIRST, blocks), size=value["keep"] - LEGACY_FIRST, replace=False)
    return tuple(sorted([*range(LEGACY_FIRST), *(int(block) for block in others)]))


def _importance(value: Mapping[str, Any], blocks: int) -> tuple[int, ...]:
    """The n blocks with the highest scores; of equal scores, the earlier block."""
    scores = _scores(value["table"], str(value.get("sha256", "")))
    if set(scores) != set(range(blocks)):
        raise KnobValueError(
            f"active_blocks: {value['table']} scores blocks {sorted(scores)}; expected every block from 0 to"
            f" {blocks - 1} once"
        )
    best = sorted(scores, key=lambda block: (-scores[block], block))
    return tuple(sorted(best[: value["keep"]]))


POLICIES: Mapping[str, Callable[[Mapping[str, Any], int], tuple[int, ...]]] = {
    "prefix": _prefix,
    "drop": _drop,
    "nested_random": _nested_random,
    "legacy_random": _legacy_random,
    "importance": _importance,
}
KEYS = {
    "nested_random": {"keep", "policy", "seed"},
    "importance": {"keep", "policy", "sha256", "table"},
    "drop": {"drop", "policy"},
}
"""The keys that a policy takes; policies not listed take ``keep`` and ``policy``."""


def _check_policy(value: Mapping[str, Any], blocks: int) -> None:
    policy = value.get("policy")
    if policy is not None and str(policy) not in POLICIES:
        raise KnobValueError(
            f"active_blocks: no policy named {as_written(policy)}{suggestion(str(policy), list(POLICIES))}"
        )
    keys = KEYS.get(str(policy), {"keep", "policy"})
    given = set(value)
    if policy is None or given != keys:
        expected = f"policy '{policy}' takes {', '.join(sorted(keys))}" if policy else EXPECTED
        if policy == "importance" and keys - given == {"sha256"}:
            digest = _digest(_inside_storage(value["table"]))[:SHORTEST_DIGEST]
            expected += f"; the sha256 of this table begins with '{digest}'"
        raise KnobValueError(f"active_blocks: {expected}; got {as_written(value)}")
    if policy == "drop":
        _check_indices(value["drop"], blocks, "dropped")
        if len(value["drop"]) == blocks:
            raise KnobValueError("active_blocks.drop: expected at least one block to remain, got all blocks")
        return
    fewest = LEGACY_FIRST if policy == "legacy_random" else 1
    require_integer(value["keep"], low=fewest, high=blocks, name="active_blocks.keep")
    if policy == "nested_random":
        require_integer(value["seed"], low=0, name="active_blocks.seed")
    if policy == "importance":
        _importance(value, blocks)


def _check_indices(value: Any, blocks: int, verb: str) -> None:
    if not isinstance(value, list | tuple):
        raise KnobValueError(f"active_blocks: expected a list of the blocks that are {verb}, got {as_written(value)}")
    for index in value:
        require_integer(index, low=0, high=blocks - 1, name="active_blocks")
    if not value or list(value) != sorted(set(value)):
        raise KnobValueError(f"active_blocks: expected ascending block indices, each once, got {as_written(value)}")


def _scores(table: Any, sha256: str) -> dict[int, float]:
    """Block -> score, from JSON (a list, or an object by block) or Parquet (columns ``block`` and ``score``)."""
    path = _inside_storage(table)
    try:
        data = read_regular(path, MOST_TABLE_BYTES)
        digest = hashlib.sha256(data).hexdigest()
        if len(sha256) < SHORTEST_DIGEST or not digest.startswith(sha256):
            # A trial's id hashes the value, not the scores: the digest in it makes other scores another trial.
            raise KnobValueError(f"active_blocks.sha256: {path.name} has {digest[:SHORTEST_DIGEST]}..., got {sha256}")
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(io.BytesIO(data), columns=["block", "score"]).to_pylist()
            return {int(row["block"]): float(row["score"]) for row in rows}
        content = json.loads(data)
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        return {int(block): float(score) for block, score in pairs}
    except OSError as error:
        raise KnobValueError(f"active_blocks.table: {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RecursionError) as error:
        raise KnobValueError(
            f"active_blocks.table: {path} is not a table of scores ({error}); expected JSON (a list with a score"
            " for each block, or an object from block to score) or Parquet with the columns block and score"
        ) from None


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(read_regular(path, MOST_TABLE_BYTES)).hexdigest()
    except OSError as error:
        raise KnobValueError(f"active_blocks.table: {path} cannot be read: {error.strerror or error}") from None


def _inside_storage(table: Any) -> Path:
    root = Path(os.environ.get(STORAGE, DEFAULT)).resolve()
    path = (root / str(table)).resolve()
    if not isinstance(table, str) or not table or not path.is_relative_to(root):
        raise KnobValueError(
            f"active_blocks.table: expected a path inside the results folder {root.name}/, which every machine of a"
            f" sweep can read, got {as_written(table)}; set {STORAGE} to use another folder"
        )
    return path
