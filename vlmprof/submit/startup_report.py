"""``python -m vlmprof.submit.startup_report JOB``: the first step of a submitted job: prints one line about its host.

The submitter reads the line from the job's log: which vlmprof and Python run there, and where the results will be.
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
    """Where a job runs, and with which versions."""

    vlmprof: str
    python: str
    host: str
    results: str
    """The results folder, absolute; empty if the job cannot be read there, which the next step then reports."""


def startup_report(job: Path) -> StartupReport:
    """The report of this process, with the results folder of the job."""
    from vlmprof.job.spec import survey

    spec = survey(job).spec
    where = spec.where if spec else ""
    results = where if "://" in where or not where else str(Path(where).expanduser().absolute())
    return StartupReport(vlmprof=__version__, python=platform.python_version(), host=platform.node(), results=results)


def find_report(log: str) -> StartupReport | None:
    """The report in the log of a job; None if it is not there, or not yet."""
    for line in log.splitlines():
        if line.startswith(MARK):
            try:
                fields: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return StartupReport(**{name: str(fields[name]) for name in StartupReport.__slots__})
            except (ValueError, KeyError):
                return None
    return None


def main(arguments: list[str]) -> None:
    """Print the report for the job file in ``arguments[0]``."""
    print(MARK + json.dumps(asdict(startup_report(Path(arguments[0])))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
