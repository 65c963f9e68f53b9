"""Two writers of one place, of which the first was believed dead: whatever it still does, only one of them counts."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import trial_row
from tests.store.folders import objects
from tests.store.test_lease import Clock
from vlmprof.errors import StoreError
from vlmprof.store import lease, tables
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.lease import Lease
from vlmprof.store.ledger import read_states

TRIALS = ("a", "b", "c")
OLD, NEW = 0.1, 0.9


def finish(collector, trial, accuracy):
    row = {**trial_row({"max_crops": 2}, accuracy=accuracy), "trial": trial}
    answers = tuple({"trial": trial, "sample": f"q{n}", "score": accuracy} for n in range(3))
    collector.finish(TrialResult(trial=trial, knobs=("max_crops",), state="done", row=row, samples=answers))


steps = st.lists(st.tuples(st.sampled_from(["old", "new"]), st.sampled_from(TRIALS)), max_size=8)


@settings(deadline=None, max_examples=25)
@given(before=st.sets(st.sampled_from(TRIALS), max_size=1), after=steps, looks=st.booleans())
def test_only_what_the_holder_commits_is_read(before, after, looks):
    place, clock, committed = objects(), Clock(), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "time", clock)
        old = Collector(place, "mine", wait_s=1)
        for trial in before:
            finish(old, trial, OLD)
            committed[trial] = OLD
        old._lease._released.set()  # it is stopped, or cut off: no heartbeat any more
        old._lease._beating.join()
        new = Collector(place, "mine", wait_s=1)
        if not looks:  # every line of the old one slips in behind its look at the lease
            patch.setattr(Lease, "check", lambda self: None)
        for who, trial in after:
            if who == "new":
                finish(new, trial, NEW)
                committed.setdefault(trial, NEW)
            elif looks and trial not in before:  # of a trial that it has kept it need not write anything
                with pytest.raises(StoreError, match="taken over by another sweep"):
                    finish(old, trial, OLD)
            else:
                with suppress(StoreError):
                    finish(old, trial, OLD)
        new.close()
    assert read_states(place) == dict.fromkeys(committed, "done")
    frame, samples = tables.read(place, "trials"), tables.read(place, "samples")
    assert dict(zip(frame["trial"], frame["accuracy"], strict=True)) == committed
    assert samples.groupby("trial")["score"].agg(["size", "min", "max"]).to_dict("index") == {
        trial: {"size": 3, "min": value, "max": value} for trial, value in committed.items()
    }
