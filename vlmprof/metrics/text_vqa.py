"""TextVQA's accuracy: VQA's formula over ten answers, all of which are normalised, also if all people agree.

The rules are those of ``EvalAIAnswerProcessor`` and ``TextVQAAccuracyEvaluator`` of facebookresearch/mmf
(``mmf/utils/m4c_evaluators.py`` at b0ffc7f), the evaluator that the challenge used (Singh et al., CVPR 2019);
lmms-eval has the same, reimplemented here. Before the normalisation of ``metrics.vqa``, text is put into lower case,
commas and question marks are deleted, and ``'s`` becomes a word of its own. So ``No`` scores 1 against ten times
``no``, where ``metrics.vqa`` gives 0.
"""

from __future__ import annotations

from vlmprof.errors import UserError
from vlmprof.metrics.metric import Metric
from vlmprof.metrics.vqa import answers_of_people, leave_one_out, normalised


def text_vqa(prediction: str, answers: tuple[str, ...]) -> float:
    """The score of a prediction against the answers of several annotators, from 0 to 1; the formula is that of ``vqa``.

    Raises:
        UserError: there are no answers, as in the test split, which publishes none.
    """
    if not answers:
        raise UserError("this question has no reference answers to score against; choose a split that publishes them")
    return leave_one_out(processed(prediction), [processed(answer) for answer in answers])


def processed(text: str) -> str:
    """A text as it is compared: words split and lowered, then normalised as in ``metrics.vqa``."""
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalised(words.strip().replace("\n", " ").replace("\t", " ").strip())


METRIC = Metric.of_answers("text_vqa", text_vqa, version=2, gold=answers_of_people)
