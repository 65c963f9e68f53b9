"""Joint draws: by hand, against scipy's bootstrap, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from vlmprof.stats.resampling import (
    PROCESS_EFFECT,
    PairedScores,
    log_times,
    macro_average,
    mean_covariance,
    mean_draws,
)


def paired(samples=400, configurations=3, per_cluster=4, seed=0):
    rng = np.random.default_rng(seed)
    clusters = np.arange(samples) // per_cluster
    hard = rng.standard_normal(samples) + rng.standard_normal(samples)[clusters]
    scores = (hard[:, None] + 0.5 * rng.standard_normal((samples, configurations)) < 0.3).astype(float)
    return PairedScores(scores=scores, clusters=clusters)


def test_covariance_by_hand():
    # Clusters (1, 1) and (0, 1) of one configuration, and (1, 0), (0, 0) of another: means 3/4 and 1/4, residual sums
    # 1/2, -1/2 and 1/2, -1/2; 2 / 1 * (1/4 + 1/4) / 4^2 = 1/16 for both and for their product.
    given = PairedScores(scores=np.array([[1, 1], [1, 0], [0, 0], [1, 0.0]]), clusters=np.array([7, 7, 3, 3]))
    assert mean_covariance(given) == pytest.approx(np.full((2, 2), 1 / 16))
    # Either cluster twice, or one of each: all draws of the first mean are 1, 3/4 or 1/2, and both move together.
    drawn = mean_draws(given, 400)
    assert set(np.unique(drawn[:, 0])) == {0.5, 0.75, 1.0}
    assert drawn[:, 0] - drawn[:, 1] == pytest.approx(np.full(400, 0.5))


def test_draws_vary_as_the_covariance_says():
    given = paired()
    drawn = mean_draws(given, 4000)
    assert np.cov(drawn.T) == pytest.approx(mean_covariance(given), rel=0.12)
    assert drawn.mean(axis=0) == pytest.approx(given.means, abs=0.002)


def test_scipy_agrees_on_the_error_of_a_mean_of_clusters():
    given = paired(configurations=1)
    of_clusters = given.scores[:, 0].reshape(-1, 4).mean(axis=1)
    found = scipy.stats.bootstrap((of_clusters,), np.mean, n_resamples=4000, rng=np.random.default_rng(1))
    assert mean_draws(given, 4000).std() == pytest.approx(found.standard_error, rel=0.06)


def test_a_difference_of_paired_configurations_is_surer_than_either():
    drawn = mean_draws(paired(), 2000)
    assert (drawn[:, 0] - drawn[:, 1]).std() < 0.7 * drawn[:, 0].std()


def test_weights_and_strata_by_hand():
    # Two strata of two clusters: one is always (1, 1), the other (0, 0); drawn apart, their mean never moves. The
    # second stands for three times as many samples: 1 / (1 + 3).
    scores, clusters = np.array([[1.0], [1.0], [0.0], [0.0]]), np.arange(4)
    apart = PairedScores(
        scores=scores, clusters=clusters, strata=np.array([0, 0, 1, 1]), weights=np.array([1, 1, 3, 3.0])
    )
    assert apart.means == pytest.approx([0.25])
    assert mean_draws(apart, 50) == pytest.approx(np.full((50, 1), 0.25))
    assert mean_covariance(apart) == pytest.approx(np.zeros((1, 1)))
    assert mean_draws(PairedScores(scores=scores, clusters=clusters), 50).std() > 0.1


def test_a_macro_average_is_the_mean_over_tasks():
    first, second = np.array([[0.0, 1.0]]), np.array([[1.0, 1.0]])
    assert macro_average([first, second]).tolist() == [[0.5, 1.0]]
    assert macro_average([first, second], [3, 1]).tolist() == [[0.25, 1.0]]
    with pytest.raises(ValueError, match="one shape"):
        macro_average([first, np.zeros((1, 3))])


def test_the_same_seed_gives_the_same_draws():
    assert (mean_draws(paired(), 20, seed=3) == mean_draws(paired(), 20, seed=3)).all()
    assert (mean_draws(paired(), 20, seed=3) != mean_draws(paired(), 20, seed=4)).any()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scores": np.array([[1.0], [math.nan]])}, "1 of 2 samples"),
        ({"scores": np.zeros((0, 2))}, "expected scores of samples"),
        ({"scores": np.zeros((2, 1)), "clusters": np.zeros(3)}, "clusters of 2 samples, got 3"),
        ({"scores": np.zeros((2, 1)), "weights": np.array([1.0, 0.0])}, "weights above 0"),
    ],
)
def test_nonsense_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        PairedScores(**{"clusters": np.zeros(2, dtype=np.int64), **given})


def test_a_single_cluster_and_one_in_two_strata_are_refused():
    scores, one = np.zeros((4, 1)), np.zeros(4, dtype=np.int64)
    with pytest.raises(ValueError, match="two clusters or more, got 1"):
        mean_draws(PairedScores(scores=scores, clusters=one))
    with pytest.raises(ValueError, match="one cluster lie in two"):
        mean_draws(PairedScores(scores=scores, clusters=np.array([0, 0, 1, 1]), strata=np.array([0, 1, 1, 1])))


# --- latency ----------------------------------------------------------------------------------------------------------


def sessions(processes, effect=0.0, within=0.01, configurations=200, seed=0):
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, effect, (configurations, processes, 1))
    return (100 * np.exp(shift + rng.normal(0, within, (configurations, processes, 8)))).tolist()


def test_one_process_takes_the_prior_and_says_so():
    times = log_times(sessions(1))
    assert not times.is_measured and times.process_effect == PROCESS_EFFECT
    assert times.words == "latency from process to process 0.4 %, assumed (timing.processes: 2 or more measures it)"
    # Of eight times with 1 %: sqrt(pi / 2) / sqrt(8) of that, and 0.4 % of the process.
    assert np.median(times.errors) == pytest.approx(math.hypot(0.01 * 1.2533 / math.sqrt(8), 0.004), rel=0.15)
    assert times.draws(4000).std() == pytest.approx(np.sqrt(np.mean(times.errors**2)), rel=0.2)


@pytest.mark.parametrize("effect", [0.004, 0.02])
def test_several_processes_measure_their_effect(effect):
    times = log_times(sessions(3, effect))
    assert times.is_measured and times.process_freedom == 400
    assert times.process_effect == pytest.approx(effect, rel=0.25)
    assert "measured" in times.words


def test_equal_times_leave_the_process_alone():
    times = log_times([[[5.0] * 8], [[7.0]]])
    assert times.errors.tolist() == [PROCESS_EFFECT, PROCESS_EFFECT]


def test_times_that_drift_together_count_less():
    rng = np.random.default_rng(0)
    walk = np.exp(0.01 * np.cumsum(rng.normal(size=64)))
    assert log_times([[walk.tolist()]]).within[0] > 2 * log_times([[rng.permutation(walk).tolist()]]).within[0]


@pytest.mark.parametrize("bad", [[[[1.0, 0.0]]], [[[1.0, math.nan]]], [[]], [[[]]]])
def test_times_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="configuration 0 has"):
        log_times(bad)
