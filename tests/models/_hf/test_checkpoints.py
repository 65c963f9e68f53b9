"""What is refused before any weights are read, and what a checkpoint may be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from tests.jobs import small_job
from tests.models._hf.families import Family
from vlmprof import registry
from vlmprof.errors import KnobValueError, ModelError, SpecError
from vlmprof.job.spec import ModelSpec
from vlmprof.models._hf.introspection import find_modules, reachable_experts
from vlmprof.models._hf.meta_model import build_meta_model
from vlmprof.models._hf.processor_compat import has_torchvision
from vlmprof.models.family import AbstractFamily, Checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def leaf() -> AbstractFamily:
    found: AbstractFamily = registry.load("models", "transformers_vlm")
    return found


@pytest.fixture
def copied(family_named: Callable[[str], Family], tmp_path: Path) -> Checkpoint:
    """A checkpoint that a test may damage."""
    shutil.copytree(family_named("idefics3_olmoe").checkpoint.path, tmp_path / "copy")
    return Checkpoint(path=str(tmp_path / "copy"), revision="", dtype="float32")


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("path", "revision", "said"),
    [
        ("", "", "name a checkpoint"),
        ("HuggingFaceM4/Idefics3-8B-Llama3", "", "add 'revision: <commit>'"),
        ("HuggingFaceM4/Idefics3-8B-Llama3", "main", "'main' can move"),
        ("HuggingFaceM4/Idefics3-8B-Llama3", COMMIT, "cannot be read"),
    ],
)
def test_a_hub_id_is_pinned_or_refused(leaf: AbstractFamily, path: str, revision: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        leaf.describe(Checkpoint(path=path, revision=revision, dtype="float32"))


def test_a_model_of_another_kind_is_refused(leaf: AbstractFamily, copied: Checkpoint) -> None:
    (Path(copied.path) / "config.json").write_text(json.dumps({"model_type": "olmoe"}))
    with pytest.raises(ModelError, match="'olmoe' model, which transformers does not load as image and text"):
        leaf.describe(copied)


def test_code_beside_the_weights_is_not_run_unless_allowed(leaf: AbstractFamily, copied: Checkpoint) -> None:
    folder = Path(copied.path)
    (folder / "configuration_own.py").write_text("raise SystemExit('this code ran')\n")
    edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    with pytest.raises(ModelError, match="'trust_remote_code: true'"):
        leaf.describe(copied)


def test_code_beside_the_weights_runs_where_the_job_allows_it(
    leaf: AbstractFamily, copied: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = Path(copied.path)
    library = "from transformers import Idefics3Config, Idefics3ForConditionalGeneration\n\n"
    config_class = library + "class OwnConfig(Idefics3Config):\n    model_type = 'own'\n"
    (folder / "own.py").write_text(
        config_class + "\n\nclass OwnModel(Idefics3ForConditionalGeneration):\n    config_class = OwnConfig\n"
    )
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}
    edit(folder / "config.json", model_type="own", auto_map=names)
    trusted = replace(copied, trust_remote_code=True)
    assert leaf.describe(trusted).architecture == "OwnModel (OlmoeModel)"
    assert len(leaf.load(trusted, "cpu").routers) == 4


def test_pickled_weights_are_not_read_unless_allowed(leaf: AbstractFamily, copied: Checkpoint) -> None:
    folder = Path(copied.path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*'allow_pickle: true'"):
        leaf.load(copied, "cpu")
    assert leaf.load(replace(copied, allow_pickle=True), "cpu").routers


@pytest.mark.parametrize("fault", ["missing", "not expected", "of another shape"])
def test_every_tensor_is_accounted_for(leaf: AbstractFamily, copied: Checkpoint, fault: str) -> None:
    path = Path(copied.path) / "model.safetensors"
    weights = load_file(path)
    name = "model.connector.modality_projection.proj.weight"
    if fault == "missing":
        del weights[name]
    elif fault == "not expected":
        weights["model.connector.other.weight"] = torch.zeros(2)
    else:
        weights[name] = torch.zeros(3, 5)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"1 {fault} "):
        leaf.load(copied, "cpu")


def test_a_model_without_a_chat_template_is_refused(leaf: AbstractFamily, copied: Checkpoint) -> None:
    (Path(copied.path) / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        leaf.describe(copied)


def test_the_fingerprint_is_of_content(leaf: AbstractFamily, copied: Checkpoint) -> None:
    before = leaf.describe(copied).fingerprint
    edit(Path(copied.path) / "config.json", changed=1)
    assert leaf.describe(copied).fingerprint != before


@pytest.mark.skipif(has_torchvision(), reason="says what is missing where torchvision is missing")
def test_a_processor_that_needs_torchvision_says_so(leaf: AbstractFamily, copied: Checkpoint) -> None:
    folder = Path(copied.path)
    config = AutoConfig.for_model("molmo2", text_config={"num_hidden_layers": 2})
    config.save_pretrained(folder)
    described = {
        "processor_class": "Molmo2Processor",
        "image_processor": {"image_processor_type": "Molmo2ImageProcessor"},
    }
    (folder / "processor_config.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="needs torchvision, which is not installed here; pip install torchvision"):
        leaf.describe(copied)


def test_what_greedy_decoding_leaves_out_is_said(leaf: AbstractFamily, copied: Checkpoint) -> None:
    assert leaf.describe(copied).decoding_left_out == ""
    settings = {"repetition_penalty": 1.05, "do_sample": True, "temperature": 0.1, "no_repeat_ngram_size": 0}
    edit(Path(copied.path) / "generation_config.json", **settings)
    assert leaf.describe(copied).decoding_left_out == "repetition_penalty=1.05"
    (Path(copied.path) / "generation_config.json").unlink()
    assert leaf.describe(copied).decoding_left_out == ""


def test_fields_that_were_added_later_leave_ids_alone() -> None:
    plain = ModelSpec(family="transformers_vlm", checkpoint="x")
    assert set(plain.model_dump()) == {"family", "checkpoint", "revision", "dtype"}
    trusted = ModelSpec(family="transformers_vlm", checkpoint="x", trust_remote_code=True)
    assert trusted.model_dump()["trust_remote_code"] is True
    assert ModelSpec.model_validate(trusted.model_dump()) == trusted


def test_a_job_hears_every_knob_that_does_not_apply(
    tmp_path: Path, family_named: Callable[[str], Family], leaf: AbstractFamily
) -> None:
    checkpoint = family_named("qwen2_5_vl").checkpoint.path
    model = {"family": "transformers_vlm", "checkpoint": checkpoint}
    knobs = {"moe_top_k": [1], "max_crops": [2], "tiling": [[1, 2]], "active_blocks": [[0, 4]], "vision_tokens": [0]}
    with pytest.raises(SpecError) as caught:
        small_job(tmp_path, checkpoint, models=[model], knobs=knobs)
    said = str(caught.value)
    assert "moe_top_k: Qwen2_5_VLForConditionalGeneration is dense, it routes no experts" in said
    assert "max_crops: Qwen2VLImageProcessor counts its budget in pixels; use max_pixels or vision_tokens" in said
    assert "tiling: Qwen2VLImageProcessor chooses the tiling itself" in said
    assert "from 0 to 3, got 4" in said
    assert "vision_tokens: expected a whole number of at least 1, got 0" in said


def test_a_router_that_reads_its_configuration_gets_one_of_its_own() -> None:
    text = {"num_hidden_layers": 4, "enable_moe_block": True, "num_experts": 8, "top_k_experts": 2}
    config = AutoConfig.for_model("gemma4", text_config={**text, "moe_intermediate_size": 64})
    parts = find_modules(build_meta_model(config))
    first, second, *_ = parts.routers
    shared = first._module.config
    first.top_k = 5
    assert (first.top_k, second.top_k, shared.top_k_experts) == (5, 2, 2)
    first.top_k = 2
    assert first._module.config is shared


def test_experts_of_groups_that_were_not_chosen_are_out_of_reach(family_named: Callable[[str], Family]) -> None:
    """GLM: routers choose groups first, and strike the others out."""
    config = AutoConfig.for_model("glm4v_moe", text_config={"n_routed_experts": 8, "n_group": 4, "topk_group": 2})
    assert reachable_experts(config.text_config, 8) == 4
    anatomy = family_named("glm4v_moe").anatomy
    assert anatomy.reachable_experts is None
    with pytest.raises(KnobValueError, match="from 1 to 2, got 3"):
        registry.load("knobs", "moe_top_k").check(3, replace(anatomy, reachable_experts=2))


def test_a_stack_without_any_attention_is_refused(family_named: Callable[[str], Family]) -> None:
    hybrid = replace(family_named("qwen2_5_vl").anatomy, attention_blocks=(3,))
    knob = registry.load("knobs", "active_blocks")
    knob.check([0, 3], hybrid)
    with pytest.raises(KnobValueError, match="at least one of the blocks with attention"):
        knob.check([0, 1], hybrid)
