"""Every metric against the official evaluators, on 12,000 nasty answers each; ``data/README.md`` says whose scores.

Where a metric keeps another rule, the kind of every difference is named here and counted; ``docs/metrics.md`` shows the
same counts.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.metrics import nasty
from tests.metrics.nasty import Case
from tests.metrics.samples import asked
from vlmprof import registry
from vlmprof.metrics._ptb import words
from vlmprof.metrics.mmmu import last_named
from vlmprof.metrics.multiple_choice import LETTERS, named_option
from vlmprof.metrics.pope_f1 import says_yes

DATA = Path(__file__).parent / "data/official_scores.npz"
PAGE = Path(__file__).parents[2] / "docs/metrics.md"
OFFICIAL = dict(np.load(DATA))
OPTIONS = nasty.options()
NUMBER = {None: 0} | {letter: number for number, letter in enumerate(LETTERS, start=1)}


@cache
def scores(metric: str, generator: Callable[[], list[Case]]) -> np.ndarray:
    judge = registry.load("metrics", metric).judge
    return np.array([judge(case.answer, asked(case.gold, case.choices)).score for case in generator()])


def other_rule(metric: str, generator: Callable[[], list[Case]], array: str) -> list[Case]:
    """The cases to which the metric gives another score than the official array."""
    found = np.flatnonzero(abs(scores(metric, generator) - OFFICIAL[array]) > 1e-4)
    cases = generator()
    return [cases[at] for at in found]


@pytest.mark.parametrize(
    ("metric", "generator", "array"),
    [
        ("vqa", nasty.people, "vqa"),
        ("text_vqa", nasty.people, "text_vqa"),
        ("anls", nasty.texts, "anls"),
        ("mmmu", nasty.open_answers, "mmmu_open"),
    ],
)
def test_agrees_on_every_answer(metric, generator, array):
    assert len(OFFICIAL[array]) == nasty.CASES >= 10_000
    assert 0.1 < OFFICIAL[array].mean() < 0.9
    assert other_rule(metric, generator, array) == []


@pytest.mark.parametrize(
    ("metric", "generator", "array", "count"),
    [
        ("text_vqa", nasty.people, "molmo_vqa", 1234),
        ("vqa", nasty.people, "text_vqa", 1757),
        ("anls", nasty.texts, "anls_package", 1903),
        ("anls", nasty.texts, "anls_molmo", 2469),
        ("realworld_qa", nasty.texts, "words_molmo", 1),  # quotes around a whole answer, with a comma within
        ("exact_match", nasty.texts, "gqa", 3398),
        ("exact_match", nasty.texts, "exact_lmms", 2576),
        ("relaxed_accuracy", nasty.charts, "relaxed", 317),
        ("count", nasty.counts, "counts_molmo", 604),
    ],
)
def test_differs_as_often_as_the_page_says(metric, generator, array, count):
    assert len(other_rule(metric, generator, array)) == count


def test_a_text_that_differs_from_the_annotators_only_in_form_is_why_vqa_and_text_vqa_differ():
    lenient = [case for case in other_rule("vqa", nasty.people, "text_vqa") if len(set(map(str.strip, case.gold))) == 1]
    assert len(lenient) > 1_000  # people who all agree: vqa demands their very words


def test_relaxed_accuracy_differs_only_for_blanks_and_for_texts_that_are_equal():
    for case in other_rule("relaxed_accuracy", nasty.charts, "relaxed"):
        equal = case.answer.strip().lower() == case.gold[0].strip().lower()
        assert case.answer != case.answer.strip() or (equal and case.gold[0] in ("nan", "inf")), case


def test_counts_differ_only_for_negative_numbers_a_zero_fraction_and_words_beyond_ten():
    for case in other_rule("count", nasty.counts, "counts_molmo"):
        assert "-2" in case.answer or "2.0" in case.answer or "eleven" in case.answer.lower(), case


def test_exact_match_is_gqas_equality_after_case_blanks_a_period_and_quotes():
    differing = other_rule("exact_match", nasty.texts, "gqa")
    plain = [" ".join(case.answer.lower().split()).strip("\"'!. ") for case in differing]
    assert all(
        text in {" ".join(gold.lower().split()).strip("\"'!. ") for gold in case.gold}
        for text, case in zip(plain, differing, strict=True)
    )


def test_pope_reads_as_its_evaluator_does_apart_from_case_marks_and_answers_without_yes_or_no():
    answers = [case.answer for case in nasty.presence()]
    read, official = [says_yes(answer) for answer in answers], OFFICIAL["pope_yes"]
    neither = [answer for answer, yes in zip(answers, read, strict=True) if yes is None]
    others = [a for a, yes, theirs in zip(answers, read, official, strict=True) if yes is not None and yes != theirs]
    assert (len(neither), len(others)) == (4674, 3643)
    assert not any(re.search(r"\b(yes|no|not)\b", answer.split(".")[0].lower()) for answer in neither)
    # the official code knows three words, cut at blanks: no, No and not; to it "isn't" and "cannot" are yes
    assert all(not set(answer.split(".")[0].replace(",", "").split(" ")) & {"no", "No", "not"} for answer in others)


def letters(read: Callable[[str, Sequence[str]], str | None]) -> np.ndarray:
    return np.array([NUMBER[read(named.case.answer, named.case.choices)] for named in OPTIONS])


def test_an_option_is_read_wherever_its_writer_named_one_and_nowhere_else():
    meant = np.array([NUMBER[named.meant or None] for named in OPTIONS])
    assert (letters(named_option) == meant).all()
    right = {name: int((OFFICIAL[f"options_{name}"] == meant).sum()) for name in ("lmms", "vlmeval", "mmmu")}
    assert right == {"lmms": 8544, "vlmeval": 10283, "mmmu": 7195}


def test_where_two_tools_read_the_same_option_it_is_read_unless_it_is_denied_or_an_article():
    ours, lmms, vlmeval = letters(named_option), OFFICIAL["options_lmms_stripped"], OFFICIAL["options_vlmeval"]
    agreed = (lmms == vlmeval) & (lmms > 0)
    other = {OPTIONS[at].form for at in np.flatnonzero(agreed & (ours != lmms))}
    assert (int(agreed.sum()), int((agreed & (ours != lmms)).sum())) == (7737, 384)
    assert other == {"A thing", "It is not option {letter}", "A {other} is in the picture"}


def test_mmmu_reads_options_as_its_official_code_does_and_more_where_that_draws_at_random():
    official = OFFICIAL["options_mmmu"]
    assert (letters(last_named) == official).all()
    judge = registry.load("metrics", "mmmu").judge
    verdicts = [judge(one.case.answer, asked(one.case.gold, one.case.choices)) for one in OPTIONS]
    parsed = np.array([verdict.parsed for verdict in verdicts])
    assert (int((official == 0).sum()), int(((official == 0) & parsed).sum())) == (3806, 3275)
    meant = np.array([bool(named.meant) for named in OPTIONS])
    assert not (parsed & (official == 0) & ~meant).any()


def test_captions_are_cut_as_the_java_tokenizer_cuts_them():
    tokens = [words(caption.replace("\n", " ")) for caption in nasty.captions()]
    ours = np.array([zlib.crc32(" ".join(each).encode()) for each in tokens], dtype=np.uint32)
    assert int((ours != OFFICIAL["caption_tokens"]).sum()) == 62


def test_cider_is_that_of_the_official_code_with_its_own_tokens():
    captions, metric = nasty.captions(), registry.load("metrics", "cider")
    at = [((i + 1) % len(captions), (i + 2) % len(captions), (7 * i + 3) % len(captions)) for i in range(len(captions))]
    references = [[captions[a], captions[b], f"{captions[c]} {captions[i]}"] for i, (a, b, c) in enumerate(at)]
    examples = [asked(texts, name=str(i)) for i, texts in enumerate(references)]
    parts = metric.corpus.parts(captions, examples)
    assert metric.corpus.value(parts) == pytest.approx(float(OFFICIAL["cider_mean"]), rel=1e-3)
    assert int((abs(metric.corpus.per_sample(parts) - OFFICIAL["cider"]) > 1e-3).sum()) == 484


def test_the_page_shows_these_counts():
    page = PAGE.read_text()
    counts = (1234, 1757, 1903, 2469, 3398, 2576, 317, 604, 4674, 3643, 8544, 10283, 7737, 384, 3806, 3275, 62, 484)
    assert [count for count in counts if f"{count:,}" not in page] == []
