"""The gate to a checkpoint's files: each attack on it is one sentence, for every family, before a weight is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.jobs import job_file
from tests.models._hf.families import Family
from tests.sweep.sweeps import vlmprof
from vlmprof import registry
from vlmprof.errors import ModelError, SpecError
from vlmprof.models import _checkpoint_gate as gate
from vlmprof.models.family import Checkpoint
from vlmprof.models.molmo import anatomy
from vlmprof.models.molmo.processing import CHAT_TEMPLATE
from vlmprof.trial.resolve import prepare

FAMILIES = ("molmo", "transformers_vlm")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(family: str, tiny_checkpoint: Path, family_named: Callable[[str], Family], tmp_path: Path) -> Path:
    """A sound checkpoint of the family, for a test to spoil."""
    source = tiny_checkpoint if family == "molmo" else family_named("idefics3_olmoe").checkpoint.path
    return Path(shutil.copytree(source, tmp_path / "model"))


def checkpoint(folder: Path, **consents: bool) -> Checkpoint:
    return Checkpoint(path=str(folder), revision="", dtype="float32", **consents)


def described(family: str, folder: Path, **consents: bool) -> str:
    """The identity, as ``vlmprof check`` finds it."""
    found = registry.load("models", family).describe(checkpoint(folder, **consents)).fingerprint
    gate.require_whole(checkpoint(folder, **consents))
    return str(found)


def pickled(folder: Path, name: str = "pytorch_model.bin") -> None:
    """Turn the weights into a pickle of that name."""
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()


def indexed(folder: Path, name: str) -> None:
    """Have an index name one file for all tensors; the file is where it was."""
    names = load_file(folder / "model.safetensors").keys()
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def only_a_pickle(folder: Path) -> None:
    pickled(folder)


def an_index_that_names_a_pickle(folder: Path) -> None:
    indexed(folder, "w.bin")
    pickled(folder, "w.bin")


def a_pickle_beside_other_safetensors(folder: Path) -> None:
    indexed(folder, "w.bin")
    pickled(folder, "w.bin")
    save_file({"x": torch.zeros(1)}, folder / "decoy.safetensors")


def an_adapter_s_pickle_named_by_the_configuration(folder: Path) -> None:
    pickled(folder, "adapter_model.bin")
    edit(folder / "config.json", transformers_weights="adapter_model.bin")


def an_index_that_leads_out(folder: Path) -> None:
    indexed(folder, "../outside.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")


def an_index_with_an_absolute_path(folder: Path) -> None:
    indexed(folder, str(folder.parent / "outside.safetensors"))
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")


def an_index_that_leads_out_by_a_link(folder: Path) -> None:
    indexed(folder, "inside.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "inside.safetensors").symlink_to(folder.parent / "outside.safetensors")


def an_index_that_leads_out_by_a_folder(folder: Path) -> None:
    indexed(folder, "part/w.safetensors")
    (folder.parent / "part").mkdir()
    (folder / "model.safetensors").rename(folder.parent / "part" / "w.safetensors")
    (folder / "part").symlink_to(folder.parent / "part")


def a_configuration_that_leads_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    edit(folder / "config.json", transformers_weights="../outside.safetensors")


def an_index_of_nothing(folder: Path) -> None:
    indexed(folder, "gone.safetensors")
    (folder / "model.safetensors").unlink()


def an_index_that_is_none(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ["model.safetensors"]}')
    (folder / "model.safetensors").unlink()


def an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else", "peft_type": "LORA"}')


def a_kernel_of_the_hub(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config={**config["text_config"], "_attn_implementation": "someone/kernel"})


def a_kernel_for_a_part(folder: Path) -> None:
    edit(folder / "config.json", attn_implementation={"text_config": "someone/kernel:fn"})


def cut_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 7)


def weights_of_zeros(folder: Path) -> None:
    size = (folder / "model.safetensors").stat().st_size
    (folder / "model.safetensors").write_bytes(bytes(size))


def weights_with_a_header_beyond_all(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + content[8:])


def a_sparse_file_of_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 2**42)


def a_pipe_as_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def a_device_as_configuration(folder: Path) -> None:
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").symlink_to("/dev/zero")


def a_pipe_as_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def a_dangling_link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder.parent / "nowhere")


def a_link_to_itself(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").symlink_to("tokenizer_config.json")


def a_tokenizer_that_is_no_json(folder: Path) -> None:
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:200])


def a_tokenizer_that_is_none(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": {"type": "None of these"}}')


def json_without_end(folder: Path) -> None:
    (folder / "processor_config.json").write_text("[" * 200_000)


def a_configuration_that_is_no_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


ATTACKS = {
    only_a_pickle: "format that can run code",
    an_index_that_names_a_pickle: "'w.bin', which is not safetensors|format that can run code",
    a_pickle_beside_other_safetensors: "'w.bin', which is not safetensors",
    an_adapter_s_pickle_named_by_the_configuration: "'adapter_model.bin', which is not safetensors",
    an_index_that_leads_out: "lies outside the checkpoint",
    an_index_with_an_absolute_path: "lies outside the checkpoint",
    an_index_that_leads_out_by_a_link: "is a link to .*, outside the checkpoint's folder",
    an_index_that_leads_out_by_a_folder: "is a link to .*, outside the checkpoint's folder",
    a_configuration_that_leads_out: "lies outside the checkpoint",
    an_index_of_nothing: "names 'gone.safetensors', which is not there",
    an_index_that_is_none: "is no index of weights",
    an_adapter: "merge the adapter into the weights",
    a_kernel_of_the_hub: "'someone/kernel', a kernel of the Hub, which is code",
    a_kernel_for_a_part: "'someone/kernel:fn', a kernel of the Hub, which is code",
    cut_weights: "is cut: its header describes",
    weights_of_zeros: "has no header of safetensors",
    weights_with_a_header_beyond_all: "has no header of safetensors",
    a_sparse_file_of_weights: "is longer than it says",
    a_pipe_as_weights: "is a named pipe",
    a_device_as_configuration: "is a device",
    a_pipe_as_tokenizer: "is a named pipe",
    a_dangling_link: "is a link to .*, where nothing is",
    a_link_to_itself: "is a link to tokenizer_config.json, where nothing is",
    a_tokenizer_that_is_no_json: "tokenizer.json is not JSON",
    a_tokenizer_that_is_none: "is no tokenizer",
    json_without_end: "processor_config.json is not JSON",
    a_configuration_that_is_no_text: "config.json is not JSON",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_may_not_be_read_is_refused_in_one_sentence_by_check_and_before_loading(
    attack: Callable[[Path], None], family: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = registry.load("models", family)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("a pickle was read"))
    assert described(family, folder)
    attack(folder)
    for ask in (lambda: described(family, folder), lambda: leaf.load(checkpoint(folder), "cpu")):
        with pytest.raises(ModelError, match=ATTACKS[attack]) as refused:
            ask()
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 700


def test_with_consent_a_pickle_is_read_and_is_part_of_the_identity(family: str, folder: Path) -> None:
    """Changed weights are another model, also in a file that an index names in a folder of its own."""
    pickled(folder)
    before = described(family, folder, allow_pickle=True)
    assert registry.load("models", family).load(checkpoint(folder, allow_pickle=True), "cpu")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    next(iter(weights.values())).view(-1)[0] += 1
    torch.save(weights, folder / "pytorch_model.bin")
    assert described(family, folder, allow_pickle=True) != before


def test_with_consent_too_an_index_stays_inside(family: str, folder: Path) -> None:
    names = load_file(folder / "model.safetensors").keys()
    pickled(folder, "../outside.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="lies outside the checkpoint"):
        described(family, folder, allow_pickle=True)


def test_shards_in_a_folder_inside_are_read_and_count(family: str, folder: Path) -> None:
    indexed(folder, "part/w.safetensors")
    (folder / "part").mkdir()
    shard = (folder / "model.safetensors").rename(folder / "part" / "w.safetensors")
    before = described(family, folder)
    tensors = load_file(shard)
    tensors[next(iter(tensors))].view(-1)[0] += 1
    save_file(tensors, shard, metadata={"format": "pt"})
    assert described(family, folder) != before
    os.truncate(shard, 100)
    with pytest.raises(ModelError, match=r"no header of safetensors|is cut"):
        described(family, folder)


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "generation_config.json"])
def test_whatever_can_change_an_answer_is_part_of_the_identity(family: str, folder: Path, name: str) -> None:
    before = described(family, folder)
    path = folder / name
    path.write_text(path.read_text().replace("Assistant", "Helper") + " " if path.is_file() else "{}")
    assert described(family, folder) != before


def test_the_template_that_holds_without_a_file_changes_no_identity(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Checkpoints that were saved before templates counted keep their fingerprints, and their results."""
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    assert (copy / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    before = described("molmo", copy)
    (copy / "chat_template.jinja").unlink()
    assert described("molmo", copy) == before
    assert anatomy.content_digest(tiny_checkpoint / "chat_template.jinja") == anatomy.STANDARD_TEMPLATE


def test_a_folder_of_the_hub_s_cache_is_links_to_its_blobs(family: str, folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--a--b"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots" / "commit").mkdir(parents=True)
    for number, path in enumerate(path for path in folder.iterdir() if path.is_file()):
        blob = path.rename(home / "blobs" / str(number))
        (home / "snapshots" / "commit" / path.name).symlink_to(Path("../../blobs") / blob.name)
    assert described(family, home / "snapshots" / "commit")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.safetensors.index.json": {"weight_map": {"x": "w.bin"}}}, "'w.bin', which is not safetensors"),
        ({"model.safetensors.index.json": {"weight_map": {"x": "../w.safetensors"}}}, "lies outside"),
        ({"config.json": {"transformers_weights": "adapter_model.bin"}}, "not safetensors"),
        ({"config.json": {"_attn_implementation": "someone/kernel"}}, "which is code"),
        ({"adapter_config.json": {}}, "changes another model"),
    ],
)
def test_a_hub_id_goes_through_the_same_gate(
    files: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    found = lambda checkpoint, name: tmp_path / name if (tmp_path / name).is_file() else None  # noqa: E731
    monkeypatch.setattr(gate, "_from_hub", found)
    hub = replace(checkpoint(tmp_path), path="someone/model", revision="0" * 40)
    with pytest.raises(ModelError, match=said):
        gate.admit(hub)


def test_check_says_it_with_exit_code_2(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    cut_weights(folder)
    with pytest.raises(SpecError, match="is cut: its header describes"):
        prepare(job_file(tmp_path, folder))
    done = vlmprof("check", "job.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "is cut: its header describes" in done.stderr and "Traceback" not in done.stderr
