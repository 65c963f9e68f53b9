"""Logits that are not finite fail the trial, on every engine, and the module that made the first of them is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts.knob_contract import demo_checkpoint, demo_prompts
from tests.jobs import small_job
from vlmprof import registry
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.engine.base import EAGER
from vlmprof.engine.block_compile import BlockCompiler
from vlmprof.engine.greedy import generate
from vlmprof.engine.kernels import DecodeKernels
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.errors import NotFinite
from vlmprof.models.family import AbstractFamily
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.records import Prompt
from vlmprof.trial.executor import Executor

OURS = DecodeKernels(attention=True, experts=True)
ENGINES: dict[str, Callable[[], Any]] = {
    "eager": lambda: EAGER,
    "graphs": lambda: StaticEngine("graphs", capture=False),
    "graphs with our kernels": lambda: StaticEngine("graphs", capture=False, kernels=OURS),
    "compiled": lambda: StaticEngine("compiled", capture=False, compiler=BlockCompiler("eager")),
}


@pytest.fixture
def model(tiny_checkpoint: Path) -> LoadedMolmo:
    loaded: LoadedMolmo = registry.load("models", "demo").load(demo_checkpoint(tiny_checkpoint), "cpu")
    return loaded


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    return demo_prompts(registry.load("tasks", "shapes_qa"), 3)


def one_bad(weight: torch.Tensor, value: float = float("nan")) -> None:
    with torch.no_grad():
        weight.view(-1)[0] = value


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_weight_of_the_head(model: LoadedMolmo, asked: list[Prompt], engine: str, value: float) -> None:
    one_bad(model._model.lm_head.weight, value)
    with pytest.raises(NotFinite, match=r"in the output of lm_head \(Linear, float32\)"):
        generate(model, asked, max_new_tokens=3, engine=ENGINES[engine]())


@pytest.mark.parametrize("engine", ENGINES)
def test_one_bad_weight_of_a_block(model: LoadedMolmo, asked: list[Prompt], engine: str) -> None:
    one_bad(model.decoder.layers[2].self_attn.o_proj.weight)
    with pytest.raises(NotFinite, match=r"the first is NaN in the output of .*layers\.2\.self_attn\.o_proj"):
        generate(model, asked, max_new_tokens=3, engine=ENGINES[engine]())


def test_one_bad_weight_of_the_vision_tower(model: LoadedMolmo, asked: list[Prompt]) -> None:
    one_bad(model._model.model.vision_tower.layers[0].mlp.fc1.weight)
    with pytest.raises(NotFinite, match=r"vision_tower\.layers\.0\.mlp\.fc1"):
        generate(model, asked, max_new_tokens=1)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_after_the_first_token_counts_too(model: LoadedMolmo, asked: list[Prompt], engine: str) -> None:
    """A weight that only the second forward meets: the embedding of the first token that is generated."""
    state = model.prefill(model.encode(asked[:1]), model.see(model.encode(asked[:1])), 4)
    with torch.no_grad():
        model.decoder.embed_tokens.weight[int(state.next_tokens[0])] = float("nan")
    generate(model, asked[:1], max_new_tokens=1, engine=ENGINES[engine]())
    with pytest.raises(NotFinite, match="embed_tokens"):
        generate(model, asked[:1], max_new_tokens=3, stop_at_eos=False, engine=ENGINES[engine]())


def test_a_float16_overflow_names_its_precision(model: LoadedMolmo, asked: list[Prompt]) -> None:
    with torch.no_grad():
        for block in model.decoder.layers:
            block.input_layernorm.weight.mul_(3e4)
            block.self_attn.v_proj.weight.mul_(3e3)
    model._model.half()
    with pytest.raises(NotFinite, match=r"float16\); its range ends at 65504, try dtype: bfloat16 or float32"):
        generate(model, asked, max_new_tokens=2)


def test_rows_that_a_recording_does_not_use_do_not_count(model: LoadedMolmo, asked: list[Prompt]) -> None:
    engine = StaticEngine("graphs", capture=False)
    generate(model, asked, max_new_tokens=3, engine=engine)
    (recorded,) = engine._recorded.values()
    batch = model.transfer(model.encode(asked[:2]))
    decoding = engine.begin(model, batch, model.see(batch), 3, exact=False)
    with torch.inference_mode():
        recorded.step.finite[2] = False
    decoding.rest(2, frozenset())
    assert len(recorded.step.finite) == 3 and decoding.finite.tolist() == [True, True]


@pytest.fixture
def broken_family(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    family: AbstractFamily = registry.load("models", "demo")
    honest = type(family).load

    def load(self: Any, checkpoint: Any, device: str) -> Any:
        loaded = honest(self, checkpoint, device)
        one_bad(loaded.decoder.layers[1].self_attn.q_proj.weight)
        return loaded

    monkeypatch.setattr(type(family), "load", load)
    yield


@pytest.mark.usefixtures("broken_family")
@pytest.mark.parametrize("measure", [["accuracy"], ["latency"], ["accuracy", "latency"]])
def test_the_trial_fails_without_a_score_and_without_a_latency(
    tmp_path: Path, tiny_checkpoint: Path, measure: list[str]
) -> None:
    (plan,) = small_job(tmp_path, tiny_checkpoint, knobs={"moe_top_k": [2]}, measure=measure).plans
    result = Executor(BatchSizer(), gpus=0, name="test").run(plan, lambda progress: None)
    assert result.state == "failed" and result.distrusted
    assert str(result.row["error"]).startswith("NotFinite: the logits are not finite")
    assert "layers.1.self_attn.q_proj" in str(result.row["error"])
    assert not [name for name in ("accuracy", "score", "latency_ms_p50") if result.row.get(name) is not None]
    assert not result.samples and not result.timings
