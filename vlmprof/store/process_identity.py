"""``ProcessIdentity``: which process on which host holds a folder's lease, and whether it can be known to be dead."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from vlmprof.regular_files import json_object


def now() -> str:
    """The current time in UTC, to the second, in the format of all times in a results folder."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """A process that writes to a results folder, as its claim describes it."""

    host: str = "an unknown host"
    pid: int = 0
    since: str = ""
    """When it made the claim."""
    kernel: str = ""
    """The kernel's boot id: unique to one boot of one host."""
    processes: str = ""
    """The PID namespace in which ``pid`` is valid: containers have their own."""
    born: str = ""
    """When the process started, in clock ticks since boot: process ids are reused."""
    last_beat: str = ""
    """The time of its last heartbeat, by its own clock."""

    @classmethod
    def this_process(cls) -> ProcessIdentity:
        """The identity of the calling process."""
        return cls(
            host=platform.node(), pid=os.getpid(), since=now(), kernel=_boot_id(), processes=_pid_namespace(),
            born=_start_time(os.getpid()),
        )  # fmt: skip

    @classmethod
    def read(cls, data: bytes | None, last_beat: str) -> ProcessIdentity:
        """Parse a claim; fields that it lacks, or that are not what a claim has there, keep their defaults."""
        claim = json_object(data or b"")
        kinds = {field.name: type(field.default) for field in fields(cls)}
        sound: dict[str, Any] = {name: value for name, value in claim.items() if type(value) is kinds.get(name)}
        return cls(**sound | {"last_beat": last_beat})

    def as_dict(self) -> dict[str, object]:
        """The content of a claim: all fields that have a value."""
        return {name: value for name, value in asdict(self).items() if value}

    def on_this_host(self) -> bool:
        """Whether it ran on this host, before its last boot or since."""
        return (bool(self.kernel) and self.kernel == _boot_id()) or self.host == platform.node()

    def is_known_dead(self) -> bool:
        """Whether it ran in this boot and PID namespace, and no longer exists there."""
        if not (self.kernel and self.born) or (self.kernel, self.processes) != (_boot_id(), _pid_namespace()):
            return False
        return _start_time(self.pid) != self.born

    def __str__(self) -> str:
        since = f"since {self.since}" if self.since else ""
        parts = [f"process {self.pid} on {self.host}", since, self._heartbeat()]
        return f"another sweep ({', '.join(part for part in parts if part)})"

    def _heartbeat(self) -> str:
        if not self.last_beat:
            return "no heartbeat yet"
        if self.kernel != _boot_id():
            return f"last heartbeat {self.last_beat} by its clock"
        try:
            age = (datetime.now(UTC) - datetime.fromisoformat(self.last_beat)).total_seconds()
        except (ValueError, TypeError):  # no time, or one without a zone
            return "its heartbeat is damaged"
        return f"heartbeat {age:.0f} s old" if age > -1 else "its heartbeat is dated in the future"


def _boot_id() -> str:
    return _read_stripped(Path("/proc/sys/kernel/random/boot_id"))


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """In clock ticks since boot; empty if the process does not exist or is a zombie."""
    # The program's name is in parentheses and may contain spaces; the start time is the 20th field after it, proc(5).
    after = _read_stripped(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return after[19] if len(after) > 19 and after[0] not in "ZX" else ""


def _read_stripped(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
