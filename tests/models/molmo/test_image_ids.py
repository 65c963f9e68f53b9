"""The ids of image tokens are those of the tokenizer, also where a released configuration says nothing of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.checkpoints import tiny_checkpoint
from tests.models.molmo.conftest import picture
from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.errors import ModelError
from vlmprof.models.family import Checkpoint
from vlmprof.models.molmo.hub_config import read_flat
from vlmprof.models.molmo.processing import IMAGE_TOKENS, MolmoProcessor
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.records import Picture, Prompt

FLAT_7B_O = {
    # As released: the text model's sizes, and no word about image tokens.
    "model_type": "molmo",
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_hidden_layers": 32,
    "embedding_size": 100352,
    "vocab_size": 100352,
    "layer_norm_eps": 1e-6,
    "layer_norm_type": "rms",
    "rope_theta": 500000.0,
    "attention_layer_norm": True,
    "qkv_bias": False,
    "norm_after": True,
    "max_position_embeddings": 4096,
}


def asked(text: str = "what is this", height: int = 50, width: int = 70) -> Prompt:
    image = Image.fromarray(picture(height, width))
    return Prompt(text=text, picture=Picture(width=width, height=height, load=lambda: image))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path)


def rewrite(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def load(folder: Path) -> LoadedMolmo:
    checkpoint = Checkpoint(path=str(folder), revision="", dtype="float32")
    loaded: LoadedMolmo = registry.load("models", "molmo").load(checkpoint, "cpu")
    return loaded


def test_the_released_7b_o_has_its_ids() -> None:
    config = read_flat(FLAT_7B_O)
    ids = [config[f"image_{name}_id"] for name in ("start", "end", "patch", "col")]
    assert ids == [100278, 100279, 100280, 100281]


@pytest.mark.parametrize("said", [None, 2], ids=["none", "others"])
def test_a_picture_is_answered_whatever_the_configuration_says(folder: Path, said: int | None) -> None:
    """Before: ``config.image_patch_id is None``, at the first picture."""
    expected = generate(load(folder), [asked()], max_new_tokens=3).generations[0].ids
    rewrite(folder, **{f"image_{name}_id": said for name in ("start", "end", "patch", "col")})
    model = load(folder)
    assert model.image_token_id == model._processor.special_ids["patch"]
    assert generate(model, [asked()], max_new_tokens=3).generations[0].ids == expected


def replace_tokenizer(folder: Path, fillers: int) -> PreTrainedTokenizerFast:
    """Image tokens are added after the words and some fillers, in an order of its own, without an unknown token."""
    processor = load(folder)._processor
    kept = [token for token in processor.tokenizer.get_vocab() if token not in IMAGE_TOKENS.values()]
    words = {token: position for position, token in enumerate(sorted(kept) + [f"filler{n}" for n in range(fillers)])}
    backend = Tokenizer(models.WordLevel(words, unk_token=next(iter(words))))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=processor.tokenizer.eos_token)
    order = ["<im_col>", "<im_patch>", "<im_end>", "<im_start>"]
    tokenizer.add_special_tokens({"additional_special_tokens": order})
    MolmoProcessor(processor.image_processor, tokenizer).save_pretrained(folder)
    rewrite(folder, **{f"image_{name}_id": None for name in ("start", "end", "patch", "col")})
    return tokenizer


def test_a_tokenizer_like_7b_o_s_is_followed(folder: Path) -> None:
    tokenizer = replace_tokenizer(folder, fillers=0)
    model = load(folder)
    assert model.image_token_id == tokenizer.convert_tokens_to_ids("<im_patch>") == len(tokenizer) - 3
    batch = model.encode([asked()])
    assert int((batch.inputs["input_ids"] == model.image_token_id).sum()) == batch.encodings[0].vision_tokens
    assert generate(model, [asked()], max_new_tokens=2).generations


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    replace_tokenizer(folder, fillers=500)
    with pytest.raises(ModelError, match=r"<im_patch> is \d+.*but the embedding has \d+ rows"):
        load(folder)


def test_an_image_token_in_a_question_is_text_or_refused(folder: Path) -> None:
    model = load(folder)
    before = model.encode([asked("what is this")]).encodings[0].vision_tokens
    try:
        batch = model.encode([asked("what is <im_patch> this")])
    except ValueError as error:
        assert "which this tokenizer cannot write as text" in str(error)
    else:
        assert int((batch.inputs["input_ids"] == model.image_token_id).sum()) == before
