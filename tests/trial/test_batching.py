from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vlmprof.trial.batching import GROWTH, HEADROOM, BatchSizer

GIB = 2**30


def settle(sizer: BatchSizer, most: int, total: int | None, fits: int, base: int, each: int) -> list[int]:
    """Drive the sizer against a device where ``fits`` samples fit; the sizes it asked to run."""
    asked: list[int] = []
    for _ in range(100):
        size = sizer.ask("k", most, total)
        if asked and asked[-1] == size:
            return asked
        asked.append(size)
        if size == 0:
            return asked
        if size <= fits:
            sizer.tell_fit("k", size, base + each * size if total else None)
        else:
            sizer.tell_out_of_memory("k", size)
    raise AssertionError(f"never settles: {asked}")


def test_without_measured_peaks_the_job_s_maximum_is_the_answer() -> None:
    assert settle(BatchSizer(), 32, None, fits=100, base=0, each=0) == [32]


def test_without_measured_peaks_a_failure_halves() -> None:
    asked = settle(BatchSizer(), 32, None, fits=10, base=0, each=0)
    assert asked[-1] <= 10
    assert len(asked) <= 4


def test_a_measured_peak_grows_to_the_headroom_without_a_failure() -> None:
    base, each, total = 14 * GIB, 2 * GIB, 139 * GIB
    asked = settle(BatchSizer(), 1000, total, fits=62, base=base, each=each)
    best = (HEADROOM * total - base) / each
    assert asked[0] == 1
    assert 0.9 * best - 1 <= asked[-1] <= best
    assert all(b <= GROWTH * a for a, b in pairwise(asked))


def test_what_does_not_fit_at_all_is_an_answer() -> None:
    assert settle(BatchSizer(), 32, 10 * GIB, fits=0, base=0, each=11 * GIB)[-1] == 0


def test_configurations_do_not_share_what_they_must_not() -> None:
    sizer = BatchSizer()
    sizer.tell_out_of_memory("big", 4)
    assert sizer.ask("small", 32, None) == 32


@given(
    most=st.integers(1, 300),
    fits=st.integers(0, 300),
    base=st.integers(0, 10),
    each=st.integers(1, 5),
    measured=st.booleans(),
)
def test_it_settles_on_a_size_that_ran_and_never_passes_its_bounds(
    most: int, fits: int, base: int, each: int, measured: bool
) -> None:
    total = (base + each * max(fits, 1)) if measured else None
    sizer = BatchSizer()
    asked = settle(sizer, most, total, fits, base, each)
    assert all(0 <= size <= most for size in asked)
    assert asked[-1] <= fits
    assert asked[-1] == 0 or asked[-1] in asked
    if fits:
        assert asked[-1] > 0


@given(st.lists(st.tuples(st.integers(1, 64), st.booleans()), max_size=20))
def test_after_any_history_the_answer_is_below_every_failure(history: list[tuple[int, bool]]) -> None:
    sizer = BatchSizer()
    for size, fitted in history:
        (sizer.tell_fit("k", size, None) if fitted else sizer.tell_out_of_memory("k", size))
    failures = [size for size, fitted in history if not fitted]
    assert sizer.ask("k", 64, None) < min(failures, default=65)
