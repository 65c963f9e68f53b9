"""``Submission``: a job on a cluster, from the details that Ray's Jobs API reports. Imports no ray."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, final

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED_CODE = 130
"""Exit code of a sweep that was stopped; the same as that of an interrupted one."""
_ATTEMPT = re.compile(r"(?P<base>.+)-r(?P<attempt>\d+)")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One attempt of a job."""

    id: str
    base: str
    """The id of its first attempt."""
    attempt: int
    name: str
    """The job's name."""
    user: str
    """Who submitted it."""
    state: str
    """PENDING, RUNNING, or one of ``ENDED``."""
    began: float
    """Seconds since 1970; 0 before it began."""
    took_s: float | None
    """None while it runs."""
    message: str
    """Ray's message on how it ended."""
    code: int | None
    """Exit code of its process, as a shell reports it: 128 + n if signal n ended it."""

    @property
    def ended(self) -> bool:
        """Whether it no longer runs."""
        return self.state in ENDED

    @property
    def exit_code(self) -> int:
        """The exit code that ``vlmprof run`` would have had on this machine."""
        if self.state == "SUCCEEDED":
            return 0
        return STOPPED_CODE if self.state == "STOPPED" else self.code or 1


def of_details(details: Any) -> Submission:
    """From the details of a job that Ray's Jobs API reports."""
    metadata = details.metadata or {}
    attempt = _ATTEMPT.fullmatch(details.submission_id)
    began, ended = (details.start_time or 0) / 1000, details.end_time
    code = details.driver_exit_code
    return Submission(
        id=details.submission_id,
        base=attempt["base"] if attempt else details.submission_id,
        attempt=int(attempt["attempt"]) if attempt else 1,
        name=metadata.get("name", ""),
        user=metadata.get("user", ""),
        state=str(getattr(details.status, "value", details.status)),
        began=began,
        took_s=ended / 1000 - began if ended else None,
        message=details.message or "",
        code=128 - code if code and code < 0 else code,
    )
