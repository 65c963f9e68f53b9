"""Which decoder blocks a value of ``active_blocks`` keeps: every way to say it, each with its checks."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlmprof.errors import KnobValueError, suggestion
from vlmprof.job.storage import DEFAULT, STORAGE
from vlmprof.knobs.knob import require_whole

EXPECTED = "expected {keep: n, policy: prefix} or a list of block indices"

LEGACY_FIRST = 4
"""Blocks that the predecessor's random choice always kept."""

SHORTEST_DIGEST = 12
"""Hexadecimal digits that pin a table of scores."""


def kept_blocks(value: Any, blocks: int) -> tuple[int, ...]:
    """The blocks that a value keeps, as numbered in a checkpoint of ``blocks`` blocks.

    Raises:
        KnobValueError: an importance table cannot be read, or does not score every block.
    """
    if isinstance(value, Mapping):
        return POLICIES[value["policy"]](value, blocks)
    return tuple(value)


def check_choice(value: Any, blocks: int) -> None:
    """Refuse what is no choice of blocks.

    Raises:
        KnobValueError: says what was expected.
    """
    if isinstance(value, Mapping):
        _check_policy(value, blocks)
    elif isinstance(value, list | tuple):
        _check_indices(value, blocks, "kept")
    else:
        raise KnobValueError(f"active_blocks: {EXPECTED}, got {value!r}; policies are {', '.join(POLICIES)}")


def _prefix(value: Mapping[str, Any], blocks: int) -> tuple[int, ...]:
    return tuple(range(value["keep"]))


def _drop(value: Mapping[str, Any], blocks: int) -> tuple[int, ...]:
    return tuple(block for block in range(blocks) if block not in value["drop"])


def _nested_random(value: Mapping[str, Any], blocks: int) -> tuple[int, ...]:
    """The first n of one shuffle: with one seed, fewer blocks are always a part of more."""
    order = list(range(blocks))
    random.Random(value["seed"]).shuffle(order)
    return tuple(sorted(order[: value["keep"]]))


def _legacy_random(value: Mapping[str, Any], blocks: int) -> tuple[int, ...]:
    """As the predecessor chose: the first four, and others at random with a seed that depends on how many.

    Its sets are not nested: what 10 blocks keep, 12 may lack, so accuracy over n mixes depth with the luck of the
    draw. It is here so that its grids can be run again and named for what they are.
    """
    import numpy as np

    generator = np.random.RandomState(42 + 1000 * value["keep"])
    others = generator.choice(range(LEGACY_FIRST, blocks), size=value["keep"] - LEGACY_FIRST, replace=False)
    return tuple(sorted([*range(LEGACY_FIRST), *(int(block) for block in others)]))


def _importance(value: Mapping[str, Any], blocks: int) -> tuple[int, ...]:
    """The n blocks of the highest score; of equal scores the earlier block."""
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
"""What a policy takes; the others take ``keep`` and ``policy``."""


def _check_policy(value: Mapping[str, Any], blocks: int) -> None:
    policy = value.get("policy")
    if policy is not None and policy not in POLICIES:
        raise KnobValueError(f"active_blocks: no policy named {policy!r}{suggestion(str(policy), list(POLICIES))}")
    keys = KEYS.get(str(policy), {"keep", "policy"})
    given = set(value)
    if policy is None or given != keys:
        wanted = f"policy '{policy}' takes {', '.join(sorted(keys))}" if policy else EXPECTED
        if policy == "importance" and keys - given == {"sha256"}:
            wanted += f"; of this table it begins with '{_digest(_inside_storage(value['table']))[:SHORTEST_DIGEST]}'"
        raise KnobValueError(f"active_blocks: {wanted}; got {dict(value)!r}")
    if policy == "drop":
        _check_indices(value["drop"], blocks, "dropped")
        if len(value["drop"]) == blocks:
            raise KnobValueError("active_blocks.drop: expected at least one block to be left, got all of them")
        return
    fewest = LEGACY_FIRST if policy == "legacy_random" else 1
    require_whole(value["keep"], low=fewest, high=blocks, of="active_blocks.keep")
    if policy == "nested_random":
        require_whole(value["seed"], low=0, of="active_blocks.seed")
    if policy == "importance":
        _importance(value, blocks)


def _check_indices(value: Any, blocks: int, what: str) -> None:
    if not isinstance(value, list | tuple):
        raise KnobValueError(f"active_blocks: expected a list of the blocks that are {what}, got {value!r}")
    for index in value:
        require_whole(index, low=0, high=blocks - 1, of="active_blocks")
    if not value or list(value) != sorted(set(value)):
        raise KnobValueError(f"active_blocks: expected ascending block indices, each once, got {list(value)!r}")


def _scores(table: Any, sha256: str) -> dict[int, float]:
    """Block -> score, from JSON (a list, or an object by block) or Parquet (columns ``block`` and ``score``)."""
    path = _inside_storage(table)
    try:
        digest = _digest(path)
        if len(sha256) < SHORTEST_DIGEST or not digest.startswith(sha256):
            # A trial's id holds the value, not the scores: pinned like this, other scores are another trial.
            raise KnobValueError(f"active_blocks.sha256: {path.name} has {digest[:SHORTEST_DIGEST]}..., not {sha256}")
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(path, columns=["block", "score"]).to_pylist()
            return {int(row["block"]): float(row["score"]) for row in rows}
        content = json.loads(path.read_text(encoding="utf-8"))
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        return {int(block): float(score) for block, score in pairs}
    except OSError as error:
        raise KnobValueError(f"active_blocks.table: {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise KnobValueError(
            f"active_blocks.table: {path} is no table of scores ({error}); expected JSON, a list with a score for each"
            " block or an object from block to score, or Parquet with the columns block and score"
        ) from None


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise KnobValueError(f"active_blocks.table: {path} cannot be read: {error.strerror or error}") from None


def _inside_storage(table: Any) -> Path:
    root = Path(os.environ.get(STORAGE, DEFAULT)).resolve()
    path = (root / str(table)).resolve()
    if not isinstance(table, str) or not table or not path.is_relative_to(root):
        raise KnobValueError(
            f"active_blocks.table: expected a path inside the results folder {root.name}/, where every machine of a"
            f" sweep finds it, got {table!r}; {STORAGE} names another folder"
        )
    return path
