"""Multiple choice, MMMU and POPE: what an answer names, and that nothing is guessed."""

import numpy as np
import pytest

from tests.metrics.samples import asked
from vlmprof import registry
from vlmprof.errors import UserError
from vlmprof.metrics.mmmu import mmmu
from vlmprof.metrics.multiple_choice import multiple_choice, named_option
from vlmprof.metrics.pope_f1 import METRIC, f1, says_yes

ANIMALS = ("a cat", "a dog", "an owl", "a dog and a cat")


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (B) ", "B"),
        ("B.", "B"),
        ("B) a dog", "B"),
        ("B: a dog", "B"),
        ("(C) because it flies", "C"),
        ("The answer is C", "C"),
        ("answer: (D)", "D"),
        ("I choose option A, not b", "A"),
        ("a dog", "B"),
        ("A dog.", "B"),  # the text of an option, not the letter A
        ("A dog runs", None),
        ("a", "A"),
        ("E", None),  # there is no such option
        ("option A or option B", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_an_option_is_named_or_it_is_not(answer, option):
    assert named_option(answer, ANIMALS) == option
    verdict = multiple_choice(answer, asked([option or "A"], ANIMALS))
    assert (verdict.score, verdict.parsed) == (float(option is not None), option is not None)


DOG = ("a cat", "a dog")


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("<think>the answer is A</think> B", "B"),
        ("**B**", "B"),
        ("B\na dog", "B"),
        ("The correct option is B", "B"),
        ("Answer: A dog", "B"),
        ("It is not option A", None),
        ("The answer is not A, it is B.", "B"),
        ("It cannot be A, so B", "B"),
        ("neither A nor B", None),
        ("A is wrong. B is right.", "B"),
        ("The answer is A, not B.", "A"),
        ("The answer is A or B", None),
        ("The answer is A. Wait, no. The answer is B.", "B"),
        ("**Answer:** B", "B"),
        ("$\\boxed{\\text{B}}$", "B"),
        ("It barks.\nB", "B"),
        ("the answer is a dog", "B"),
        ("the answer is a", "A"),
        ("A. a cat\nB. a dog", None),  # the options repeated
        ("A. a cat\nB. a dog\nThe answer is B", "B"),
        ("\uff08B\uff09", "B"),
        ("\u7b54\u6848\u662fB", "B"),
        ("Vitamin A", None),
        ("The answer is E", None),
        ("(A) is wrong; the answer is E", None),
    ],
)
def test_an_option_is_read_from_what_is_stated_and_not_from_what_is_denied(answer, option):
    assert named_option(answer, DOG) == option


LABELS = ("D", "C", "B", "A")


@pytest.mark.parametrize(
    ("answer", "choices", "position"),
    [
        ("D", LABELS, "A"),  # the text D is the first option
        ("The answer is D.", LABELS, "A"),
        ("(a)", LABELS, "D"),
        ("E", LABELS, None),
        ("B", ("A", "B", "C"), "B"),  # letters in order: both readings agree
        ("The stem is labelled D.", LABELS, "A"),
        ("It is indicated by the letter C", LABELS, "B"),
        ("none of these", ("D", "C", "B", "none of these"), "D"),
        ("D", ("D", "C", "B", "none of these"), "A"),
        ("B", ("B", "a dog", "a cat"), "B"),  # one letter among words is a text, and the prompt shows letters
    ],
)
def test_labels_in_the_picture_are_named_by_their_text(answer, choices, position):
    assert named_option(answer, choices) == position


def test_labels_are_asked_without_letters_and_other_options_with_them():
    diagram, words = asked(["A"], LABELS), asked(["A"], DOG)
    for name, ours, trained in (("ai2d", "D\nC\nB\nA\n", "ai2_diagram_no_letter: ?\nD\nC\nB\nA\n"),):
        task = registry.load("tasks", name)
        assert ours + "Answer with the right option only." in task.ask(diagram, "demo").text
        assert task.ask(diagram, "molmo").text == trained
        assert "A. a cat\nB. a dog\n" in task.ask(words, "demo").text
        assert task.ask(words, "molmo").text == "ai2_diagram: ?\nA: a cat\nB: a dog\n"
        assert task.metric.judge("D", diagram).score == 1
    mmmu_task = registry.load("tasks", "mmmu")  # its official code and prompt have a letter for every option
    assert "A. D\nB. C\n" in mmmu_task.ask(diagram, "demo").text
    assert "A: D\nB: C\n" in mmmu_task.ask(diagram, "molmo").text
    assert mmmu_task.metric.judge("A", diagram).score == 1


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("The answer is 'B'.", "B"),  # quotes after a letter, which are no possessive
        ("'B' is the answer", "B"),
        ("The answer is A's", None),
        ("【B】", "B"),
        ("「B」", "B"),
        ("答案\uff1a【C】。", "C"),
        ("選択肢B", "B"),
        ("B。", "B"),
        ("_B_", "B"),
        ("Letter B", "B"),
        ("The letter B", "B"),
        ("choose c", "C"),
        ("a letter B is painted on the wall", None),
        ("Letter A or B", None),
        ("B, because it barks", "B"),
        ("A, because a cat meows", "A"),
        ("B and not A", "B"),
        ("A, but not B", "A"),
        ("not A and not B", None),
        ("Answer: A\n\nWait, actually B.", "B"),
        ("I actually see a cat", None),
        ("dog", "B"),
        ("The dog", "B"),
        ("A dog!", "B"),
        ("Answer: the dog.", "B"),
        ("The answer is dog", "B"),
        ("the", None),
        ("the dog is shown", None),
    ],
)
def test_further_forms_of_naming_an_option(answer, option):
    assert named_option(answer, ("a cat", "a dog", "a bird", "a fish")) == option


def test_an_article_that_tells_options_apart_is_not_left_out():
    assert named_option("the dog", ("a dog", "the dog")) == "B"
    assert named_option("dog", ("a dog", "the dog", "a cat")) is None
    assert named_option("dog", ("a dog", "a dog", "a cat")) is None


def test_the_text_of_two_options_names_neither():
    assert named_option("red", ("red", "Red.", "blue")) is None
    with pytest.raises(UserError, match="no options"):
        multiple_choice("A", asked(["A"]))


@pytest.mark.parametrize(
    ("answer", "score", "parsed"),
    [
        ("B", 1, True),
        ("(B)", 1, True),
        ("The answer is (B).", 1, True),
        ("First I thought (B), but it is (C)", 0, True),  # the one named last
        ("I think that what is seen here is a dog", 1, True),  # more than five words: by its text
        ("B. dog", 1, True),  # the official code would draw an option here, and below
        ("**B**", 1, True),
        ("dog", 1, True),
        ("a dog", 1, True),
        ("a mouse", 0, False),
        ("", 0, False),
    ],
)
def test_mmmu_options(answer, score, parsed):
    verdict = mmmu(answer, asked(["B"], ("cat", "dog", "owl")))
    assert (verdict.score, verdict.parsed) == (score, parsed)


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("The result is 12.5", ["12.50"], 1),
        ("x = 1,200", ["1200"], 1),
        ("it is 12.51", ["12.50"], 0),
        ("the organ is the left kidney.", ["kidney"], 1),
        ("a liver", ["kidney"], 0),
        ("So we get 5", ["5", "five"], 1),
        ("1.2e3", ["1200"], 1),
        ("", ["kidney"], 0),
    ],
)
def test_mmmu_open_answers(answer, gold, score):
    assert mmmu(answer, asked(gold)).score == score


def test_mmmu_without_an_answer_is_an_error():
    with pytest.raises(UserError, match="validation"):
        mmmu("B", asked(["?"], ("cat", "dog")))


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes", True),
        ("yes, there is a dog.", True),
        ("No.", False),
        ("There is not any", False),
        ("Yes. No.", True),  # the first sentence counts
        ("**No**", False),
        ("no!", False),
        ("NO", False),
        ("no-one", None),
        ("isn't", False),
        ("There isn't", False),
        ("There isn\u2019t a dog", False),
        ("I cannot see one", False),
        ("Yes, it isn't hidden", True),  # POPE too reads yes
        ("Not sure", None),
        ("I'm not sure.", None),
        ("I don't know", None),
        ("It is not clear if there is one", None),
        ("It cannot be determined", None),
        ("No idea", None),
        ("No, but I'm not sure", False),
        ("Not really", False),
        ("a dog", None),
        ("", None),
    ],
)
def test_pope_reads_the_first_sentence(answer, yes):
    assert says_yes(answer) is yes


def test_pope_f1_is_that_of_the_counts():
    assert METRIC.corpus is not None
    said = ["yes", "yes", "no", "no", "hm", "hm"]
    wanted = ["yes", "no", "yes", "no", "yes", "no"]
    parts = METRIC.corpus.parts(said, [asked([one]) for one in wanted])
    # tp 1; fp: the second and the last; fn: the third and the fifth
    assert parts.sum(axis=0).tolist() == [1, 2, 2]
    assert METRIC.corpus.value(parts) == pytest.approx(2 / 6)
    assert f1(np.zeros(3)) == 0
    assert METRIC.judge("hm", asked(["no"])).parsed is False
