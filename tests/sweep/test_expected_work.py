"""What trials are expected to cost where they run: answers that are cut cost no score, and a model is loaded once."""

from vlmprof.store.heartbeat import TrialWork
from vlmprof.sweep.cost import ScheduledTrial
from vlmprof.sweep.expected_work import expected_work


def work(trial, *, load=0, chain=0, score=10.0, timing=1.0):
    return ScheduledTrial(id=trial, load=load, chain=chain, score_cost=score, timing_cost=timing)


def test_answers_that_are_cut_from_longer_ones_are_not_scored_again():
    found = expected_work([work("long"), work("short", score=4.0), work("other", chain=1, score=4.0)])
    assert [one.score for one in found.values()] == [10.0, 0.0, 4.0]
    assert [one.timing for one in found.values()] == [1.0, 1.0, 1.0]


def test_a_longer_answer_after_a_shorter_one_is_scored():
    found = expected_work([work("short", score=4.0), work("long"), work("between", score=7.0)])
    assert [one.score for one in found.values()] == [4.0, 10.0, 0.0]


def test_a_model_is_loaded_when_it_changes_and_its_answers_go_with_it():
    trials = [work("a"), work("b"), work("c", load=1, chain=1), work("d")]
    found = expected_work(trials)
    assert [one.load for one in found.values()] == [1.0, 0.0, 1.0, 1.0]
    assert found["d"].score == 10.0


def test_each_of_several_workers_loads_a_model():
    found = expected_work([work(str(chain), chain=chain) for chain in range(6)], workers=4)
    assert sum(one.load for one in found.values()) == 4


def test_a_cost_that_is_not_known_makes_all_unknown():
    assert expected_work([work("a"), work("b", score=0.0, timing=0.0)]) == {}
    assert expected_work([]) == {}


def test_a_trial_without_scoring_costs_its_timing():
    assert expected_work([work("a", score=0.0)]) == {"a": TrialWork(load=1.0, timing=1.0)}
