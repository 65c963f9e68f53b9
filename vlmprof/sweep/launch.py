"""A job on a cluster, from connecting to letting go. What the command line calls."""

from __future__ import annotations

from collections.abc import Sequence

from vlmprof.plan.point import TrialPlan
from vlmprof.spec import SweepSpec
from vlmprof.store.job import Submitted
from vlmprof.store.ledger import State
from vlmprof.sweep.cluster import LOCAL, ON_CPUS, connected, share_of
from vlmprof.sweep.extras import NONE, Extras
from vlmprof.sweep.snapshot import Display


def launch(  # noqa: PLR0913 (what is run, and by name how)
    spec: SweepSpec,
    plans: Sequence[TrialPlan],
    address: str,
    display: Display,
    *,
    verbose: bool,
    extras: Extras = NONE,
    submitted: Submitted | None = None,
) -> dict[str, State]:
    """Run what is missing of a job; how each trial of this run ended.

    Raises:
        UserError: no cluster at the address, or none of its nodes can hold a trial.
        StoreError: another sweep is writing to the folder, or nothing can be written there.
    """
    with connected(address, verbose=verbose) as dashboard:
        from vlmprof.sweep.driver import Session
        from vlmprof.sweep.trainable import Care

        if dashboard:
            display.note(f"dashboard: http://{dashboard}")
        care = Care(chunk=spec.chunk, timeout_s=spec.timeout_s)
        share = share_of(spec.resources, display.note)
        if spec.resources.gpus == "auto" and not share.gpus and address != LOCAL:
            display.note(ON_CPUS)
        session = Session(spec.where, spec.name, display, share, verbose=verbose, care=care, extras=extras)
        try:
            session.run(session.open_run(plans, spec.model_dump(mode="json"), submitted))
        except BaseException:
            session.let_go()
            raise
        return session.close()
