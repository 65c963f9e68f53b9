"""``Origin``: the ``vlmprof submit`` that a sweep came from, for the advice in its output. Imports no ray.

A submitted job runs ``vlmprof run`` on the cluster's head node, but its output is read elsewhere, with ``vlmprof logs``
or on Ray's dashboard: commands in it must work where it was submitted. They travel as metadata of the job, which Ray
hands to the job's first process in an environment variable, and which everyone who opens the dashboard can read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from vlmprof.submit.connection import DEFAULT, token_source

AGAIN = "vlmprof submit JOB.yaml"
"""The command that submits a job, where a job does not say which one it was: an earlier vlmprof sent it."""
KIND, SWEEP, FETCH = "vlmprof", "sweep", "fetch"
"""The key in Ray's metadata of a job, and its two values."""
RAY_JOB_NAME, RAY_JOB_ID = "job_name", "job_submission_id"
"""Ray's own keys: the name of a job, and the submission id, which Ray adds."""
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this variable, for a job's first process alone, to JSON with the job's metadata."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a sweep was submitted and how."""

    id: str
    """The submission id."""
    again: str
    """The command that submitted it; typed again it runs what is missing."""
    address: str
    """URL of the dashboard, as the submitter reaches it; empty if it is not known."""

    @property
    def metadata(self) -> dict[str, str]:
        """For the metadata of the job; Ray adds the id."""
        return {"again": self.again, "address": self.address}

    @property
    def address_option(self) -> str:
        """What a command needs to reach the same cluster."""
        return f" --address {self.address}" if self.address not in ("", DEFAULT) else ""

    def command(self, name: str, *rest: str) -> str:
        """A command about this submission: ``vlmprof logs first-6b1e --address ...``."""
        return " ".join(["vlmprof", name, self.id, *rest]) + self.address_option


def login(dashboard: str, *, asks_for_token: bool) -> str:
    """Where the reader of this process's output finds Ray's dashboard, and how to log in.

    Args:
        dashboard: Host and port, as this process reaches it.
        asks_for_token: Whether the cluster requires a token.
    """
    submitted = origin()
    url = submitted.address if submitted and submitted.address else f"http://{dashboard}"
    token = "the cluster's token" if submitted else f"the token in {token_source()}"
    return f"dashboard: {url}" + (f", log in with {token}" if asks_for_token else "")


def origin() -> Origin | None:
    """Of this process; None if it was not started by ``vlmprof submit``."""
    metadata = _metadata(os.environ.get(JOB_CONFIG, ""))
    if metadata.get(KIND) != SWEEP or not metadata.get(RAY_JOB_ID):
        return None
    again, address = str(metadata.get("again") or AGAIN), str(metadata.get("address", ""))
    return Origin(id=str(metadata[RAY_JOB_ID]), again=again, address=address)


def _metadata(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)["metadata"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, Mapping) else {}
