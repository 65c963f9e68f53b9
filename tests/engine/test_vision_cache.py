"""Features that are kept: the same answers, and the vision side runs once for an image and tiling."""

from __future__ import annotations

import pytest
import torch

from tests.contracts.knob_contract import demo_prompts
from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.engine.vision_cache import VisionFeatureCache
from vlmprof.errors import Mismatch
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.records import Generation, Prompt


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    return demo_prompts(registry.load("tasks", "shapes_qa"), 6)


def answers(
    model: LoadedMolmo, prompts: list[Prompt], vision_cache: VisionFeatureCache | None = None
) -> tuple[Generation, ...]:
    batch = prompts if vision_cache is None else vision_cache.prepare(model, prompts)
    run = generate(model, batch, max_new_tokens=6, stop_at_eos=False, vision_cache=vision_cache)
    return run.generations


def different(prompts: list[Prompt]) -> int:
    return len({prompt.picture.load().tobytes() for prompt in prompts})


def test_answers_are_the_same_with_and_without(model: LoadedMolmo, asked: list[Prompt]) -> None:
    vision_cache = VisionFeatureCache(2**30)
    knob = registry.load("knobs", "moe_top_k")
    for _ in range(2):
        for top_k in (4, 1):
            with knob.applied(model, top_k):
                assert answers(model, asked, vision_cache) == answers(model, asked)
    assert vision_cache.computed == different(asked)
    assert answers(model, asked[::-1], vision_cache) == answers(model, asked[::-1])
    assert vision_cache.computed == different(asked)


def test_another_tiling_is_another_sight_and_the_same_one_under_another_cap_is_not(
    model: LoadedMolmo, asked: list[Prompt]
) -> None:
    vision_cache, knob = VisionFeatureCache(2**30), registry.load("knobs", "max_crops")
    for cap in (9, 1, 9, 1):
        with knob.applied(model, cap):
            assert answers(model, asked, vision_cache) == answers(model, asked)
    assert vision_cache.computed == 2 * different(asked)
    with registry.load("knobs", "tiling").applied(model, [1, 1]):
        answers(model, asked, vision_cache)
    assert vision_cache.computed == 2 * different(asked), "one crop is one crop, whoever asks for it"


def test_no_picture_is_cut_again_once_it_is_known(
    model: LoadedMolmo, asked: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    vision_cache = VisionFeatureCache(2**30)
    expected = answers(model, asked, vision_cache)
    monkeypatch.setattr(LoadedMolmo, "encode", lambda *_: pytest.fail("a picture was cut again"))
    monkeypatch.setattr(LoadedMolmo, "see", lambda *_: pytest.fail("a picture was looked at again"))
    assert answers(model, asked, vision_cache) == expected


def test_what_is_kept_is_bounded_and_making_room_loses_no_answer(model: LoadedMolmo, asked: list[Prompt]) -> None:
    batch = model.encode(asked[:1])
    one = model.see(model.transfer(batch)).nbytes
    vision_cache = VisionFeatureCache(2 * one)
    for _ in range(2):
        assert answers(model, asked, vision_cache) == answers(model, asked)
    assert sum(kept.nbytes for kept in vision_cache._entries.values()) <= 2 * one


def test_a_bound_of_nothing_keeps_nothing(model: LoadedMolmo, asked: list[Prompt]) -> None:
    vision_cache = VisionFeatureCache(0)
    assert answers(model, asked, vision_cache) == answers(model, asked)
    assert not vision_cache._entries


def test_text_alone_is_encoded_as_with_the_picture(model: LoadedMolmo, asked: list[Prompt]) -> None:
    for cap in (1, 4, 9):
        with registry.load("knobs", "max_crops").applied(model, cap):
            whole, text = model.encode(asked), model.encode_text(asked)
        assert text.encodings == whole.encodings
        for name in ("input_ids", "attention_mask"):
            assert torch.equal(text.inputs[name], whole.inputs[name])


def test_features_of_another_image_are_caught(
    model: LoadedMolmo, asked: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = LoadedMolmo.split_features
    monkeypatch.setattr(LoadedMolmo, "split_features", lambda *given: [part[1:] for part in split(*given)])
    with pytest.raises(Mismatch, match="features for an image"):
        answers(model, asked, VisionFeatureCache(2**30))
