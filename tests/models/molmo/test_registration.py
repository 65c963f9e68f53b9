from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vlmprof.models.molmo.configuration import MolmoConfig
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.registration import register


@pytest.mark.parametrize("auto", [AutoModelForImageTextToText, AutoModelForCausalLM])
def test_auto_classes_build_ours(config, auto):
    assert register() and register()
    assert isinstance(auto.from_config(config), MolmoForConditionalGeneration)


def test_a_molmo_of_the_library_wins_unless_forced(monkeypatch):
    class LibraryMolmoConfig(PreTrainedConfig):
        model_type = "molmo"

    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "molmo", LibraryMolmoConfig)
    assert not register()
    assert CONFIG_MAPPING["molmo"] is LibraryMolmoConfig
    assert register(force=True)
    assert CONFIG_MAPPING["molmo"] is MolmoConfig


@pytest.mark.parametrize("auto", [AutoModelForImageTextToText, AutoModelForCausalLM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_by_auto_class(model, tmp_path, auto, dtype):
    model.save_pretrained(tmp_path)
    again = auto.from_pretrained(tmp_path, dtype=dtype)
    assert again.dtype == dtype and again.config.geometry == model.config.geometry
    assert torch.equal(again.lm_head.weight, model.lm_head.weight.to(dtype))
