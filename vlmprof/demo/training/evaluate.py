"""The demo model two ways: asked as a user would, and as training sees it, many questions in one sequence.

Both must give the same verdicts, or what training watched says nothing of what a user gets. The numbers of the model
card come from a sweep (`card.py`).
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
    """Whether `generate` answers each of the first `n` held-out questions right, asked alone as a user would."""
    found = []
    for scene, question in held_out(n):
        inputs = processor(text=f" User: {question.text} Assistant:", images=scene.render())
        tokens = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        found.append(processor.tokenizer.decode(tokens, skip_special_tokens=True).strip() == question.answer)
    return found


def packed_verdicts(model: MolmoForConditionalGeneration, n: int) -> list[bool]:
    """The same questions by the packed way, scene by scene."""
    found: list[bool] = []
    number = 0
    while len(found) < n:
        (batch,) = build_corpus("held_out", [number], "full", (MAX_CROPS,))
        found += verdicts(model, batch)[batch.types >= 0].tolist()
        number += 1
    return found[:n]
