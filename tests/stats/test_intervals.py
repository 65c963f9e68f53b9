"""Hand-computed cases first, then coverage by simulation, seeded."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.interval_simulation import ACCURACY_CELLS, accuracy_coverage
from vlmprof.stats.intervals import bootstrap_interval, effective_size, mean_interval


def test_without_clusters_it_is_wilsons_interval():
    # 7 of 10: Wilson's 95 % interval is 0.3968 to 0.8922 (a textbook value).
    interval = mean_interval([1.0] * 7 + [0.0] * 3, list(range(10)))
    assert interval.mean == 0.7
    assert (interval.low, interval.high) == (pytest.approx(0.39678, abs=1e-5), pytest.approx(0.89221, abs=1e-5))


def test_effective_size_by_hand():
    # Clusters (1,1), (1,0), (0,0), (1,1): mean 5/8, residual sums 3/4, -1/4, -5/4, 3/4, their squares add to 2.75.
    # V = 4/3 * 2.75 / 64 = 0.0572917; 8 * (15/64 / 7) / V = 4.6753. Two clusters hold a 0: times (t[7] / t[1])^2 that
    # is 0.16, less than the 8^2 / 16 = 4 of clusters that each agree.
    scores = np.array([1, 1, 1, 0, 0, 0, 1, 1.0])
    assert effective_size(scores, list("aabbccdd")) == pytest.approx(4)


def test_effective_size_with_many_minority_clusters_by_hand():
    # Twenty clusters (1, 0) and twenty (1, 1, 1, 0) balance: V is that of 120 independent answers. All hold a 0.
    scores = np.array([1.0, 0.0] * 20 + [1.0, 1.0, 1.0, 0.0] * 20)
    clusters = np.concatenate([np.repeat(np.arange(20), 2), np.repeat(np.arange(20, 40), 4)]).tolist()
    assert effective_size(scores, clusters) == pytest.approx(120 * (1.98010 / 2.02269) ** 2, rel=1e-5)


def test_effective_size_with_two_clusters_by_hand():
    # 14 of 20 and 16 of 20: mean 3/4, residual sums -1 and 1; V = 2 * 2 / 1600 = 0.0025; 40 * (3/16 / 39) / V = 76.9,
    # above n only because two clusters balance by chance: 40, times (t[39] / t[1])^2 = (2.02269 / 12.70620)^2 is 1.01,
    # less than the two clusters themselves.
    scores = np.array([1.0] * 14 + [0.0] * 6 + [1.0] * 16 + [0.0] * 4)
    assert effective_size(scores, [0] * 20 + [1] * 20) == pytest.approx(2)


def test_scores_in_thirds_count_more_than_answers_by_hand():
    # 1/3 and 2/3 thirty times each: p (1 - p) = 1/4, variance 1/36 * 60 / 59; 60 * 1/4 / 59 * 60 / that = 540.
    assert effective_size(np.array([1 / 3, 2 / 3] * 30), list(range(60))) == pytest.approx(540)


def test_repeating_every_question_adds_no_evidence():
    scores, clusters = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 10, list(range(60))
    once, thrice = mean_interval(scores, clusters), mean_interval(scores * 3, clusters * 3)
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.02)


def test_balanced_clusters_count_no_more_than_their_questions():
    scores = np.array([0.0, 1.0] * 30)
    clusters = [i // 2 for i in range(60)]
    assert effective_size(scores, clusters) <= 60


@pytest.mark.parametrize("score", [0.0, 1.0, 0.3])
def test_where_all_agree_the_clusters_count(score):
    assert effective_size(np.full(12, score), [i // 3 for i in range(12)]) == 4
    interval = mean_interval([score] * 12, [i // 3 for i in range(12)])
    assert interval.low <= interval.mean <= interval.high
    assert interval.high - interval.low > 0.3


def test_one_cluster_is_one_answer():
    assert effective_size(np.array([1.0, 0.0, 1.0]), ["x"] * 3) == 1


@pytest.mark.parametrize(
    ("scores", "clusters"), [([], []), ([0.5], []), ([1.2], ["a"]), ([-0.1], ["a"]), ([math.nan, 1.0], ["a", "b"])]
)
def test_nonsense_is_refused(scores, clusters):
    with pytest.raises(ValueError, match="expected scores"):
        mean_interval(scores, clusters)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]), st.integers(0, 5)), min_size=1, max_size=60))
def test_interval_holds_its_mean_and_stays_in_range(questions):
    scores, clusters = zip(*questions, strict=True)
    interval = mean_interval(scores, clusters)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1


def test_order_does_not_matter():
    scores, clusters = [1.0, 0.0, 0.3, 1.0, 0.6, 1.0], list("aabbcc")
    backwards = mean_interval(scores[::-1], clusters[::-1])
    assert backwards.low == pytest.approx(mean_interval(scores, clusters).low)


CELLS = [
    # clusters, questions in each, accuracy, correlation in a cluster, scores in thirds
    (30, 6, 0.7, 0.3, False),
    (40, 10, 0.02, 0.6, False),
    (40, 10, 0.97, 0.3, False),
    (100, 3, 0.97, 0.6, False),
    (300, 1, 0.6, 0.0, True),
    (100, 3, 0.5, 0.1, True),
    (40, 10, 0.03, 0.6, True),
]


@pytest.mark.parametrize("cell", CELLS)
def test_coverage_of_the_accuracy(cell):
    row = accuracy_coverage(*cell, draws=400, seed=7)
    assert row["coverage"] >= 0.925  # two standard errors below 95 %; the docs say 93 % of longer runs
    if cell[4] and cell[1] == 1:
        assert row["coverage"] <= 0.975, "thirds are not covered by being far too wide"


@pytest.mark.exhaustive
@pytest.mark.parametrize("cell", ACCURACY_CELLS)
def test_coverage_of_the_accuracy_at_length(cell):
    assert accuracy_coverage(*cell, draws=2000, seed=11)["coverage"] >= 0.92


# --- the bootstrap of corpus metrics ----------------------------------------------------------------------------------


def ratio(sums):
    return sums[..., 0] / sums[..., 1]


def test_the_bootstrap_holds_the_truth_about_as_often_as_it_says():
    generator, held, draws = np.random.default_rng(3), 0, 200
    for _ in range(draws):
        hits = generator.binomial(4, 0.6, size=60)  # 60 clusters of 4
        parts = np.column_stack([hits, np.full(60, 4.0)])
        interval = bootstrap_interval(parts, ratio, range(60))
        assert interval is not None
        held += interval.low <= 0.6 <= interval.high
    assert 0.90 <= held / draws <= 0.985  # four standard errors about 0.95, and percentiles are a little short


def test_clusters_widen_the_bootstrap_and_their_order_does_not_matter():
    generator = np.random.default_rng(5)
    alike = np.repeat(generator.integers(0, 2, size=50).astype(float), 6)
    parts = np.column_stack([alike, np.ones(300)])
    clusters = np.repeat(np.arange(50), 6).tolist()
    wide, narrow = bootstrap_interval(parts, ratio, clusters), bootstrap_interval(parts, ratio, range(300))
    assert wide is not None and narrow is not None
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)
    assert bootstrap_interval(parts, ratio, clusters) == wide, "the same draws each time"


def test_no_bootstrap_where_it_would_be_wrong():
    assert bootstrap_interval(np.ones((29, 2)), ratio, range(29)) is None
    assert bootstrap_interval(np.ones((100, 2)), ratio, range(100)) is None
