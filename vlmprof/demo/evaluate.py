"""Measure the demo model on the held-out split: `python -m vlmprof.demo.evaluate [--scenes N] [--json FILE]`.

Prints accuracy a question type with 95 % Wilson intervals beside two blind baselines, then the curve of each knob.
Answers are judged exactly and teacher-forced, which equals greedy decoding (see `packing.answers_right`);
`--generate N` asks the processor and `generate()` the same N questions and reports how many verdicts agree.
"""

import argparse
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlmprof.demo.config import BLOCKS, EXPERTS, MAX_CROPS, TOP_K
from vlmprof.demo.corpus import MAX_TOKENS, build_corpus
from vlmprof.demo.export import WEIGHTS, weights_sha256
from vlmprof.demo.packing import accuracy_by_type, verdicts
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.registration import register
from vlmprof.tasks._shapes_questions import TYPES, held_out, scene_questions

TypeCounts: TypeAlias = dict[str, tuple[int, int]]
CROPS_CURVE: Final = (1, 2, 4, 6, 9, 12)
TOKENS_CURVE: Final = (1, 2, 3, 4)
# Scenes from which a blind answerer that reads the question learns the likeliest answer of each.
_BLIND_SCENES: Final = 3_000


def load(directory: Path = WEIGHTS) -> tuple[MolmoForConditionalGeneration, Any]:
    """The model in float32 and its processor, through the Auto classes."""
    register()
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(directory)


def wilson(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion; (0, 1) of nothing."""
    if asked == 0:
        return 0.0, 1.0
    share, spread = right / asked, z * z / asked
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / asked + spread / (4 * asked)) / (1 + spread)
    return middle - half, middle + half


def blind_accuracy(numbers: range) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracy a type without looking: the best single answer of a type, and the likeliest answer to the very question.

    The first is fitted on the held-out split itself, hence an upper bound; the second on the training split.
    """
    by_type: dict[str, Counter[str]] = defaultdict(Counter)
    for number in numbers:
        for question in scene_questions("held_out", number)[1]:
            by_type[question.type][question.answer] += 1
    learnt: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(_BLIND_SCENES):
        for question in scene_questions("train", number)[1]:
            learnt[question.text][question.answer] += 1
    guessed: Counter[str] = Counter()
    for number in numbers:
        for question in scene_questions("held_out", number)[1]:
            likely = learnt[question.text].most_common(1)
            guessed[question.type] += bool(likely) and likely[0][0] == question.answer
    constant = {kind: max(by_type[kind].values()) / by_type[kind].total() for kind in TYPES}
    return constant, {kind: guessed[kind] / by_type[kind].total() for kind in TYPES}


@contextmanager
def routed(model: MolmoForConditionalGeneration, top_k: int) -> Iterator[None]:
    """Use `top_k` experts a token in every block."""
    gates: list[Any] = [block.mlp.gate for block in cast(Any, model.decoder_layers)]
    before = [gate.top_k for gate in gates]
    for gate in gates:
        gate.top_k = top_k
    try:
        yield
    finally:
        for gate, was in zip(gates, before, strict=True):
            gate.top_k = was


@contextmanager
def kept_blocks(model: MolmoForConditionalGeneration, kept: list[int]) -> Iterator[None]:
    """Run only the given decoder blocks. Without a cache, which would need them renumbered."""
    text = model.model.language_model
    every = text.layers
    text.layers = nn.ModuleList(every[i] for i in kept)
    try:
        yield
    finally:
        text.layers = every


def curves(model: MolmoForConditionalGeneration, numbers: range) -> dict[str, dict[str, TypeCounts]]:
    """Counts a type for every setting of every knob, one knob at a time, on the same questions."""
    full = build_corpus("held_out", numbers, "full", (MAX_CROPS,))
    found: dict[str, dict[str, TypeCounts]] = defaultdict(dict)
    found["default"]["all"] = accuracy_by_type(model, full)
    for cap in CROPS_CURVE:
        corpus = full if cap == MAX_CROPS else build_corpus("held_out", numbers, "full", (cap,))
        found["max_crops"][str(cap)] = accuracy_by_type(model, corpus)
    for top_k in range(1, EXPERTS + 1):
        with routed(model, top_k):
            found["moe_top_k"][str(top_k)] = accuracy_by_type(model, full)
    for blocks in range(1, BLOCKS + 1):
        with kept_blocks(model, list(range(blocks))):
            found["active_blocks"][str(blocks)] = accuracy_by_type(model, full)
    for left_out in range(BLOCKS):
        with kept_blocks(model, [i for i in range(BLOCKS) if i != left_out]):
            found["without_block"][str(left_out)] = accuracy_by_type(model, full)
    for cap in TOKENS_CURVE:
        found["output_tokens"][str(cap)] = accuracy_by_type(model, full, max_new_tokens=cap)
    return dict(found)


@torch.no_grad()
def generated_verdicts(model: MolmoForConditionalGeneration, processor: Any, n: int) -> list[bool]:
    """Whether `generate` answers each of the first `n` held-out questions right, asked alone as a user would."""
    found = []
    for scene, question in held_out(n):
        inputs = processor(text=f" User: {question.text} Assistant:", images=scene.render())
        tokens = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        found.append(processor.tokenizer.decode(tokens, skip_special_tokens=True).strip() == question.answer)
    return found


def packed_verdicts(model: MolmoForConditionalGeneration, n: int) -> list[bool]:
    """The same questions by the packed way, scene by scene."""
    found: list[bool] = []
    number = 0
    while len(found) < n:
        (batch,) = build_corpus("held_out", [number], "full", (MAX_CROPS,))
        found += verdicts(model, batch)[batch.types >= 0].tolist()
        number += 1
    return found[:n]


def table(found: dict[str, dict[str, TypeCounts]], numbers: range) -> str:
    """The measured numbers as Markdown."""
    constant, reader = blind_accuracy(numbers)
    default = found["default"]["all"]
    lines = [
        "| type | n | accuracy | 95 % interval | best blind answer | blind, reads the question |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for kind, (right, asked) in default.items():
        low, high = wilson(right, asked)
        lines.append(
            f"| {kind} | {asked} | {right / asked:.3f} | {low:.3f} to {high:.3f} "
            f"| {constant[kind]:.3f} | {reader[kind]:.3f} |"
        )
    right, asked = (sum(counts[i] for counts in default.values()) for i in (0, 1))
    low, high = wilson(right, asked)
    lines.append(f"| **all** | {asked} | {right / asked:.3f} | {low:.3f} to {high:.3f} | | |")
    for knob, settings in found.items():
        if knob == "default":
            continue
        lines += ["", f"| {knob} | all | " + " | ".join(TYPES) + " |", "|--:" * (len(TYPES) + 2) + "|"]
        for setting, counts in settings.items():
            whole = sum(r for r, _ in counts.values()) / sum(n for _, n in counts.values())
            cells = " | ".join(f"{r / max(1, n):.3f}" for r, n in counts.values())
            lines.append(f"| {setting} | {whole:.3f} | {cells} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the demo model on held-out shapes_qa questions.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--scenes", type=int, default=400, help="held-out scenes, six to seven questions each")
    parser.add_argument("--first", type=int, default=0, help="number of the first held-out scene")
    parser.add_argument("--generate", type=int, default=0, metavar="N", help="check N questions against generate()")
    parser.add_argument("--json", type=Path, help="write the counts here as well")
    options = parser.parse_args(arguments)
    model, processor = load(options.weights)
    numbers = range(options.first, options.first + options.scenes)
    found = curves(model, numbers)
    print(f"weights {weights_sha256(options.weights)}, held-out scenes {numbers}, trained top-k {TOP_K}")
    print(table(found, numbers))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.generate:
        pairs = zip(
            generated_verdicts(model, processor, options.generate),
            packed_verdicts(model, options.generate),
            strict=True,
        )
        print(f"generate() and the packed way agree on {sum(a == b for a, b in pairs)} of {options.generate} verdicts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
