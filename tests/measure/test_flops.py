import re
from collections import Counter
from collections.abc import Callable
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
from vlmprof.measure.flops import (
    FORMULAS,
    OperationClock,
    _all_formulas,
    attention_flops,
    count_flops_by_stage,
    grouped_product_flops,
)
from vlmprof.models.family import AbstractModel
from vlmprof.records import Prompt

CONTRACTION = re.compile(r"mm|matmul|(?<!bi)linear|conv|attention|dot|einsum|baddbmm")


def count_flops(work: Callable[[], object]) -> int:
    """FLOP of work that is all one stage."""

    def whole(clock: OperationClock) -> None:
        clock.start()
        work()
        clock.mark("prefill")
        clock.stop()

    return sum(count_flops_by_stage(whole).values())


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


def by_hand(batch: int, heads: int, queries: int, keys: int, sizes: tuple[int, int]) -> int:
    """A multiplication and an addition for each pair of query and key, and for each number of a key and of a value."""
    return 2 * batch * heads * queries * keys * sum(sizes)


@pytest.mark.parametrize(("heads", "key_heads"), [(8, 8), (8, 2), (28, 4), (6, 1)])
def test_attention_with_fewer_key_heads_and_other_values(heads: int, key_heads: int) -> None:
    query, key, value = (2, heads, 5, 16), (2, key_heads, 7, 16), (2, key_heads, 7, 24)
    assert attention_flops(query, key, value) == by_hand(2, heads, 5, 7, (16, 24))


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        ((2, 8, 5, 16), (2, 3, 7, 16), (2, 3, 7, 16)),
        ((2, 8, 5, 16), (1, 8, 7, 16), (1, 8, 7, 16)),
        ((2, 8, 5, 16), (2, 8, 7, 8), (2, 8, 7, 16)),
        ((2, 8, 5, 16), (2, 8, 7, 16), (2, 8, 6, 16)),
    ],
)
def test_shapes_that_are_no_attention_are_refused(query: Any, key: Any, value: Any) -> None:
    with pytest.raises(ValueError, match="no attention"):
        attention_flops(query, key, value)


HEADS_FIRST = [
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
]
TOKENS_FIRST = ["_flash_attention_forward", "_efficient_attention_forward"]


@pytest.mark.parametrize("name", HEADS_FIRST)
def test_every_fused_attention_has_our_formula(name: str) -> None:
    formula = _all_formulas()[getattr(torch.ops.aten, name)]
    query, key, value = torch.empty(2, 8, 5, 16), torch.empty(2, 2, 7, 16), torch.empty(2, 2, 7, 16)
    assert formula(query, key, value) == by_hand(2, 8, 5, 7, (16, 16))


@pytest.mark.parametrize("name", TOKENS_FIRST)
def test_attention_on_tokens_first_and_on_several_lengths(name: str) -> None:
    formula = _all_formulas()[getattr(torch.ops.aten, name)]
    query, key = torch.empty(2, 5, 8, 16), torch.empty(2, 7, 2, 16)
    none = [None] if name == "_efficient_attention_forward" else []
    assert formula(query, key, key, *none, None, None) == by_hand(2, 8, 5, 7, (16, 16))
    starts = torch.tensor([0, 3, 10])
    packed = torch.empty(10, 8, 16), torch.empty(10, 2, 16)
    expected = by_hand(1, 8, 3, 3, (16, 16)) + by_hand(1, 8, 7, 7, (16, 16))
    assert formula(packed[0], packed[1], packed[1], *none, starts, starts, 7, 7) == expected


def test_no_attention_of_torch_is_left_to_its_own_formulas() -> None:
    """An operation that a version adds is found here: it needs a line in the table."""
    names = {name.removeprefix("aten::").split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    attentions = {name for name in names if re.search(r"attention|multi_head", name) and "backward" not in name}
    composite = {"scaled_dot_product_attention", "_scaled_dot_product_attention_math", "_fused_sdp_choice"}
    attentions = {name for name in attentions if not name.startswith(("quantized", "mkldnn", "xpu", "prims"))}
    unknown = {name for name in attentions if "::" not in name} - composite - {op.__name__ for op in FORMULAS}
    assert unknown == set()


@pytest.mark.parametrize("key_heads", [8, 2])
def test_grouped_query_attention_is_counted_where_it_runs(key_heads: int) -> None:
    query, key = torch.randn(1, 8, 5, 16), torch.randn(1, key_heads, 7, 16)

    def work() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=key_heads != 8)

    assert count_flops(work) == by_hand(1, 8, 5, 7, (16, 16))


def test_a_formula_that_fails_does_not_fail_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> int:
        raise AssertionError("shapes are incompatible")

    monkeypatch.setitem(FORMULAS, torch.ops.aten.mm, refuse)
    done = []
    with pytest.raises(ValueError, match=r"could not be counted: aten.mm: AssertionError: shapes are incompatible"):
        count_flops(lambda: done.append(torch.ones(2, 3) @ torch.ones(3, 2)))
    assert done[0].tolist() == [[3.0, 3.0], [3.0, 3.0]]
