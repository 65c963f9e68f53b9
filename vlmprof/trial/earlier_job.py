"""``as_begun``: a job with the ``timing`` that its results folder was begun with, where defaults have changed since."""

from __future__ import annotations

from dataclasses import replace

from vlmprof.job.strict_yaml import JobText, parse, written
from vlmprof.store.earlier_defaults import earlier_timing
from vlmprof.store.filesystem import Where
from vlmprof.trial.resolve import Job, prepare


def as_begun(job: Job, where: Where) -> Job:
    """The job with the trials that its folder has, where it was begun by a version with other defaults of ``timing``.

    Only what the job leaves out is filled in, and a note says what. Its stored text stays as its author wrote it.

    Args:
        job: A job that has passed all checks.
        where: Its results folder, which may not exist yet.

    Raises:
        StoreError: the ledger of the folder is damaged.
    """
    earlier = earlier_timing(where)
    raw, _ = parse(job.submitted.text) if earlier else (None, ())
    if raw is None:
        return job
    given = raw.get("timing") or {}
    filled = {key: value for key, value in earlier.items() if key not in given}
    if all(getattr(job.spec.timing, key) == value for key, value in filled.items()):
        return job
    text = written({**raw, "timing": {**given, **filled}})
    begun = prepare(JobText(text=text, source=job.source), allow_many=True)
    values = ", ".join(f"{key}: {value}" for key, value in filled.items())
    note = f"timing: {values}, as {where} was begun by an earlier version; a new name or storage has today's defaults"
    return replace(begun, submitted=job.submitted, notes=(*begun.notes, note))
