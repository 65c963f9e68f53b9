"""A file system whose calls fail at random with EIO and ENOSPC, for processes that are started with it.

    python -m tests.faults.failing_disk --faults 50 --out failing_disk.json

The calls of libc are replaced (``failing_disk.c``, compiled here), so that Python's and Arrow's both fail. A sweep of
27 configurations runs without Ray, in one process that writes everything. Whenever it ends with anything but 0, the
same command is started again, as a user would.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.checkpoints import tiny_checkpoint
from tests.faults.ledger_checks import Books, audit
from tests.faults.processes import MARK, end
from tests.faults.sweep import Driver, Sweep, environment

SOURCE = Path(__file__).with_suffix(".c")
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
RECORD = 64
STARTS_MOST = 200


class FailingDisk:
    """Makes calls below a folder fail, once in so many, until there were so many faults."""

    def __init__(self, home: Path, folder: Path, *, most: int, per_thousand: int) -> None:
        assert COMPILER is not None
        library, self._log = home / "failing_disk.so", home / "faults"
        subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAILING_FOLDER": str(folder),
            "FAILING_LOG": str(self._log),
            "FAILING_SHARE": str(per_thousand),
            "FAILING_MOST": str(most),
        }

    def faults(self) -> list[str]:
        """The call and the error of each fault so far."""
        text = self._log.read_text() if self._log.exists() else ""
        return [" ".join(text[at : at + RECORD].split()[:2]) for at in range(0, len(text), RECORD)]


@dataclass
class Report:
    """What came of it."""

    faults: dict[str, int] = field(default_factory=dict)
    """Call and error -> how often."""
    endings: list[int] = field(default_factory=list)
    """Exit codes of the command, in order."""
    traces: list[str] = field(default_factory=list)
    """Ends of what was said by those that ended with a trace."""
    books: list[Books] = field(default_factory=list)
    """One a sweep."""
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        return bool(self.books) and all(one.sound for one in self.books) and not self.traces


def run(home: Path, faults: int, *, samples: int = 8, configurations: int = 27, per_thousand: int = 40) -> Report:
    """Sweeps in folders of their own until there were so many faults, each to its end."""
    began, report = time.monotonic(), Report()
    checkpoint = tiny_checkpoint(home / "model")
    calm = Sweep(home / "calm", checkpoint, samples=samples, configurations=configurations)
    driver = Driver(calm, {**environment(), MARK: home.name}, "--inline")
    driver.start()
    assert driver.wait(900) == 0, driver.said()
    disk = FailingDisk(home, home / "failing", most=faults, per_thousand=per_thousand)
    for sweep in _sweeps(home / "failing", checkpoint, samples, configurations):
        here = {**disk.environment, "FAILING_FOLDER": str(sweep.results)}  # not its log: that is no disk of the sweep
        _to_its_end(sweep, {**environment(), **here, MARK: home.name}, report)
        report.books.append(audit(sweep.results, calm.results))
        if len(disk.faults()) >= faults or len(report.endings) > STARTS_MOST:
            break
    report.faults = dict(sorted(Counter(disk.faults()).items()))
    report.seconds = time.monotonic() - began
    return report


def _sweeps(home: Path, checkpoint: Path, samples: int, configurations: int) -> Iterator[Sweep]:
    for number in range(20):
        yield Sweep(home / f"sweep-{number}", checkpoint, samples=samples, configurations=configurations)


def _to_its_end(sweep: Sweep, environment: dict[str, str], report: Report) -> None:
    driver, finished = Driver(sweep, environment, "--inline"), 0
    for _ in range(STARTS_MOST):
        driver.log.unlink(missing_ok=True)
        driver.start()
        code = driver.wait(600)
        report.endings.append(code)
        print(f"ended with {code}, {sweep.finished()} finished", file=sys.stderr, flush=True)
        if "Traceback" in driver.said():
            report.traces.append(driver.said()[-1500:])
        now = sweep.finished()
        assert now >= finished, "a finished trial is gone"
        finished = now
        if code == 0:
            return
    raise AssertionError(f"it does not come to an end: {driver.said()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--per-thousand", type=int, default=40, help="calls that fail")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    home = Path(tempfile.mkdtemp(prefix="vp-disk-"))
    try:
        report = run(home, asked.faults, per_thousand=asked.per_thousand)
    finally:
        end(home.name)
        shutil.rmtree(home, ignore_errors=True)
    told = json.dumps({"sound": report.sound, **asdict(report)}, indent=1)
    if asked.out:
        asked.out.write_text(told)
    print(told)
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
