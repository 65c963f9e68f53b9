import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import trial_row
from tests.store.folders import KINDS, objects, place_of
from vlmprof.analyze.status import status
from vlmprof.store import compaction, schema, tables
from vlmprof.store.compaction import Compactor
from vlmprof.store.filesystem import ResultsFolder
from vlmprof.store.ledger import Ledger
from vlmprof.store.tables import schema_of

FEW = 4


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(compaction, "MERGE_BATCH", FEW)


def keep(place, ledger, trial, accuracy, state="done", **knobs):
    row = {**trial_row(knobs or {"max_crops": 2}, accuracy=accuracy, state=state), "trial": trial}
    if state == "done":
        answers = [{"trial": trial, "sample": f"q{n}", "score": accuracy} for n in range(2)]
        tables.write(place, "samples", trial, answers, schema.SAMPLES, ledger.epoch)
    tables.write(place, "trials", trial, [row], schema.trials_schema(schema.knobs_of(row)), ledger.epoch)
    ledger.append(state, trial=trial)


def scores(place):
    frame = tables.read(place, "trials")
    return dict(zip(frame["trial"], frame["accuracy"], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_in_fewer_objects(kind, tmp_path, monkeypatch):
    place = place_of(kind, tmp_path, monkeypatch)
    ledger = Ledger(place, epoch=1)
    merger = Compactor(place, ledger)
    for number, trial in enumerate("hgfedcba"):
        keep(place, ledger, trial, number / 10, **({"max_crops": 2} if number % 2 else {"moe_top_k": 4}))
    keep(place, ledger, "i", 0.9, "failed")
    before = {table: tables.read(place, table) for table in ("trials", "samples", "timings")}
    merger.merge()
    merger.merge()
    assert len(place.names("trials")) < 9
    for table, frame in before.items():
        assert tables.read(place, table).equals(frame)
        assert schema_of(tables.read(place, table)).equals(schema_of(frame), check_metadata=True)
    assert tables.without_rows(place) == []
    assert status(place).without_row == ()
    ledger.close()


def test_a_trial_that_runs_again_counts_once(tmp_path, monkeypatch):
    place = place_of("mount", tmp_path, monkeypatch)
    ledger = Ledger(place, epoch=1)
    merger = Compactor(place, ledger)
    for trial in "abcd":
        keep(place, ledger, trial, 0.1, "failed")
    merger.merge()
    ledger.append("started", trial="b")
    assert sorted(scores(place)) == ["a", "c", "d"]
    keep(place, ledger, "b", 0.8)
    assert scores(place) == {"a": 0.1, "b": 0.8, "c": 0.1, "d": 0.1}
    for trial in "efg":
        keep(place, ledger, trial, 0.5)
    merger.merge()
    assert scores(place) == {"a": 0.1, "b": 0.8, "c": 0.1, "d": 0.1, "e": 0.5, "f": 0.5, "g": 0.5}


def test_large_objects_stay_as_they_are(tmp_path, monkeypatch):
    place = place_of("disk", tmp_path, monkeypatch)
    monkeypatch.setattr(compaction, "LARGE_BYTES", 0)
    ledger = Ledger(place)
    for trial in "abcd":
        keep(place, ledger, trial, 0.1)
    Compactor(place, ledger).merge()
    assert sorted(place.names("trials")) == [f"{trial}.parquet" for trial in "abcd"]
    assert [line["event"] for line in ledger.lines] == ["done"] * FEW
    ledger.close()


def test_an_object_that_was_removed_is_named_and_stops_nothing(tmp_path, monkeypatch):
    place = place_of("disk", tmp_path, monkeypatch)
    ledger = Ledger(place)
    for trial in "abcdef":
        keep(place, ledger, trial, 0.1)
    place.remove("trials/c.parquet")
    Compactor(place, ledger).merge()
    ledger.close()
    assert sorted(scores(place)) == ["a", "b", "d", "e", "f"]
    assert tables.without_rows(place) == ["c"]
    (merged,) = [name for name in place.names("trials") if name.startswith("merged")]
    place.remove(f"trials/{merged}")
    assert tables.without_rows(place) == ["a", "b", "c", "d", "e"]


def test_a_reader_between_two_looks_asks_the_ledger_again(monkeypatch):
    place = objects()
    ledger = Ledger(place, epoch=1)
    merger = Compactor(place, ledger)
    for trial in "abcd":
        keep(place, ledger, trial, 0.1)
    real, looks = ResultsFolder.names, []

    def names(self, folder):
        if folder == "trials" and not looks:  # after the reader has read the ledger, the small objects go
            looks.append(folder)
            merger.merge()
            for name in list(real(self, folder)):
                if not name.startswith("merged"):
                    self.remove(f"trials/{name}")
        return real(self, folder)

    monkeypatch.setattr(ResultsFolder, "names", names)
    assert sorted(scores(place)) == list("abcd")


class Dead(Exception):
    """The process ends here."""


@settings(deadline=None, max_examples=20)
@given(cut=st.integers(0, 45), again=st.integers(0, 45))
def test_whatever_dies_when_every_committed_row_is_read_once(cut, again):
    """Two processes, one after the other, each cut off after some steps in the store; all that was told is read."""
    place, told = objects(), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "MERGE_BATCH", FEW)
        for epoch, steps in ((1, cut), (2, again)):
            with pytest.MonkeyPatch.context() as inner:
                cut_off(inner, steps)
                run(place, epoch, told)
            check(place, told)
    last = Ledger(place, epoch=3)
    Compactor(place, last).merge()
    check(place, told)


def cut_off(patch, steps):
    left = [steps]

    def limited(real):
        def call(self, *args):
            if not left[0]:
                raise Dead
            left[0] -= 1
            real(self, *args)

        return call

    patch.setattr(ResultsFolder, "write", limited(ResultsFolder.write))
    patch.setattr(ResultsFolder, "remove", limited(ResultsFolder.remove))


def run(place, epoch, told):
    try:
        ledger = Ledger(place, epoch=epoch)
        merger = Compactor(place, ledger)
        for number in range(7):
            trial, accuracy = f"t{number:02d}", epoch + number / 100
            if ledger.states.get(trial) == "done" and epoch == 2 and number % 3:
                continue  # the others run again, as if they had failed
            keep(place, ledger, trial, accuracy)
            told[trial] = accuracy
            merger.merge()
    except Dead:
        return


def check(place, told):
    """What was acknowledged is there; a line that was on its way may be too, with all of its data."""
    if not told:
        return
    frame = tables.read(place, "trials")
    assert frame["trial"].is_unique
    found = dict(zip(frame["trial"], frame["accuracy"], strict=True))
    later = {trial: value for trial, value in found.items() if told.get(trial) != value}
    assert len(later) <= 1
    assert told.keys() <= found.keys()
    samples = tables.read(place, "samples")
    assert not samples.duplicated(["trial", "sample"]).any()
    assert {trial: part["score"].iloc[0] for trial, part in samples.groupby("trial")} == found
    assert set(samples.groupby("trial").size()) == {2}
    told.update(found)
