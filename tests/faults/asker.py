"""Someone who needs the batch sizer all the time: ``python -m tests.faults.asker ADDRESS FOLDER``.

A sweep without a GPU measures no memory and starts no sizer. This process stands for sweeps that do: it searches the
batch size of one configuration of a simulated device after the other, until a file named ``stop`` lies in the folder.
Then it asks for every configuration again and leaves what came of it in ``found.json``: nothing may be forgotten.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.batch_size.devices import Device, demand_of, question, told

FOUND = "found.json"
BETWEEN_S = 0.3
"""Between two questions."""
STEPS_MOST = 60
"""Questions until a configuration is settled; a search takes a handful."""


@dataclass
class Search:
    """What came of it."""

    configurations: int = 0
    probes: int = 0
    repeated: list[str] = field(default_factory=list)
    """Sizes that were to be probed again though their outcome had been told."""
    changed: list[str] = field(default_factory=list)
    """Configurations whose size has shrunk or is to be probed anew when they are asked for again."""
    error: str = ""

    @property
    def sound(self) -> bool:
        return bool(self.probes) and not (self.repeated or self.changed or self.error)


def search(folder: Path) -> Search:
    """Ask until told to stop."""
    from vlmprof.sweep.sizer_actor import RemoteSizer

    sizer, device, found = RemoteSizer(str(folder / "atlas")), Device(), Search()
    settled, probed = dict[str, int](), Counter[str]()
    while not (folder / "stop").exists():
        demand = demand_of(blocks=1.0 + len(settled) % 7, crops=1.0 + len(settled) * 0.13)
        asked = question(demand, device.total, device.floor)
        for _ in range(STEPS_MOST):
            answer = sizer.ask(asked, {})
            if answer.action == "use":
                break
            probed[f"{demand} at {answer.size}"] += 1
            sizer.tell(told(asked, answer, device.probe(demand, answer.size)))
            time.sleep(BETWEEN_S)
        settled[str(demand)] = answer.size
        time.sleep(BETWEEN_S)
    for demand_text, size in settled.items():
        number = list(settled).index(demand_text)
        demand = demand_of(blocks=1.0 + number % 7, crops=1.0 + number * 0.13)
        answer = sizer.ask(question(demand, device.total, device.floor), {})
        # A probe of a larger size is no loss: what others measured since may allow it.
        if answer.size < size or (answer.action != "use" and answer.size == size):
            found.changed.append(f"{demand_text}: {size}, now {answer.action} {answer.size}")
    found.configurations, found.probes = len(settled), sum(probed.values())
    found.repeated = [what for what, times in probed.items() if times > 1]
    return found


class Asker:
    """The same, as a process of its own."""

    def __init__(self, address: str, folder: Path, root: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        self._folder, self._log = folder, folder / "asker.log"
        command = [sys.executable, "-m", "tests.faults.asker", address, str(folder)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=root, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def result(self, timeout_s: float = 120) -> Search:
        """Ask it to stop, and hear what came of it."""
        (self._folder / "stop").touch()
        try:
            self._process.wait(timeout=timeout_s)
            return Search(**json.loads((self._folder / FOUND).read_text()))
        except (subprocess.TimeoutExpired, OSError) as error:
            self._process.kill()
            self._process.wait()
            return Search(error=f"{error!r}: {self._log.read_text(errors='replace')[-2000:]}")


def main() -> None:
    from vlmprof.sweep.cluster import connected

    address, folder = sys.argv[1:]
    with connected(address, verbose=False):
        found = search(Path(folder))
    (Path(folder) / FOUND).write_text(json.dumps(asdict(found)))  # a file: Ray says things on any output


if __name__ == "__main__":
    main()
