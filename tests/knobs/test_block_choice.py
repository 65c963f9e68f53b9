"""Every way to say which blocks are kept: what it keeps, and what it says when it cannot."""

import hashlib
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmprof.errors import KnobValueError
from vlmprof.knobs._block_choice import STORAGE, check_choice, kept_blocks
from vlmprof.plan.point import label

BLOCKS = 16
SCORES = [0.9, 0.1, 0.5, 0.5, 0.2, 0.8, *([0.0] * 9), 0.7]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STORAGE, str(tmp_path / "results"))
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def importance(keep: int, table: str) -> dict[str, object]:
    """Pinned to the table as it is now; to nothing where it cannot be read."""
    path = Path(os.environ[STORAGE]) / table
    inside = path.resolve().is_relative_to(Path(os.environ[STORAGE]).resolve()) and path.is_file()
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if inside else "0" * 64
    return {"keep": keep, "policy": "importance", "table": table, "sha256": digest[:12]}


def test_prefix_drop_and_lists() -> None:
    assert kept_blocks({"keep": 3, "policy": "prefix"}, BLOCKS) == (0, 1, 2)
    assert kept_blocks({"drop": [0, 15], "policy": "drop"}, BLOCKS) == tuple(range(1, 15))
    assert kept_blocks([2, 5], BLOCKS) == (2, 5)


@pytest.mark.parametrize("seed", range(5))
def test_nested_random_sets_are_nested_and_differ_between_seeds(seed: int) -> None:
    kept = [set(kept_blocks({"keep": n, "policy": "nested_random", "seed": seed}, BLOCKS)) for n in range(1, 17)]
    assert [len(one) for one in kept] == list(range(1, 17))
    assert all(fewer < more for fewer, more in itertools.pairwise(kept))
    assert kept[7] != set(kept_blocks({"keep": 8, "policy": "nested_random", "seed": seed + 1}, BLOCKS))


def test_nested_random_is_the_same_everywhere_for_ever() -> None:
    assert kept_blocks({"keep": 5, "policy": "nested_random", "seed": 0}, BLOCKS) == (1, 5, 9, 10, 14)


def test_legacy_random_is_the_first_four_and_an_unnested_draw() -> None:
    kept = {n: kept_blocks({"keep": n, "policy": "legacy_random"}, BLOCKS) for n in range(4, 17)}
    assert kept[4] == (0, 1, 2, 3)
    assert kept[16] == tuple(range(16))
    for n in (8, 12):
        drawn = np.random.RandomState(42 + 1000 * n).choice(list(range(4, 16)), n - 4, replace=False)
        assert kept[n] == (0, 1, 2, 3, *sorted(drawn))
    assert not all(set(kept[n]) <= set(kept[n + 1]) for n in range(4, 16)), "nested after all"


def test_importance_keeps_the_best_and_of_equals_the_first(storage: Path) -> None:
    (storage / "list.json").write_text(json.dumps(SCORES))
    (storage / "object.json").write_text(json.dumps({str(block): score for block, score in enumerate(SCORES)}))
    pq.write_table(pa.table({"block": list(range(BLOCKS)), "score": SCORES}), storage / "table.parquet")
    for table in ("list.json", "object.json", "table.parquet"):
        check_choice(importance(4, table), BLOCKS)
        assert kept_blocks(importance(3, table), BLOCKS) == (0, 5, 15)
        assert kept_blocks(importance(4, table), BLOCKS) == (0, 2, 5, 15)


def test_a_table_that_is_not_pinned_is_refused_with_the_digest_to_write(storage: Path) -> None:
    """A trial's id holds the path and not the scores: unpinned, other scores would pass for the same trial."""
    (storage / "scores.json").write_text(json.dumps(SCORES))
    pinned = importance(3, "scores.json")
    digest = pinned.pop("sha256")
    said = f"takes keep, policy, sha256, table; the sha256 of this table begins with '{digest}'"
    with pytest.raises(KnobValueError, match=said):
        check_choice(pinned, BLOCKS)


def test_a_pinned_table_that_changed_is_refused(storage: Path) -> None:
    path = storage / "scores.json"
    path.write_text(json.dumps(SCORES))
    pinned = importance(3, "scores.json")
    check_choice(pinned, BLOCKS)
    path.write_text(json.dumps(SCORES[::-1]))
    for wrong in (pinned, {**pinned, "sha256": "0"}):
        with pytest.raises(KnobValueError, match=r"sha256: scores\.json has "):
            check_choice(wrong, BLOCKS)


@pytest.mark.parametrize(
    ("table", "content", "said"),
    [
        ("../secret.json", "[]", "inside the results folder"),
        ("/etc/hostname", None, "inside the results folder"),
        ("missing.json", None, "cannot be read"),
        ("words.json", "not json", "is not a table of scores"),
        ("short.json", "[1, 2]", r"scores blocks \[0, 1\]; expected every block from 0 to 15 once"),
        ("wrong.parquet", "nothing", "is not a table of scores"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(storage: Path, table: str, content: str | None, said: str) -> None:
    if content is not None:
        (storage / table).write_text(content)
    with pytest.raises(KnobValueError, match=said):
        check_choice(importance(4, table), BLOCKS)


def test_a_link_out_of_the_results_folder_is_not_followed(storage: Path) -> None:
    (storage.parent / "outside.json").write_text(json.dumps(SCORES))
    (storage / "inside.json").symlink_to(storage.parent / "outside.json")
    with pytest.raises(KnobValueError, match="inside the results folder"):
        check_choice(importance(4, "inside.json"), BLOCKS)


@pytest.mark.timeout(30)
def test_a_table_that_is_no_file_or_has_no_end_is_not_read(storage: Path) -> None:
    os.mkfifo(storage / "pipe.json")
    (storage / "sparse.json").touch()
    os.truncate(storage / "sparse.json", 2**40)
    (storage / "deep.json").write_text("[" * 200_000)
    said = {"pipe.json": "not a regular file", "sparse.json": "larger than 1 MiB", "deep.json": "not a table of scores"}
    for table, why in said.items():
        with pytest.raises(KnobValueError, match=why):
            check_choice({**importance(4, "deep.json"), "table": table}, BLOCKS)


def test_people_read_what_was_chosen() -> None:
    assert label({"keep": 4, "policy": "prefix"}) == "prefix 4"
    assert label({"drop": [0, 3], "policy": "drop"}) == "drop 0,3"
    assert label({"keep": 4, "policy": "nested_random", "seed": 1}) == "nested_random 4 seed 1"
    assert label({"k": 2, "renormalise": True}) == "2 renormalise"
    assert label([0, 1, 3]) == "0,1,3"
