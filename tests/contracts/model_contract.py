"""What every model family owes, as a suite to inherit: the fixtures say which family and which small checkpoint."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.knob_contract import fingerprint, logits
from tests.models._hf.families import ask
from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.engine.vision_cache import RowwiseVision
from vlmprof.errors import ModelError
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.measure.count_check import require_counts_match
from vlmprof.measure.model_counts import ModelCounts, ModelParts, counted
from vlmprof.models.family import AbstractFamily, AbstractModel, Checkpoint
from vlmprof.records import Prompt
from vlmprof.surfaces import SURFACES, Anatomy

NEW_TOKENS = 4
POOL = [
    ("what colour is the cat", 90, 60),
    ("red", 64, 64),
    ("how many dog are there left of the tree", 50, 110),
    ("is there a cat", 160, 40),
]
"""Questions of several lengths about pictures of several shapes: any two of them pad each other."""

WITHOUT_WEIGHTS = """
import json, sys
from vlmprof import registry
from vlmprof.models.family import Checkpoint
checkpoint = Checkpoint(**json.loads(sys.argv[2]))
anatomy = registry.load("models", sys.argv[1]).describe(checkpoint)
print(anatomy.fingerprint, anatomy.decoder_blocks, anatomy.count_tokens(60, 90, anatomy.max_crops).vision_tokens)
"""


class ModelContract:
    """Inherit, and give the fixtures ``name`` (its key) and ``checkpoint``, as small as it gets."""

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls) -> Checkpoint:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def family(cls, name: str) -> AbstractFamily:
        family: AbstractFamily = registry.load("models", name)
        return family

    @pytest.fixture(scope="class")
    @classmethod
    def anatomy(cls, family: AbstractFamily, checkpoint: Checkpoint) -> Anatomy:
        return family.describe(checkpoint)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, family: AbstractFamily, checkpoint: Checkpoint) -> AbstractModel:
        return family.load(checkpoint, "cpu")

    @pytest.fixture(scope="class")
    @classmethod
    def prompts(cls) -> list[Prompt]:
        """Questions whose answers differ; those of noise unless the weights need others."""
        return [ask(*about, seed=seed) for seed, about in enumerate(POOL)]

    @final
    def test_every_surface_is_provided_or_its_absence_explained(self, name: str, anatomy: Anatomy) -> None:
        assert anatomy.family == name
        assert anatomy.provides | set(anatomy.lacks) == set(SURFACES)
        assert not anatomy.provides & set(anatomy.lacks)
        assert all(anatomy.lacks.values()), "a surface is missing without a reason"

    @final
    def test_anatomy_is_known_in_another_process_that_reads_no_weights(
        self, name: str, anatomy: Anatomy, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        """By their fingerprint the weights are told apart; their tensors are not read: here they have none."""
        command = [sys.executable, "-c", WITHOUT_WEIGHTS, name, json.dumps(asdict(checkpoint))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        tokens = anatomy.count_tokens(60, 90, anatomy.max_crops).vision_tokens
        assert said == [anatomy.fingerprint, str(anatomy.decoder_blocks), str(tokens)]
        if not checkpoint.path:
            return
        hollow = hollowed(Path(checkpoint.path), tmp_path / "hollow")
        command[-1] = json.dumps({**asdict(checkpoint), "path": str(hollow)})
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert told[1:] == said[1:] and told[0] != said[0]

    @final
    def test_a_checkpoint_that_is_not_there_is_refused(self, family: AbstractFamily, tmp_path: Path) -> None:
        missing = Checkpoint(path=str(tmp_path / "no-such"), revision="", dtype="float32")
        with pytest.raises(ModelError, match="no-such"):
            family.describe(missing)

    @final
    def test_the_loaded_model_is_the_one_described(self, model: AbstractModel, anatomy: Anatomy) -> None:
        assert len(model.decoder.layers) == anatomy.decoder_blocks
        routed = anatomy.router_blocks or range(anatomy.decoder_blocks)
        assert len(model.routers) == (len(routed) if anatomy.experts else 0)
        assert {router.top_k for router in model.routers} <= {anatomy.experts_per_token}
        assert {"dtype", "attention", "experts_kernel"} <= set(model.kernels)
        assert model.kernels["dtype"] == "float32" and model.device == "cpu"
        assert model.kernels["attention"] == anatomy.attention_kernels[0]
        assert model.eos_ids

    @final
    def test_whether_a_tiling_decides_is_said_before_there_is_a_model(
        self, family: AbstractFamily, model: AbstractModel
    ) -> None:
        assert family.tiling_decides == isinstance(model, RowwiseVision)

    def test_what_is_planned_is_what_the_model_sees(
        self, model: AbstractModel, anatomy: Anatomy, prompts: Sequence[Prompt]
    ) -> None:
        whole = ModelParts.of(model)
        for prompt in prompts:
            planned = anatomy.count_tokens(prompt.picture.height, prompt.picture.width, anatomy.max_crops)
            with counted(whole) as counts:
                run = generate(model, [prompt], max_new_tokens=2, stop_at_eos=False)
            (seen,) = (generation.encoding for generation in run.generations)
            assert (seen.tiling, seen.vision_tokens) == (planned.tiling, planned.vision_tokens)
            assert not anatomy.crops_known or seen.crops == planned.crops
            require_counts_match(ModelCounts(), counts, whole, run, crops_known=anatomy.crops_known)
            assert counts.blocks_executed == tuple(range(anatomy.decoder_blocks))

    @final
    def test_knobs_leave_weights_and_answers_as_they_were(
        self, model: AbstractModel, anatomy: Anatomy, prompts: list[Prompt]
    ) -> None:
        before, state, answers = weights(model), fingerprint(model), logits(model, prompts)
        turned = list(knob_values(anatomy))
        assert turned, "no knob turns this model"
        for knob, value in turned:
            knob.check(value, anatomy)
            with knob.applied(model, value):
                generate(model, prompts, max_new_tokens=2, stop_at_eos=False)
            assert weights(model) == before, knob
            assert fingerprint(model) == state, knob
        assert torch.equal(logits(model, prompts), answers)

    @final
    def test_greedy_answers_are_the_same_twice_and_hang_on_the_prompt(
        self, model: AbstractModel, prompts: list[Prompt]
    ) -> None:
        first, second = (token_ids(model, prompts) for _ in range(2))
        assert first == second
        assert len({tuple(row) for row in first}) > 1, "the answers say nothing about the prompts"
        assert all(isinstance(model.text(row), str) for row in first)

    @final
    def test_a_batch_changes_no_answer(self, model: AbstractModel, prompts: list[Prompt]) -> None:
        alone = [token_ids(model, [prompt])[0] for prompt in prompts]
        batches_hold(lambda batch: token_ids(model, batch), prompts, alone)


def token_ids(model: AbstractModel, prompts: list[Prompt]) -> list[list[int]]:
    """(prompts, NEW_TOKENS) greedy tokens, taken by the steps that an engine takes."""
    batch = model.transfer(model.encode(prompts))
    state = model.prefill(batch, model.see(batch), NEW_TOKENS)
    steps = [state.next_tokens]
    while len(steps) < NEW_TOKENS:
        state = model.step(state)
        steps.append(state.next_tokens)
    ids: list[list[int]] = torch.stack(steps, 1).tolist()
    return ids


def batches_hold(answers: Callable[[list[Prompt]], list[Any]], pool: list[Prompt], alone: list[Any]) -> None:
    """No batch of prompts of ``pool``, whatever its order and however often one comes, changes an answer.

    The same batches every time: random weights have near-ties, and one in many thousand would flip by rounding.
    """

    @settings(max_examples=5, deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, len(pool) - 1), min_size=2, max_size=6))
    def together(batch: list[int]) -> None:
        assert answers([pool[index] for index in batch]) == [alone[index] for index in batch]

    together()


def weights(model: AbstractModel) -> str:
    """A hash of every parameter and buffer of the decoder and, where the family shows it, of the vision encoder."""
    digest = hashlib.sha256()
    for module in filter(None, (model.network, model.decoder, model.vision_encoder)):
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def knob_values(anatomy: Anatomy) -> Iterator[tuple[AbstractKnob, Any]]:
    """Each built-in knob that turns this loaded model, at a small legal value."""
    small = {
        "active_blocks": [0],
        "max_crops": anatomy.min_crops,
        "max_pixels": anatomy.budgets[0] if anatomy.budgets else anatomy.min_crops,
        "moe_top_k": 1,
        "output_tokens": 1,
        "tiling": [1, 1],
        "vision_tokens": anatomy.count_tokens(512, 512, anatomy.max_crops).vision_tokens,
    }
    for name in registry.names("knobs"):
        knob: AbstractKnob = registry.load("knobs", name)
        if knob.load_argument or knob.needs not in anatomy.provides or name not in small:
            continue
        yield knob, small[name]


def hollowed(folder: Path, copy: Path) -> Path:
    """The same checkpoint, but its files of weights hold no tensor."""
    copy.mkdir()
    emptied = 0
    for file in folder.iterdir():
        is_weights = file.suffix == ".safetensors"
        emptied += is_weights
        (copy / file.name).write_bytes(b"no weights here" if is_weights else file.read_bytes())
    assert emptied, f"{folder} has no weights to leave out"
    return copy
