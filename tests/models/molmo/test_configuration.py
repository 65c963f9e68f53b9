from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from vlmprof.errors import ModelError
from vlmprof.models.molmo.configuration import MolmoConfig, MolmoVisionConfig

FLAT_MOE = json.loads((Path(__file__).parents[2] / "parity" / "data" / "moe_config.json").read_text())
FLAT_7B_D = {
    # The Hub's second spelling: Hugging Face's names, no word about the tower.
    "model_type": "molmo",
    "hidden_size": 3584,
    "intermediate_size": 37888,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
    "embedding_size": 152064,
    "vocab_size": 152064,
    "layer_norm_eps": 1e-6,
    "layer_norm_type": "rms",
    "rope_theta": 1e6,
    "attention_layer_norm": False,
    "qkv_bias": True,
    "norm_after": False,
    "clip_qkv": None,
    "weight_tying": False,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
}


def test_defaults_are_molmoe():
    config = MolmoConfig()
    assert (config.text.model_type, config.text.num_experts, config.text.num_experts_per_tok) == ("olmoe", 64, 8)
    assert (config.text.intermediate_size, config.text.vocab_size, config.output_vocab_size) == (1024, 50432, 50304)
    assert config.vision.feature_layer_indices == [21, 14]
    assert config.geometry.pooled_per_side == 12


def test_olmo_spelling():
    config = MolmoConfig.from_dict(FLAT_MOE)
    assert (config.text.hidden_size, config.text.intermediate_size, config.text.num_experts) == (64, 32, 8)
    assert config.text.norm_topk_prob is False
    assert (config.vision.num_hidden_layers, config.vision.image_size, config.vision.patch_size) == (10, 48, 2)
    assert config.image_patch_id is None  # not a released vocabulary: the tokenizer decides


def test_hugging_face_spelling():
    config = MolmoConfig.from_dict(FLAT_7B_D)
    text = config.text
    assert (text.model_type, text.intermediate_size, text.num_key_value_heads) == ("qwen2", 18944, 4)
    assert (text.vocab_size, config.output_vocab_size, config.adapter_intermediate_size) == (152192, 152064, 18944)
    assert text.rope_parameters["rope_theta"] == 1e6
    assert (config.image_start_id, config.image_patch_id) == (152064, 152066)
    assert config.vision.num_hidden_layers == 23


def test_post_norm_model():
    flat = FLAT_7B_D | {"attention_layer_norm": True, "qkv_bias": False, "norm_after": True}
    assert MolmoConfig.from_dict(flat).text.model_type == "olmo2"


def test_released_moe_ids():
    config = MolmoConfig.from_dict(FLAT_MOE | {"embedding_size": 50304})
    ids = (config.image_start_id, config.image_end_id, config.image_patch_id, config.image_col_id)
    assert ids == (50280, 50281, 50282, 50283)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"clip_qkv": 8.0}, "clip_qkv is 8.0; supported: null"),
        ({"rope_impl": "cockatoo"}, "rope_impl is 'cockatoo'"),
        ({"weight_tying": True}, "weight_tying is true"),
        ({"image_pooling_2d": "none"}, "image_pooling_2d is 'none'; supported: 'attention-meanq'"),
        ({"image_padding_embed": None}, "image_padding_embed is null"),
        ({"image_projector": "linear"}, "image_projector is 'linear'"),
        ({"image_pooling_h": 3}, "supported: equal"),
        ({"norm_after": True}, "block_type 'moe'"),
        ({"layer_norm_type": "default"}, "layer_norm_type"),
        ({"vision_backbone": FLAT_MOE["vision_backbone"] | {"image_model_type": "siglip"}}, "image_model_type"),
    ],
)
def test_what_is_not_computed_is_refused(change, match):
    with pytest.raises(ModelError, match=match):
        MolmoConfig.from_dict(FLAT_MOE | change)


def test_a_moe_file_silent_about_rotary_is_refused():
    # The original's default is the other kind.
    with pytest.raises(ModelError, match="rope_impl"):
        MolmoConfig.from_dict({key: value for key, value in FLAT_MOE.items() if key != "rope_impl"})


def test_all_faults_are_reported_at_once():
    with pytest.raises(ModelError, match=r"(?s)clip_qkv.*weight_tying.*rope_impl"):
        MolmoConfig.from_dict(FLAT_MOE | {"clip_qkv": 1.0, "weight_tying": True, "rope_impl": "x"})


def test_a_missing_size_names_both_spellings():
    with pytest.raises(ModelError, match="names none of n_layers, num_hidden_layers"):
        MolmoConfig.from_dict({key: value for key, value in FLAT_MOE.items() if key != "n_layers"})


@pytest.mark.parametrize("source", ["tiny", "flat"])
def test_save_and_reload(config, tmp_path, source):
    saved = config if source == "tiny" else MolmoConfig.from_dict(FLAT_MOE)
    saved.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MolmoConfig) and isinstance(loaded.vision, MolmoVisionConfig)
    assert loaded.text.to_dict() == saved.text.to_dict()
    assert loaded.vision.to_dict() == saved.vision.to_dict()
    assert loaded.geometry == saved.geometry and loaded.image_patch_id == saved.image_patch_id


def test_auto_config_reads_a_flat_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(FLAT_7B_D))
    assert AutoConfig.from_pretrained(tmp_path).text.model_type == "qwen2"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"text_config": {"model_type": "olmo"}}, "did you mean 'olmoe'"),
        ({"tie_word_embeddings": True}, "own weights"),
        ({"additional_vocab_size": 500}, "additional_vocab_size 500"),
        ({"vision_config": {"vision_feature_layers": [-2, 30]}}, "must name blocks"),
        ({"vision_config": {"num_attention_heads": 5}}, "not a multiple"),
    ],
)
def test_refused_sizes(config, changes, match):
    with pytest.raises(ModelError, match=match):
        MolmoConfig(**{"text_config": config.text.to_dict(), "additional_vocab_size": 0, **changes})
