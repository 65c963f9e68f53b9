"""Correctness of the demo model's answers, computed in two ways: with `generate`, and packed as in training.

Packed evaluation puts many questions into one sequence. Both ways must agree, otherwise the accuracies printed during
training would not hold for users of the model. The numbers of the model card come from a sweep (`demo/card.py`).
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlmprof.demo.config import MAX_CROPS
from vlmprof.demo.training.corpus import MAX_TOKENS, build_corpus
from vlmprof.demo.training.export import WEIGHTS
from vlmprof.demo.training.packing import verdicts
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.registration import register
from vlmprof.tasks._shapes.questions import held_out


def load(directory: Path = WEIGHTS) -> tuple[MolmoForConditionalGeneration, Any]:
    """The model in float32 and its processor, through the Auto classes."""
    register()
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(directory)


@torch.no_grad()
def generated_verdicts(model: MolmoForConditionalGeneration, processor: Any, n: int) -> list[bool]:
    """Whether `generate` answers each of the first `n` held-out questions right, with one question per prompt."""
    correct = []
    for scene, question in held_out(n):
        inputs = processor(text=f" User: {question.text} Assistant:", images=scene.render())
        tokens = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        answer = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        correct.append(answer == question.answer)
    return correct


def packed_verdicts(model: MolmoForConditionalGeneration, n: int) -> list[bool]:
    """The same for packed questions, one scene at a time."""
    correct: list[bool] = []
    number = 0
    while len(correct) < n:
        (batch,) = build_corpus("held_out", [number], "full", (MAX_CROPS,))
        correct += verdicts(model, batch)[batch.types >= 0].tolist()
        number += 1
    return correct[:n]
