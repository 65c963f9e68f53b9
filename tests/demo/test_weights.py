"""The weights that ship: loadable as any other model, the ones the model card measured, and better than guessing."""

import re
from pathlib import Path

import pytest
import torch

import vlmprof.demo
from vlmprof.demo.card import baselines
from vlmprof.demo.config import MAX_CROPS, demo_config
from vlmprof.demo.training.corpus import build_corpus
from vlmprof.demo.training.evaluate import generated_verdicts, load, packed_verdicts
from vlmprof.demo.training.export import WEIGHTS, weights_sha256
from vlmprof.demo.training.packing import accuracy_by_type
from vlmprof.tasks._shapes.questions import scene_questions
from vlmprof.tasks._shapes.scenes import make_scene

CARD = Path(vlmprof.demo.__file__).parent / "MODEL_CARD.md"
SCENES = 80


@pytest.fixture(scope="module")
def loaded():
    return load()


def test_the_card_speaks_of_these_weights():
    (stated,) = re.findall(r"\b[0-9a-f]{64}\b", CARD.read_text())
    assert stated == weights_sha256()


def test_they_are_small():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 10e6


def test_they_load_through_the_auto_classes(loaded):
    model, processor = loaded
    assert type(model).__name__ == "MolmoForConditionalGeneration"
    assert type(processor).__name__ == "MolmoProcessor"
    assert processor.image_processor.max_crops == MAX_CROPS
    assert model.config.text.num_hidden_layers == demo_config().text.num_hidden_layers
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_processor_spends_the_tokens_it_promises(loaded):
    model, processor = loaded
    scene = make_scene(2)
    for cap in (1, MAX_CROPS):
        inputs = processor(text=" User: where is the ring? Assistant:", images=scene.render(), max_crops=cap)
        rows, cols = inputs["image_tilings"][0].tolist()
        vision_tokens = int((inputs["input_ids"] == model.config.image_patch_id).sum())
        assert rows * cols <= cap
        assert vision_tokens == 16 + (2 * rows + 2) * (2 * cols + 2)


def test_a_user_who_generates_gets_the_answers_that_were_measured(loaded):
    alone, packed = generated_verdicts(*loaded, 24), packed_verdicts(loaded[0], 24)
    assert sum(a == b for a, b in zip(alone, packed, strict=True)) >= 23


def test_they_look_before_they_answer(loaded):
    corpus = build_corpus("held_out", range(SCENES), "full", (MAX_CROPS,))
    accuracy = accuracy_by_type(loaded[0], corpus)
    assert sum(asked for _, asked in accuracy.values()) > 400
    guesses = baselines(question for number in range(SCENES) for question in scene_questions("held_out", number)[1])
    for kind, (right, asked) in accuracy.items():
        assert right / asked > max(guesses[kind]) + 0.25, kind
    assert accuracy["reading"][0] / accuracy["reading"][1] > 0.8


def test_small_digits_need_crops_and_colours_do_not(loaded):
    corpus = build_corpus("held_out", range(SCENES), "full", (1,))
    accuracy = {kind: right / asked for kind, (right, asked) in accuracy_by_type(loaded[0], corpus).items()}
    assert accuracy["reading"] < 0.75
    assert accuracy["colour"] > 0.95
