"""``Submission``: a job on a cluster as the cluster tells it. Imports no ray."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, final

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED_CODE = 130
"""Exit code of a sweep that was stopped, as of one that was interrupted."""
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
    """Of the job."""
    user: str
    state: str
    """PENDING, RUNNING, or one of ``ENDED``."""
    began: float
    """Seconds since 1970; 0 before it began."""
    took_s: float | None
    """None while it runs."""
    said: str
    """Ray's word on how it ended."""
    code: int | None
    """Of the process on the cluster, as a shell tells it: 128 + n where signal n ended it."""

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ENDED

    @property
    def exit_code(self) -> int:
        """As ``vlmprof run`` would have ended on this machine."""
        if self.state == "SUCCEEDED":
            return 0
        return STOPPED_CODE if self.state == "STOPPED" else self.code or 1


def of_details(details: Any) -> Submission:
    """From what Ray's Jobs API says of a job."""
    about = details.metadata or {}
    attempt = _ATTEMPT.fullmatch(details.submission_id)
    began, ended = (details.start_time or 0) / 1000, details.end_time
    code = details.driver_exit_code
    return Submission(
        id=details.submission_id,
        base=attempt["base"] if attempt else details.submission_id,
        attempt=int(attempt["attempt"]) if attempt else 1,
        name=about.get("name", ""),
        user=about.get("user", ""),
        state=str(getattr(details.status, "value", details.status)),
        began=began,
        took_s=ended / 1000 - began if ended else None,
        said=details.message or "",
        code=128 - code if code and code < 0 else code,
    )
