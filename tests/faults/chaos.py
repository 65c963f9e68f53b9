"""Random kills over a real sweep on a two-node cluster, and what is left of it.

    python -m tests.faults.chaos --kills 100 --seed 1 --out chaos.json

A sweep of 27 configurations (accuracy and latency of a tiny random model) runs on two Ray nodes of this machine, one
CPU each. Kills come in random order and equal shares, all SIGKILL: the driver (the same command is then started again),
a trial's process, the second node's raylet (the node then comes back), the collector, the batch sizer (which a process
beside the sweep keeps asking: a sweep without a GPU needs none). Then the tables are compared with those of an
undisturbed run in a plain loop. Nothing may be lost, doubled or different.

Trials are as slow as they must be for the kills to fall all over the sweep: the harness sets their pace as it goes. A
sweep that ends before the last kill is checked, and the next one begins. ``--show FILE`` prints the tables of a report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.checkpoints import tiny_checkpoint
from tests.faults.asker import Asker, Search
from tests.faults.kills import Kill, Killer, order
from tests.faults.ledger_checks import Books, audit
from tests.faults.processes import MARK, end, left
from tests.faults.sweep import ROOT, Driver, Sweep, environment
from tests.faults.two_nodes import TwoNodes

PACE_S, PACE_LEAST_S, PACE_MOST_S = 0.15, 0.03, 0.4
"""Wait in a forward pass, of which a trial has some 130: as the sweep begins, and the bounds within which it is set."""
MOMENTS = {"at work": 0.4, "in a trial": 0.4, "any time": 0.2}
"""When a blow may fall, and its share: once answers were kept since the last one, once a trial has a process, or as
soon as there is a victim, while everything is still starting."""
ENDINGS_MOST = 12
"""A driver that ends so often in a row, with no trial finished in between, will not finish by being started again."""
LEFT_S = 60
"""How long processes may take to be gone after the last node was stopped."""


@dataclass
class Plan:
    """What is asked for."""

    kills: int
    seed: int
    samples: int = 24
    configurations: int = 27
    pauses_s: tuple[float, float] = (0.2, 4.0)
    """Between a victim that could be hit and the blow."""
    minutes: float = 30.0
    """After so long no further kill is made, and the sweep is left to finish."""
    hurry: bool = False
    """The undisturbed run beside the disturbed one, not before it."""
    settled: float = 0.0
    """Share of a sweep's trials that have finished before the first kill: those must not run again."""


@dataclass
class Report:
    """What came of it."""

    plan: Plan
    kills: list[Kill] = field(default_factory=list)
    endings: list[int] = field(default_factory=list)
    """Exit codes of drivers that ended by themselves, in order."""
    books: list[Books] = field(default_factory=list)
    """One a sweep."""
    searches: list[Search] = field(default_factory=list)
    """What the batch sizer did beside each sweep."""
    left_processes: list[str] = field(default_factory=list)
    undisturbed_s: float = 0.0
    seconds: float = 0.0
    gave_up: str = ""
    """Why the run was ended before its sweep was complete."""

    @property
    def sound(self) -> bool:
        complete = len(self.kills) == self.plan.kills and not self.gave_up
        judged = [*self.books, *self.searches]
        return complete and bool(self.books) and all(one.sound for one in judged) and not self.left_processes


class Chaos:
    """One run of the harness."""

    def __init__(self, plan: Plan, home: Path) -> None:
        self._plan, self._home, self._mark = plan, home, home.name
        self._chance = random.Random(plan.seed)
        self._left = order(plan.kills, self._chance)
        self._began = time.monotonic()
        self.report = Report(plan)

    def run(self) -> Report:
        """Undisturbed, then disturbed until the kills are used up, then the books."""
        checkpoint = tiny_checkpoint(self._home / "model")
        calm = self._sweep("undisturbed", checkpoint)
        undisturbed = Driver(calm, {**environment(), **calm.environment, MARK: self._mark}, "--inline")
        undisturbed.start()
        if not self._plan.hurry:
            assert undisturbed.wait(1800) == 0, undisturbed.said()
        self.report.undisturbed_s = self._elapsed()
        number = 0
        while self._left and not self.report.gave_up:
            number += 1
            sweep = self._sweep(f"sweep-{number}", checkpoint)
            with TwoNodes(self._mark, environment={**environment(), **sweep.environment}) as two:
                asker = Asker(two.address, self._home / f"sizes-{number}", ROOT, two.environment)
                self._disturbed(sweep, two)
                self.report.searches.append(asker.result())
            assert undisturbed.wait(1800) == 0, undisturbed.said()
            self.report.books.append(audit(sweep.results, calm.results))
        self.report.left_processes = left(self._mark, LEFT_S)
        self.report.seconds = self._elapsed()
        return self.report

    def _sweep(self, name: str, checkpoint: Path) -> Sweep:
        plan = self._plan
        return Sweep(self._home / name, checkpoint, samples=plan.samples, configurations=plan.configurations)

    def _disturbed(self, sweep: Sweep, two: TwoNodes) -> None:
        driver = Driver(sweep, two.environment, "--address", two.address)
        killer = Killer(self._mark, two, driver, self._chance)
        driver.start()
        over = False
        while self._left and not over and not self._late():
            over = self._next_kill(sweep, killer, driver)
        self._left = self._left if not self._late() else []
        sweep.pace(0.0)
        while not over:
            time.sleep(0.2)
            over = self._over(sweep, driver)

    def _next_kill(self, sweep: Sweep, killer: Killer, driver: Driver) -> bool:
        """Wait for the next victim and its moment, then a while, then strike; whether the sweep is over instead."""
        if not self._settled(sweep):
            time.sleep(0.1)
            return self._over(sweep, driver)
        self._set_pace(sweep)
        kind = self._left[0]
        moment = self._chance.choices(list(MOMENTS), list(MOMENTS.values()))[0]
        answers = sweep.answers()
        until = None
        while True:
            if self._over(sweep, driver):
                return True
            victim = killer.victim(kind)
            in_a_trial = moment == "any time" or killer.victim("worker") is not None
            if victim is None or not in_a_trial or (moment == "at work" and sweep.answers() == answers):
                until = None
            elif until is None:
                until = time.monotonic() + self._chance.uniform(*self._plan.pauses_s)
            elif time.monotonic() >= until:
                break
            if self._late():
                return False
            time.sleep(0.1)
        if killer.strike(kind, victim):
            self._left.pop(0)
            self.report.kills.append(
                Kill(
                    kind=kind,
                    moment=moment,
                    pid=victim.pid,
                    at_s=round(self._elapsed(), 1),
                    finished=sweep.finished(),
                    answers=sweep.answers(),
                )
            )
            print(self.report.kills[-1], file=sys.stderr, flush=True)
        return False

    def _settled(self, sweep: Sweep) -> bool:
        """Whether so many trials have finished that kills may begin."""
        return sweep.finished() >= self._plan.settled * sweep.configurations

    def _over(self, sweep: Sweep, driver: Driver) -> bool:
        """Whether the sweep has come to its end. A driver that ended before is started again, as a user would."""
        code = driver.ended()
        if code is None:
            return False
        self.report.endings.append(code)
        if code == 0:
            return True
        print(f"the driver ended with {code}: {driver.said()[-400:]}", file=sys.stderr, flush=True)
        if len(self.report.endings) >= ENDINGS_MOST and 0 not in self.report.endings[-ENDINGS_MOST:]:
            self.report.gave_up = f"the driver ended {ENDINGS_MOST} times, at last with {code}: {driver.said()}"
            return True
        driver.start()
        return False

    def _set_pace(self, sweep: Sweep) -> None:
        """Slower where answers come faster than kills are used up, and the other way round."""
        used = len(self.report.kills) / self._plan.kills
        done = sweep.answers() / (sweep.configurations * self._plan.samples)
        done = max(0.0, done - self._plan.settled) / (1 - self._plan.settled)
        sweep.pace(min(PACE_MOST_S, max(PACE_LEAST_S, PACE_S + 3 * (done - used))))

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _late(self) -> bool:
        return self._elapsed() > self._plan.minutes * 60


def run(plan: Plan, keep: Path | None = None) -> Report:
    """A run in a folder of its own, which is thrown away unless it is to be kept."""
    home = Path(tempfile.mkdtemp(prefix="vp-chaos-"))
    try:
        return Chaos(plan, home).run()
    finally:
        end(home.name)
        if keep is not None:
            shutil.copytree(home, keep, ignore=shutil.ignore_patterns("model"))
        shutil.rmtree(home, ignore_errors=True)


def markdown(report: dict[str, Any]) -> str:
    """The tables of docs/reliability.md, from a report's JSON."""
    kinds = Counter(kill["kind"] for kill in report["kills"])
    books = report["books"]
    executions: Counter[int] = Counter()
    for one in books:
        executions.update({int(times): trials for times, trials in one["executions"].items()})
    total = sum(times * trials for times, trials in executions.items())
    moments = Counter(kill["moment"] for kill in report["kills"])
    rows = {
        "kills": f"{len(report['kills'])}: {_listed(kinds)}",
        "when they happened": _listed(moments),
        "trials finished before a kill": f"at least {min((kill['finished'] for kill in report['kills']), default=0)}"
        f" of {report['plan']['configurations']}",
        "sweeps": f"{len(books)} of {report['plan']['configurations']} configurations,"
        f" {report['plan']['samples']} samples each",
        "starts of a trial": f"{total} for {sum(executions.values())} trials, at most {max(executions, default=0)}",
        "drivers that ended without being killed": "; ".join(
            f"{count}, exit code {code}" for code, count in sorted(Counter(report["endings"]).items())
        ),
        "answers kept before a crash and not computed again": f"{sum(one['resumed'] for one in books)}"
        f" of {sum(one['samples'] for one in books)}",
        "answers kept twice": str(sum(len(one["kept_twice"]) for one in books)),
        "samples quarantined": str(sum(len(one["quarantined"]) for one in books)),
        "batch sizes searched at the same time": f"{sum(one['configurations'] for one in report['searches'])}, with"
        f" {sum(one['probes'] for one in report['searches'])} probes",
        "probes repeated, sizes lost": str(
            sum(len(one["repeated"]) + len(one["changed"]) for one in report["searches"])
        ),
        "lost": str(sum(len(one["lost"]) for one in books)),
        "doubled": str(sum(len(one["doubled"]) for one in books)),
        "finished trials that ran again": str(sum(len(one["rerun"]) for one in books)),
        "tables equal to an undisturbed run": "yes" if not any(one["different"] for one in books) else "**no**",
        "processes remaining": str(len(report["left_processes"])),
        "time": f"{report['seconds'] / 60:.1f} min; undisturbed {report['undisturbed_s'] / 60:.1f} min",
        "seed": str(report["plan"]["seed"]),
        "machine": report["machine"],
    }
    return "\n".join(["| what | result |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def as_json(report: Report) -> dict[str, Any]:
    """The report as it is written to a file."""
    about = {"machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}", "sound": report.sound}
    return {**about, **asdict(report)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0, help="make no further kill after so long")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--configurations", type=int, default=27)
    parser.add_argument("--settled", type=float, default=0.0, help="share of trials that finish before the first kill")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON")
    parser.add_argument("--keep", type=Path, help="copy results and logs here")
    parser.add_argument("--show", type=Path, help="print the tables of this report and do nothing else")
    asked = parser.parse_args()
    if asked.show:
        print(markdown(json.loads(asked.show.read_text())))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    plan = Plan(
        asked.kills, asked.seed, asked.samples, asked.configurations, minutes=asked.minutes, settled=asked.settled
    )
    report = run(plan, asked.keep)
    told = as_json(report)
    if asked.out:
        asked.out.write_text(json.dumps(told, indent=1))
    print(markdown(told))
    for one in report.books:
        for fault in [*one.lost, *one.doubled, *one.rerun, *one.kept_twice, *one.different][:20]:
            print(fault, file=sys.stderr)
    for search in report.searches:
        print(search.error, *search.repeated, *search.changed, sep="\n", file=sys.stderr)
    print(report.gave_up or "\n".join(report.left_processes), file=sys.stderr)
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
