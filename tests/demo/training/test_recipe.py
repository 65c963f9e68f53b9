"""The training recipe: labels, packing, schedule, resume; and that twenty steps on a CPU learn something."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vlmprof.demo.config import (
    BLOCKS,
    EXPERTS,
    MAX_CROPS,
    SEGMENTS,
    TOP_K,
    VOCABULARY_ROWS,
    demo_config,
    demo_image_processor,
)
from vlmprof.demo.tokenizer import build_tokenizer, vocabulary
from vlmprof.demo.training.corpus import SceneBatch, build_corpus, normalise
from vlmprof.demo.training.labels import HEADS, IGNORE, dense_labels
from vlmprof.demo.training.packing import answer_logits, answers_right, image_features
from vlmprof.demo.training.recipe import RECIPE
from vlmprof.demo.training.segment import segmented
from vlmprof.demo.training.step import concentration, gated, imbalance, step_losses
from vlmprof.demo.training.train import TrainingRun, draw, train
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.processing import MolmoProcessor
from vlmprof.tasks._shapes.questions import scene_questions
from vlmprof.tasks._shapes.scenes import COLOURS, SHAPES, Scene, Shape


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
    wanted = packed[batch.targets != IGNORE]
    processor = MolmoProcessor(image_processor=demo_image_processor(), tokenizer=build_tokenizer())
    answers = [question.answer for question in asked]
    lengths = [len(processor.tokenizer(answer)["input_ids"]) for answer in answers]
    start = 0
    for question, length in zip(asked, lengths, strict=True):
        text = f" User: {question.text} Assistant: {question.answer}"
        inputs = processor(text=text, images=scene.render())
        with torch.no_grad():
            alone = model(**inputs).logits[0, -length - 1 :]
        assert (wanted[start : start + length + 1] - alone).abs().max() < 2e-3
        start += length + 1
    assert start == len(wanted)


def test_verdicts_under_a_cap_on_output_tokens():
    targets = torch.tensor([[[IGNORE, 5, 6, 1], [IGNORE, 7, 1, IGNORE]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[3, 5, 6, 0], [3, 7, 1, 3]]]), 8).float()
    assert answers_right(logits, targets).tolist() == [[False, True]]
    assert answers_right(logits, targets, 1).tolist() == [[False, True]]
    assert answers_right(logits, targets, 2).tolist() == [[True, True]]
    assert answers_right(logits, targets, 3).tolist() == [[False, True]]


def test_a_block_whose_gate_is_shut_is_left_out(corpus):
    run = TrainingRun(replace(RECIPE, half=False), "cpu")
    batch = corpus[0].pick(slice(0, 2))
    features = image_features(run.model, batch)
    gates = torch.ones(BLOCKS)
    gates[3] = 0
    with torch.no_grad():
        with gated(run.model, gates):
            shut = answer_logits(run.model, batch, features).logits
        text = run.model.model.language_model
        every = text.layers
        text.layers = torch.nn.ModuleList(block for i, block in enumerate(every) if i != 3)
        without = answer_logits(run.model, batch, features).logits
        text.layers = every
        whole = answer_logits(run.model, batch, features).logits
    assert torch.allclose(shut, without, atol=1e-5)
    assert not torch.allclose(shut, whole, atol=1e-2)


def test_a_step_asks_for_no_value_so_that_a_graph_can_hold_it(corpus, monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    run = TrainingRun(replace(RECIPE, scenes_per_step=2), "cpu")
    bucket, rows = draw(corpus, 0, run.recipe)
    parameters = [*run.model.parameters(), *run.heads.parameters()]
    run._losses("joint", bucket, rows)  # tables that are made once are made now
    # The one look at values, left out by itself while a graph is captured.
    monkeypatch.setattr("vlmprof.models.molmo.modeling._check_count", lambda *_: None)
    with FakeTensorMode(allow_non_fake_inputs=True):  # raises where a value decides what happens
        losses = step_losses(run.model, run.heads, bucket.pick(rows), run.controls, run.recipe)
        found = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    assert sum(one is not None for one in found) == len(parameters)


def test_all_experts_computed_is_the_sum_of_the_chosen(corpus):
    run = TrainingRun(replace(RECIPE, half=False), "cpu")
    batch = corpus[0].pick(slice(0, 2))
    with torch.no_grad():
        features = image_features(run.model, batch)
        dense = answer_logits(run.model, batch, features).logits
        run.model.model.language_model.set_experts_implementation("eager")
        assert torch.allclose(dense, answer_logits(run.model, batch, features).logits, atol=1e-5)


def test_cut_experts_add_up_to_the_whole(corpus):
    torch.manual_seed(1)
    whole, parts = (MolmoForConditionalGeneration(demo_config(n)).eval() for n in (1, SEGMENTS))
    state = segmented(whole.state_dict(), SEGMENTS, seed=0)
    for name in state:  # without what parts the routers, the cut alone
        if name.endswith("mlp.gate.weight"):
            state[name] = whole.state_dict()[name].repeat_interleave(SEGMENTS, 0)
    parts.load_state_dict(state)
    batch = corpus[0].pick(slice(0, 2))
    with torch.no_grad():
        features = image_features(whole, batch)
        before, after = (answer_logits(model, batch, features).logits for model in (whole, parts))
    assert torch.allclose(before, after, atol=1e-4)
    routers = segmented(whole.state_dict(), SEGMENTS, seed=0)
    gate = next(name for name in routers if name.endswith("mlp.gate.weight"))
    assert len(routers[gate].unique(dim=0)) == EXPERTS, "no two experts tie"


def test_a_router_that_spreads_evenly_is_balanced_and_unsure():
    even = torch.full((64, EXPERTS), 1 / EXPERTS)
    sure = torch.nn.functional.one_hot(torch.zeros(64, dtype=torch.long), EXPERTS).float()
    assert float(imbalance(even, TOP_K)) == pytest.approx(1)
    assert float(imbalance(sure, 1)) == pytest.approx(EXPERTS)
    assert float(concentration(even)) == pytest.approx(0, abs=1e-6)
    assert float(concentration(sure)) == pytest.approx(np.log(EXPERTS))


def test_the_schedule_warms_up_and_fades_out():
    recipe = RECIPE
    assert recipe.rate(0) < 0.05 * recipe.vision_rate
    assert recipe.rate(recipe.steps - 1) < 0.03 * recipe.joint_rate
    assert recipe.dense_share(0) == 1
    assert recipe.dense_share(recipe.steps - 1) == 0


def test_a_step_draws_the_same_scenes_again(corpus):
    recipe = replace(RECIPE, scenes_per_step=4)
    (bucket, rows), (again, same) = draw(corpus, 7, recipe), draw(corpus, 7, recipe)
    assert bucket is again
    assert torch.equal(rows, same)
    assert len(rows) == 4


def test_parts_that_were_drawn_apart_make_the_same_buckets():
    apart = [*build_corpus("train", range(6), "few", (4, 1)), *build_corpus("train", range(6, 12), "few", (4, 1))]
    whole = build_corpus("train", range(12), "few", (4, 1))
    merged = SceneBatch.merged(apart)
    assert [len(bucket) for bucket in merged] == [len(bucket) for bucket in whole]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(merged, whole, strict=True))


def test_twenty_steps_lower_the_loss_and_a_resumed_run_goes_on_alike(corpus, tmp_path):
    recipe = replace(
        RECIPE, scenes_per_step=4, vision_steps=0, joint_steps=24, easy_share=1.0, warmup_steps=4, half=False
    )
    run = TrainingRun(recipe, "cpu")
    losses = [float(run.advance(*draw(corpus, step, recipe)).sum()) for step in range(20)]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    run.save(tmp_path / "checkpoint.pt")
    again = TrainingRun(recipe, "cpu")
    again.load(tmp_path / "checkpoint.pt")
    assert again.step == 20
    assert torch.equal(again.advance(*draw(corpus, 20, recipe)), run.advance(*draw(corpus, 20, recipe)))


@pytest.mark.parametrize("first", [0, 3])
def test_a_schedule_in_seconds_is_fitted_from_wherever_a_run_begins(corpus, tmp_path, monkeypatch, capsys, first):
    monkeypatch.setattr("vlmprof.demo.training.train._SETTLE_STEPS", 2)
    run = TrainingRun(replace(RECIPE, scenes_per_step=1, vision_steps=1, joint_steps=1000), "cpu")
    run.step = first
    train(
        run, dict.fromkeys(("easy", "full", "validation"), corpus), tmp_path, seconds=0.01
    )  # over before it is fitted
    settled = max(first, 1) + 4 + 1  # the step that finds no time left is the last
    assert run.step == settled == run.recipe.steps
    assert f"the second stage gets {settled - 1} steps" in capsys.readouterr().out
