"""``ProcessIdentity``: which process of which host holds a place, and whether it can be known to be dead from here."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import final


def now() -> str:
    """UTC, to the second, as everything in a results folder writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """A process that writes, as it told of itself."""

    host: str = "an unknown host"
    pid: int = 0
    since: str = ""
    kernel: str = ""
    """Of one boot of one host: what no other host has, and this one had not before."""
    processes: str = ""
    """The namespace in which the number of the process means something: containers have their own."""
    born: str = ""
    """When the process began, in the kernel's ticks: numbers of processes come again."""
    beaten: str = ""
    """The time of its last heartbeat, by its own clock."""

    @classmethod
    def this_process(cls) -> ProcessIdentity:
        """Who asks."""
        return cls(
            host=platform.node(), pid=os.getpid(), since=now(), kernel=_kernel(), processes=_namespace(),
            born=_born(os.getpid()),
        )  # fmt: skip

    @classmethod
    def read(cls, data: bytes | None, beaten: str) -> ProcessIdentity:
        """What a claim says; what it does not say stays unknown."""
        try:
            told = json.loads(data or b"{}")
        except ValueError:
            told = {}
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in told.items() if name in names} | {"beaten": beaten})

    def told(self) -> dict[str, object]:
        """What is written into a claim."""
        return {name: value for name, value in asdict(self).items() if value}

    def on_this_host(self) -> bool:
        """Whether it ran on this host, before its last boot or since."""
        return (bool(self.kernel) and self.kernel == _kernel()) or self.host == platform.node()

    def is_known_dead(self) -> bool:
        """Whether it was a process among those that this one can see, and is not there any more."""
        if not (self.kernel and self.born) or (self.kernel, self.processes) != (_kernel(), _namespace()):
            return False
        return _born(self.pid) != self.born

    def __str__(self) -> str:
        said = [f"process {self.pid} on {self.host}", f"since {self.since}" if self.since else "", self._heartbeat()]
        return f"another sweep ({', '.join(part for part in said if part)})"

    def _heartbeat(self) -> str:
        if not self.beaten:
            return "no heartbeat yet"
        if self.kernel != _kernel():
            return f"last heartbeat {self.beaten} by its clock"
        age = (datetime.now(UTC) - datetime.fromisoformat(self.beaten)).total_seconds()
        return f"heartbeat {max(age, 0):.0f} s old"


def _kernel() -> str:
    return _line(Path("/proc/sys/kernel/random/boot_id"))


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _born(pid: int) -> str:
    # The name of the program stands in parentheses and may hold spaces; the start is the 20th field after it, proc(5).
    after = _line(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return after[19] if len(after) > 19 and after[0] not in "ZX" else ""


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
