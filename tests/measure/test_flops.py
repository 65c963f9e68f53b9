import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.contracts.knob_contract import demo_checkpoint, demo_prompts
from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.measure.flops import FORMULAS, count_flops, grouped_product_flops
from vlmprof.models.family import AbstractModel
from vlmprof.records import Prompt

CONTRACTION = re.compile(r"mm|matmul|(?<!bi)linear|conv|attention|dot|einsum|baddbmm")


class Seen(TorchDispatchMode):
    """Every operation below the composite ones, as the counter meets them."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket not in {*flop_registry, *FORMULAS}:
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        self.operations[func._overloadpacket] += 1
        return func(*args, **(kwargs or {}))


def uncounted(model: AbstractModel, prompts: list[Prompt]) -> set[Any]:
    """Contractions that a generation runs and the counter has no formula for."""
    with Seen() as seen:
        generate(model, prompts, max_new_tokens=2, stop_at_eos=False)
    contractions = {operation for operation in seen.operations if CONTRACTION.search(str(operation))}
    assert len(contractions) >= 3
    return contractions - {*flop_registry, *FORMULAS}


@pytest.mark.parametrize(
    "loaded", [{}, {"experts_kernel": "eager"}, {"experts_kernel": "batched_mm"}, {"attention": "eager"}], ids=str
)
def test_no_contraction_of_the_model_is_counted_as_nothing(tiny_checkpoint: Path, loaded: dict[str, str]) -> None:
    """Under every kernel that runs here: each dispatches other operations."""
    checkpoint = replace(demo_checkpoint(tiny_checkpoint), **loaded)
    model = registry.load("models", "demo").load(checkpoint, "cpu")
    assert uncounted(model, demo_prompts(registry.load("tasks", "shapes_qa"), 1)) == set()


def test_a_decode_step_costs_what_its_weights_say(model: AbstractModel) -> None:
    """Two operations for each weight that a token meets, plus attention: worked out by hand from the sizes."""
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 1)
    one, two = (
        count_flops(lambda n=n: generate(model, prompts, max_new_tokens=n, stop_at_eos=False))
        for n in (1, 2)  # type: ignore[misc]
    )
    config = model.decoder.config
    length = generate(model, prompts, max_new_tokens=1).generations[0].encoding.prompt_tokens + 1
    attention = 4 * config.hidden_size**2 + 2 * length * config.hidden_size
    experts = 3 * config.hidden_size * config.intermediate_size * config.num_experts_per_tok
    router = config.hidden_size * config.num_experts
    block = 2 * (attention + experts + router)
    head = 2 * config.hidden_size * model._model.lm_head.out_features  # type: ignore[attr-defined]
    assert two - one == pytest.approx(config.num_hidden_layers * block + head, rel=0.01)


def test_fewer_experts_and_blocks_cost_fewer_operations(model: AbstractModel) -> None:
    prompts = demo_prompts(registry.load("tasks", "shapes_qa"), 1)

    def cost() -> int:
        return count_flops(lambda: generate(model, prompts, max_new_tokens=2, stop_at_eos=False))

    whole = cost()
    for knob, value in (("moe_top_k", 1), ("active_blocks", [0, 4]), ("max_crops", 1)):
        with registry.load("knobs", knob).applied(model, value):
            assert cost() < whole


@pytest.mark.parametrize(
    ("left", "right"),
    [((12, 5), (3, 5, 7)), ((3, 4, 5), (3, 5, 7)), ((4, 15), (15, 7)), ((3, 4, 5), (5, 21))],
)
def test_grouped_products_cost_what_their_groups_cost(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    groups, per_group = 3, {2: 12, 3: 4}
    shapes = {
        (2, 3): (per_group[2] // groups, 5, 7),
        (3, 3): (4, 5, 7),
        (2, 2): (4, 5, 7),
        (3, 2): (4, 5, 7),
    }[(len(left), len(right))]
    m, k, n = shapes
    assert grouped_product_flops(left, right) == groups * count_flops(lambda: torch.zeros(m, k) @ torch.zeros(k, n))
