"""Recorded for real: ``graphs`` and ``compiled`` on a GPU say what ``eager`` and the library's ``generate`` say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.contracts.knob_contract import demo_prompts
from vlmprof import registry
from vlmprof.engine.base import EAGER, AbstractEngine
from vlmprof.engine.greedy import generate
from vlmprof.engine.static_engine import engine_of
from vlmprof.models.family import Checkpoint
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.records import Prompt

pytestmark = [
    # Of torch.compile itself, on Python 3.12: not ours to mend, and not a failure of what is tested here.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest) -> Iterator[LoadedMolmo]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    checkpoint = Checkpoint(path="", revision="", dtype=request.param)
    yield registry.load("models", "demo").load(checkpoint, "cuda")
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    return demo_prompts(registry.load("tasks", "shapes_qa"), 32)


def answers(model: LoadedMolmo, prompts: list[Prompt], engine: AbstractEngine, *, stop: bool = True) -> list[str]:
    run = generate(model, prompts, max_new_tokens=12, stop_at_eos=stop, engine=engine)
    return [generation.text for generation in run.generations]


def differing(ours: list[str], theirs: list[str]) -> float:
    return sum(a != b for a, b in zip(ours, theirs, strict=True)) / len(ours)


@pytest.mark.parametrize("name", ["graphs", "compiled"])
def test_answers_are_those_of_eager(model: LoadedMolmo, asked: list[Prompt], name: str) -> None:
    engine = engine_of(name, "cuda")
    allowed = 0.0 if model._model.dtype == torch.float32 else 0.05
    for rows in (1, 8, 32, 5):
        for stop in (True, False):
            ours = answers(model, asked[:rows], engine, stop=stop)
            assert differing(ours, answers(model, asked[:rows], EAGER, stop=stop)) <= allowed
            assert answers(model, asked[:rows], engine, stop=stop) == ours
    with (
        registry.load("knobs", "moe_top_k").applied(model, 1),
        registry.load("knobs", "active_blocks").applied(model, [0, 1, 2, 5]),
    ):
        assert differing(answers(model, asked, engine), answers(model, asked, EAGER)) <= allowed
    width = model.decoder.config.hidden_size // model.decoder.config.num_attention_heads
    ours_runs = not width & (width - 1)  # our attention takes heads whose width is a power of two
    assert engine.describe()["decode_attention"] == ("fixed_split" if ours_runs else "sdpa")


def test_the_library_says_the_same(model: LoadedMolmo, asked: list[Prompt]) -> None:
    batch = model.transfer(model.encode(asked))
    inputs = {name: value for name, value in batch.inputs.items() if name not in ("image_tilings", "image_num_crops")}
    with torch.inference_mode():
        whole = model._model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=0)
    theirs = [model.text(row) for row in whole[:, inputs["input_ids"].shape[1] :].tolist()]
    ours = answers(model, asked, engine_of("graphs", "cuda"), stop=False)
    assert differing(ours, theirs) <= (0.0 if model._model.dtype == torch.float32 else 0.05)
