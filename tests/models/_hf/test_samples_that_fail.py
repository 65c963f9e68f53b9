"""A sample that a model cannot be given fails alone, with id and cause, wherever it is met; the others are answered."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.jobs import QUICK, small_job
from tests.models._hf.families import BY_NAME, Family, ask
from tests.models._hf.recipes import SPECIAL, make
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.engine.greedy import generate
from vlmprof.errors import UserError
from vlmprof.models._hf.literal_text import control_tokens
from vlmprof.models.family import Checkpoint
from vlmprof.store.collector import TrialResult
from vlmprof.trial.executor import Executor
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.resolve import predicted_vision_tokens, resolve
from vlmprof.trial.samples import first_usable, samples_of
from vlmprof.trial.worst_case_probe import WorstCaseProbe

ASPECTS = {"tall.png": (1, 250), "wide.png": (8000, 20)}
"""(width, height): beyond the aspect ratio of 200 that the processors of Qwen allow."""


def png(width: int, height: int, seed: int = 0) -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 255, (height, width, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def spelling_tokenizer(image_token: str) -> PreTrainedTokenizerFast:
    """Bytes, so that every text can be spelled, with the special tokens of the recipes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(SPECIAL)}
    letters = [letter for letter in alphabet if letter.isascii()]
    vocabulary |= {letter: len(SPECIAL) + index for index, letter in enumerate(letters)}
    vocabulary |= {f"unused{i}": i for i in range(len(vocabulary), 158)}
    vocabulary["Ġ"] = 158
    backend = Tokenizer(models.BPE(vocab={**vocabulary, "Ċ": 159}, merges=[], unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    named = {"image_token": image_token, "video_token": "<|video_pad|>", "vision_bos_token": "<|vision_start|>"}
    named |= {"vision_eos_token": "<|vision_end|>", "start_image_token": "<img>", "end_image_token": "</img>"}
    named |= {"context_image_token": "<IMG_CONTEXT>"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>", extra_special_tokens=named
    )
    specials = [AddedToken(token, special=True, normalized=False) for token in SPECIAL[2:]]
    made.add_special_tokens({"additional_special_tokens": specials}, replace_extra_special_tokens=False)
    return made


@pytest.fixture(scope="module")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    made: dict[str, Family] = {}

    def family(name: str) -> Family:
        if name not in made:
            recipe = BY_NAME[name]
            folder = make(recipe, tmp_path_factory.mktemp(name))
            spelling_tokenizer(recipe.image_token).save_pretrained(folder)
            made[name] = Family(recipe, Checkpoint(path=str(folder), revision="", dtype="float32"))
        return made[name]

    return family


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Plan a trial on rows (picture, question); pictures that a row names and nobody wrote are missing."""
    monkeypatch.setenv("VLMPROF_CACHE", str(tmp_path / "cache"))

    def plan(checkpoint: str, rows: list[tuple[str, str]], **sections: Any) -> Any:
        for index, name in enumerate({name for name, _ in rows}):
            width, height = ASPECTS.get(name, (60 + 10 * index, 50))
            if name != "missing.png":
                (tmp_path / name).write_bytes(png(width, height, index))
        listed = [
            {"id": f"q{n}", "image": name, "question": text, "answer": "red"} for n, (name, text) in enumerate(rows)
        ]
        (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(row) for row in listed))
        task = {"name": "local", "path": str(tmp_path / "q.jsonl"), "metric": "exact_match"}
        model = {"family": "transformers_vlm", "checkpoint": checkpoint}
        settings = {"tasks": [task], "knobs": {"output_tokens": [2]}, "models": [model], "batch": {"size": 3}}
        return small_job(tmp_path, "", **{**settings, **sections}).plans[0]

    return plan


def run(plan: Any) -> TrialResult:
    return Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None)


SOUND = [("a.png", "what colour is the cat"), ("b.png", "red"), ("c.png", "is there a dog")]


@pytest.mark.parametrize("bad", ASPECTS)
@pytest.mark.parametrize("first", [True, False])
def test_a_picture_that_the_processor_refuses_fails_alone(
    trial: Any, family_named: Callable[[str], Family], bad: str, first: bool
) -> None:
    rows = [(bad, "red"), *SOUND] if first else [*SOUND, (bad, "red")]
    result = run(trial(family_named("qwen3_vl").checkpoint.path, rows))
    failed = {row["sample"]: str(row["error"]) for row in result.samples if row["end"] == "failed"}
    assert result.state == "failed" and list(failed) == ["q0" if first else "q3"]
    (cause,) = failed.values()
    assert "is refused by this model's preprocessing: " in cause and "200" in cause
    assert len(result.samples) == 4 and result.row["samples_failed"] == 1
    assert "1 of 4 samples failed" in str(result.row["error"])


def test_planning_and_timing_leave_it_out(trial: Any, family_named: Callable[[str], Family]) -> None:
    plan = trial(
        family_named("qwen3_vl").checkpoint.path,
        [("tall.png", "red"), *SOUND],
        measure=["latency"],
        timing={**QUICK, "batch_size": 3, "requests": 1},
    )
    assert predicted_vision_tokens(resolve(plan)) > 0
    result = run(plan)
    assert (result.state, result.row["error"]) == ("done", None)
    assert {row["batch_size"] for row in result.timings} == {3} and result.row["timing_batch_size"] == 3


def test_fewer_usable_samples_than_a_timed_batch_needs_are_timed_again(
    trial: Any, family_named: Callable[[str], Family]
) -> None:
    plan = trial(
        family_named("qwen3_vl").checkpoint.path,
        [("missing.png", "red"), ("a.png", "red"), ("b.png", "cat")],
        measure=["latency"],
        timing={**QUICK, "batch_size": 3},
    )
    result = run(plan)
    assert result.state == "done", result.row["error"]
    assert {row["batch_size"] for row in result.timings} == {3}
    assert "timing of sample q0" in str(result.row["not_measured"])


def test_no_usable_sample_is_said_with_the_first_cause(trial: Any, family_named: Callable[[str], Family]) -> None:
    result = run(trial(family_named("qwen3_vl").checkpoint.path, [("tall.png", "red"), ("missing.png", "cat")]))
    assert result.state == "failed" and "none of the 2 samples can be given to this model" in str(result.row["error"])


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_next_olmoe", "idefics3_olmoe", "internvl"])
def test_text_that_looks_like_a_special_token_is_asked_as_text(spelling: Any, name: str) -> None:
    family = spelling(name)
    model, tokenizer = family.model, family.model._processor.tokenizer
    literal = family.recipe.image_token
    asked = f"What does {literal} mean? And <eos>?"
    plain, odd = (model.encode([ask(text, 90, 60)]) for text in ("What does it mean?", asked))
    assert odd.encodings[0].vision_tokens == plain.encodings[0].vision_tokens
    ids = odd.inputs["input_ids"][0].tolist()
    spelled = tokenizer(asked, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(spelled) == asked
    assert any(ids[i : i + len(spelled)] == spelled for i in range(len(ids)))
    assert odd.inputs["attention_mask"].shape == (1, len(ids))
    assert generate(model, [ask(asked, 90, 60), ask("What?", 64, 64)], max_new_tokens=2).generations


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_next_olmoe", "internvl"])
def test_where_it_cannot_be_spelled_the_sample_fails_alone(
    trial: Any, family_named: Callable[[str], Family], name: str
) -> None:
    """The tokenizers of the recipes are lists of words, the special tokens among them."""
    family = family_named(name)
    rows = [*SOUND, ("a.png", f"what is {family.recipe.image_token} ?")]
    result = run(trial(family.checkpoint.path, rows))
    failed = {row["sample"]: str(row["error"]) for row in result.samples if row["end"] == "failed"}
    assert list(failed) == ["q3"] and "which this tokenizer cannot write as text" in failed["q3"]


def test_a_question_without_control_tokens_is_encoded_as_ever(family: Family) -> None:
    tokens = control_tokens(family.model._processor)
    assert family.recipe.image_token in tokens and "<eos>" in tokens and "" not in tokens


def test_a_tokenizer_that_truncates_cuts_no_question(spelling: Any, tmp_path: Path) -> None:
    """In tokenizer.json and in tokenizer_config.json, by truncation and by max_length."""
    whole = spelling("qwen3_vl")
    question = "how many dog are there left of the tree " * 3
    expected = whole.model.encode([ask(question, 90, 60)])
    cut = {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0}
    for name, change in {
        "tokenizer.json": {"truncation": cut},
        "tokenizer_config.json": {"max_length": 20, "truncation": True, "padding": "max_length"},
    }.items():
        folder = tmp_path / name.removesuffix(".json")
        shutil.copytree(whole.checkpoint.path, folder)
        written = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**written, **change}))
        family = Family(whole.recipe, Checkpoint(path=str(folder), revision="", dtype="float32"))
        made = family.model.encode([ask(question, 90, 60)])
        assert torch.equal(made.inputs["input_ids"], expected.inputs["input_ids"]), name


def test_a_prompt_beyond_the_positions_fails_alone(trial: Any, spelling: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    family = spelling("qwen3_vl")
    long = "how many dog are there " * 20
    needed = family.model.encode([ask(long, 60, 50)]).encodings[0].prompt_tokens
    monkeypatch.setattr(type(family.model), "positions", property(lambda self: needed - 1))
    result = run(trial(family.checkpoint.path, [*SOUND, ("a.png", long)]))
    failed = {row["sample"]: str(row["error"]) for row in result.samples if row["end"] == "failed"}
    assert result.state == "failed" and list(failed) == ["q3"]
    assert "positions, the model has" in failed["q3"] and "2 new ones" in failed["q3"]


def test_the_answer_needs_positions_too(trial: Any, spelling: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    family = spelling("qwen3_vl")
    rows = [("a.png", "red"), ("a.png", "cat")]
    needed = family.model.encode([ask("red", 60, 50)]).encodings[0].prompt_tokens
    monkeypatch.setattr(type(family.model), "positions", property(lambda self: needed + 3))
    fits, beyond = ({"knobs": {"output_tokens": [tokens]}, "measure": ["accuracy"]} for tokens in (4, 5))
    assert run(trial(family.checkpoint.path, rows, **fits)).state == "done"
    result = run(trial(family.checkpoint.path, rows, **beyond))
    assert result.state == "failed" and "2 of 2 samples failed, the first is q" in str(result.row["error"])
    timed = run(trial(family.checkpoint.path, rows, knobs={"output_tokens": [5]}, measure=["latency"]))
    assert timed.state == "failed" and "can be timed" in str(timed.row["error"])


def test_the_probe_takes_a_sample_that_the_model_takes(
    trial: Any, spelling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest question with the largest picture may be beyond the positions although every sample fits."""
    family = spelling("qwen3_vl")
    resolved = resolve(trial(family.checkpoint.path, [("a.png", "how many dog " * 9), ("zz.png", "red")]))
    loaded, samples = LoadedModel(family.model), samples_of(resolved)
    lengths = [family.model.encode([sample.prompt]).encodings[0].prompt_tokens for sample in samples]
    monkeypatch.setattr(type(family.model), "positions", property(lambda self: max(lengths) + 1))
    probe = WorstCaseProbe(resolved, samples, loaded, 2, BatchSizer())
    mixed = family.model.encode([probe._worst.prompt]).encodings[0].prompt_tokens
    questions = {sample.prompt.text for sample in samples}
    assert probe._probed_prompt().text in questions and mixed >= max(lengths)
    monkeypatch.setattr(type(family.model), "positions", property(lambda self: 1))
    with pytest.raises(UserError, match="no sample can be given to this model"):
        probe._probed_prompt()
    assert len(first_usable(loaded, samples, 2, 2).broken) == 2


@pytest.mark.parametrize("change", ["[:20]", " | truncate(24)", " | upper", " | replace('dog', '')"])
def test_a_chat_template_that_cuts_or_rewrites_a_question_is_told(spelling: Any, tmp_path: Path, change: str) -> None:
    whole = spelling("qwen3_vl")
    folder = tmp_path / "model"
    shutil.copytree(whole.checkpoint.path, folder)
    template = whole.model._processor.chat_template
    shown = "c['text']"
    assert shown in template
    for file in folder.glob("chat_template.*"):
        file.unlink()
    (folder / "chat_template.jinja").write_text(template.replace(shown, f"({shown}{change})"))
    model = Family(whole.recipe, replace(whole.checkpoint, path=str(folder))).model
    with pytest.raises(Exception, match="does not show the question as it is"):
        model.encode([ask("how many dog are there left of the tree", 90, 60)])
