"""``python -m vlmprof.submit.startup_report JOB``: the first step of a submitted job: one line that says where it runs.

The submitter reads the line from the job's log: which vlmprof and Python run there, and where the results will lie.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from vlmprof import __version__

MARK = "vlmprof-arrival "


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StartupReport:
    """Where a job runs."""

    vlmprof: str
    python: str
    host: str
    results: str
    """The results folder, absolute; empty where the job cannot be read there, which the job then says itself."""


def startup_report(job: Path) -> StartupReport:
    """Where this process is, and where the job's results go from here."""
    from vlmprof.job.spec import survey

    spec = survey(job).spec
    place = spec.where if spec else ""
    results = place if "://" in place or not place else str(Path(place).expanduser().absolute())
    return StartupReport(vlmprof=__version__, python=platform.python_version(), host=platform.node(), results=results)


def find_report(log: str) -> StartupReport | None:
    """The line in the log of a job; None where it is not there, or not there yet."""
    for line in log.splitlines():
        if line.startswith(MARK):
            try:
                said: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return StartupReport(**{name: str(said[name]) for name in StartupReport.__slots__})
            except (ValueError, KeyError):
                return None
    return None


def main(arguments: list[str]) -> None:
    """Print the report of the job file that is named."""
    print(MARK + json.dumps(asdict(startup_report(Path(arguments[0])))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
