"""One kill of each kind: who is hit, and what a user or a cluster would then do."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import psutil

from tests.faults.processes import kill, workers
from tests.faults.sweep import Driver
from tests.faults.two_nodes import TwoNodes

KINDS = ("driver", "raylet", "worker", "collector", "sizer")


@dataclass
class Kill:
    """One that was made."""

    kind: str
    moment: str
    pid: int
    at_s: float
    finished: int
    """Trials that had finished by then."""
    answers: int
    """That had been kept by then."""


def order(kills: int, chance: random.Random) -> list[str]:
    """Kinds in equal shares, shuffled; a remainder goes to the first kinds."""
    kinds = [KINDS[number % len(KINDS)] for number in range(kills)]
    chance.shuffle(kinds)
    return kinds


class Killer:
    """Knows the processes of one run of the harness."""

    def __init__(self, mark: str, two: TwoNodes, driver: Driver, chance: random.Random) -> None:
        self._mark, self._two, self._driver, self._chance = mark, two, driver, chance

    def victim(self, kind: str) -> psutil.Process | None:
        """Whom a kill would hit now; None while there is none of the kind."""
        if kind == "driver":
            return self._driver.process()
        if kind == "raylet":
            return self._two.second.raylet()
        there = workers(self._mark)[kind]
        return self._chance.choice(there) if there else None

    def strike(self, kind: str, process: psutil.Process) -> bool:
        """SIGKILL, and what follows from it; False where the victim had gone by itself."""
        if not kill(process):
            return False
        if kind == "driver":
            self._driver.wait(60)
            self._driver.start()  # the same command again
        if kind == "raylet":
            self._two.second.gone()
            time.sleep(self._chance.uniform(0.0, 3.0))
            self._two.second.start()
        return True
