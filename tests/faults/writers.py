"""Writing a results folder in a process that can be killed at any instant."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.builders import trial_row
from vlmprof.errors import StoreError
from vlmprof.store import compaction, tables
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.ledger import FINISHED, read, read_states

SAMPLES = 40
TRIALS_MOST = 6.0
"""That a writer may write before it is killed, more or less."""


def result(trial: str, wide: int = 1) -> TrialResult:
    """A trial with a row in ``trials`` and ``SAMPLES`` in ``samples``, each prediction ``wide`` random words long."""
    row = {**trial_row({"max_crops": 4}), "trial": trial, "point": f"max_crops=4 trial={trial}"}
    words = random.Random(trial)  # not compressible to nothing: what is written must take room
    samples = tuple(
        {
            "trial": trial,
            "sample": f"s{number:03d}",
            "score": number / SAMPLES,
            "prediction": " ".join(f"{words.getrandbits(64):x}" for _ in range(wide)),
        }
        for number in range(SAMPLES)
    )
    return TrialResult(trial=trial, knobs=("max_crops",), state="done", row=row, samples=samples)


def write_one(collector: Collector, trial: str, wide: int = 1) -> None:
    """As a trial's process does: begin, end."""
    collector.finish(result(trial, wide), collector.begin(trial).attempt)


def require_whole(folder: Path) -> set[str]:
    """Every trial that the ledger calls done is there, once and whole, as ``result`` made it.

    Returns:
        Those trials.

    Raises:
        AssertionError: one is not.
        StoreError: the ledger cannot be read.
    """
    done = {trial for trial, state in read_states(folder).items() if state in FINISHED}
    if not done:
        return done
    trials, samples = tables.read(folder, "trials"), tables.read(folder, "samples")
    assert sorted(trials["trial"]) == sorted(done)
    assert samples.groupby("trial").size().to_dict() == dict.fromkeys(done, SAMPLES)
    assert not samples.duplicated(["trial", "sample"]).any()
    return done


def killed_writers(folder: Path, kills: int, seed: int) -> list[int]:
    """Fork a writer, kill it at a random instant, look at what is there, and again; trials done after each kill.

    Tables are merged every few trials, so that kills fall into merges too. How long a writer lives is counted in the
    time that a trial takes here to be written.
    """
    compaction.MERGE_BATCH = 4
    chance, counts = random.Random(seed), []
    each_s = _seconds_a_trial(folder.with_name("paced"))
    for number in range(kills):
        writer = os.fork()
        if writer == 0:
            _write_for_ever(folder, number)
        time.sleep(chance.uniform(0.0, TRIALS_MOST) * each_s)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        counts.append(len(require_whole(folder)) if (folder / "ledger.jsonl").is_file() else 0)
    collector = Collector(folder, "written", wait_s=5)
    collector.open_run(["last"], {})
    write_one(collector, "last")
    collector.close()
    assert "last" in require_whole(folder)
    starts = [line["trial"] for line in read(folder) if line["event"] == "started"]
    assert len(starts) >= counts[-1]
    return counts


def _seconds_a_trial(folder: Path) -> float:
    collector = Collector(folder, "paced", wait_s=5)
    began = time.monotonic()
    for number in range(5):
        write_one(collector, f"p{number}")
    collector.close()
    return (time.monotonic() - began) / 5


def _write_for_ever(folder: Path, writer: int) -> None:
    try:
        collector = Collector(folder, "written", wait_s=5)
        collector.open_run([], {})
        for number in range(100_000):
            write_one(collector, f"w{writer:02d}n{number:05d}")
    except StoreError as error:
        print(error, file=sys.stderr, flush=True)
    finally:
        os._exit(1)


if __name__ == "__main__":
    print(killed_writers(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
