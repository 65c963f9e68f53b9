"""Prompts of every family captured on a GPU: what is replayed says what the model says when launched from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.models._hf.families import ASKED, BY_NAME, ask
from tests.models._hf.recipes import make
from vlmprof import registry
from vlmprof.engine.base import EAGER
from vlmprof.engine.greedy import generate
from vlmprof.engine.recorded_check import recorded_distance
from vlmprof.engine.static_engine import engine_of
from vlmprof.measure.clock import clock_for
from vlmprof.models.family import Checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]
NEW = 6


@pytest.fixture(autouse=True)
def exact_convolutions() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "molmo2"])  # Molmo2 needs torchvision's C++ ops
def test_recorded_prompts_say_what_eager_says(name: str, tmp_path: Path) -> None:
    folder = make(BY_NAME[name], tmp_path / "checkpoint")
    anatomy = registry.load("models", "transformers_vlm").describe(
        Checkpoint(path=str(folder), revision="", dtype="float32")
    )
    dtype = "bfloat16" if anatomy.experts else "float32"  # the grouped product of float32 waits for the host
    checkpoint = Checkpoint(path=str(folder), revision="", dtype=dtype)
    model = registry.load("models", "transformers_vlm").load(checkpoint, "cuda")
    prompts = [ask(*asked, seed=seed) for seed, asked in enumerate(ASKED)]
    others = [ask(*asked, seed=seed + 10) for seed, asked in enumerate(ASKED)]
    engine = engine_of("graphs", "cuda")
    requests = [[prompt] for prompt in (*prompts, *others)] + [prompts, others]
    distance = recorded_distance(engine, model, requests, NEW, most=len(requests))
    report: Callable[..., None] = print
    report(name, dtype, distance, dict(engine.describe()))
    assert distance is not None and distance <= (1e-5 if dtype == "float32" else 0.05)
    for batch in requests:
        mine, own = (
            generate(model, batch, max_new_tokens=NEW, stop_at_eos=False, engine=one, clock=clock_for("cuda"))
            for one in (engine, EAGER)
        )
        assert mine.stages is not None and mine.stages.connector_ms
        if dtype == "float32":
            assert [one.ids for one in mine.generations] == [one.ids for one in own.generations]
    described = engine.describe()
    assert described["recorded_stages"] == "vision, connector, prefill, decode", described.get("prompt_fallback")
