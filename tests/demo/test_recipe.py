"""The training recipe: labels, packing, schedule, resume; and that twenty steps on a CPU learn something."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vlmprof.demo.config import BLOCKS, EXPERTS, MAX_CROPS, TOP_K, VOCABULARY_ROWS, demo_config, demo_image_processor
from vlmprof.demo.corpus import build_corpus, normalise
from vlmprof.demo.labels import HEADS, IGNORE, dense_labels
from vlmprof.demo.packing import answer_logits, answers_right, image_features
from vlmprof.demo.recipe import CPU_RECIPE
from vlmprof.demo.tokenizer import build_tokenizer, vocabulary
from vlmprof.demo.train import Run, batch_at, dropped_blocks
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.processing import MolmoProcessor
from vlmprof.tasks._shapes_questions import scene_questions
from vlmprof.tasks._shapes_scenes import COLOURS, SHAPES, Scene, Shape


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus():
    return build_corpus("train", range(24), "few", (4, 1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MolmoForConditionalGeneration(demo_config()).eval()


def test_the_configuration_is_molmoe_in_miniature():
    text = demo_config().text
    assert (text.num_hidden_layers, text.num_experts, text.num_experts_per_tok) == (BLOCKS, EXPERTS, TOP_K)
    assert text.norm_topk_prob is False
    assert len(vocabulary()) <= VOCABULARY_ROWS


@pytest.mark.parametrize("text", ["742", "top left", "what colour is the ring?", "hello, world"])
def test_the_tokenizer_gives_text_back(text):
    tokenizer = build_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_a_digit_costs_one_token():
    assert len(build_tokenizer()("742")["input_ids"]) == 3


def test_a_label_says_what_a_token_shows():
    shape = Shape(kind="square", colour="blue", size="large", x_px=48, y_px=16, radius_px=10)
    scene = Scene(
        width=64, height=64, background=(24, 24, 28), noise_amplitude=0, noise_seed=0, shapes=(shape,), plate=None
    )
    labels = dense_labels(scene, (1, 1), demo_image_processor().geometry)
    assert labels.shape == (16 + 16, len(HEADS))
    colours, kinds, centres, digits, places = labels[:16].reshape(4, 4, -1).transpose(2, 0, 1)
    assert centres[1, 3] == SHAPES.index("square")
    assert (centres != HEADS["centre"] - 1).sum() == 1
    assert {*colours[0, 2:], *colours[1, 2:]} == {list(COLOURS).index("blue")}
    assert kinds[3, 0] == HEADS["kind"] - 1
    assert (digits == HEADS["digit"] - 1).all()
    assert places[2, 1] == 9
    assert (labels[16:, list(HEADS).index("place")] == IGNORE).all()


def test_stored_pixels_are_the_processors_within_half_a_grey_level():
    scene, _ = scene_questions("train", 0, "few")
    (bucket,) = build_corpus("train", [0], "few", (MAX_CROPS,))
    wanted = demo_image_processor().preprocess(scene.render(), max_crops=MAX_CROPS)["pixel_values"]
    assert (normalise(bucket.pixels[0]) - wanted).abs().max() < 0.51 / 255 / 0.26


def test_a_packed_question_gets_the_logits_it_gets_alone(model):
    scene, asked = scene_questions("train", 1, "full")
    (batch,) = build_corpus("train", [1], "full", (MAX_CROPS,))
    with torch.no_grad():
        packed = answer_logits(model, batch, image_features(model, batch)).logits
    processor = MolmoProcessor(image_processor=demo_image_processor(), tokenizer=build_tokenizer())
    answers = [question.answer for question in asked]
    lengths = [len(processor.tokenizer(answer)["input_ids"]) for answer in answers]
    start = 0
    for question, length in zip(asked, lengths, strict=True):
        text = f" User: {question.text} Assistant: {question.answer}"
        inputs = processor(text=text, images=scene.render())
        with torch.no_grad():
            alone = model(**inputs).logits[0, -length - 1 :]
        assert (packed[start : start + length + 1] - alone).abs().max() < 2e-3
        start += length + 1
    assert start == len(packed)


def test_verdicts_under_a_cap_on_output_tokens():
    targets = torch.tensor([[[IGNORE, 5, 6, 1], [IGNORE, 7, 1, IGNORE]]])
    logits = torch.nn.functional.one_hot(torch.tensor([5, 6, 0, 7, 1]), 8).float()
    assert answers_right(logits, targets).tolist() == [[False, True]]
    assert answers_right(logits, targets, 1).tolist() == [[False, True]]
    assert answers_right(logits, targets, 2).tolist() == [[True, True]]
    assert answers_right(logits, targets, 3).tolist() == [[False, True]]


def test_left_out_blocks_come_back_and_the_first_always_runs(model):
    import random

    every = list(model.decoder_layers)
    with dropped_blocks(model, 1.0, random.Random(0)):
        assert list(model.decoder_layers) == every[:1]
    assert list(model.decoder_layers) == every


def test_the_schedule_warms_up_and_fades_out():
    recipe = CPU_RECIPE
    assert recipe.rate(0) < 0.05 * recipe.vision_rate
    assert recipe.rate(recipe.steps - 1) < 0.03 * recipe.joint_rate
    assert recipe.dense_share(0) == 1
    assert recipe.dense_share(recipe.steps - 1) == 0


def test_a_step_draws_the_same_scenes_again_and_processes_share_them(corpus):
    recipe = replace(CPU_RECIPE, scenes_per_step=4)
    assert torch.equal(batch_at(corpus, 7, recipe).pixels, batch_at(corpus, 7, recipe).pixels)
    halves = [batch_at(corpus, 7, recipe, rank, 2) for rank in (0, 1)]
    assert halves[0].tiling == halves[1].tiling
    assert len(halves[0]) == len(halves[1]) == 4


def test_twenty_steps_lower_the_loss_and_a_resumed_run_goes_on_alike(corpus, tmp_path):
    recipe = replace(CPU_RECIPE, scenes_per_step=4, vision_steps=0, joint_steps=24, easy_share=1.0, warmup_steps=4)
    run = Run(recipe, "cpu")
    losses = []
    for step in range(20):
        losses.append(sum(run.advance(batch_at(corpus, step, recipe)).values()))
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    run.save(tmp_path / "checkpoint.pt")
    again = Run(recipe, "cpu")
    again.load(tmp_path / "checkpoint.pt")
    batch = batch_at(corpus, 20, recipe)
    assert again.step == 20
    assert again.advance(batch) == run.advance(batch)
