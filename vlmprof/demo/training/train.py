"""Train the demo model from scratch: `python -m vlmprof.demo.training.train --work-dir DIR`.

Training has two stages. First, vision tower and connector are trained on the dense labels of each vision token. Then
all parameters are trained on the answers, with easy scenes first and a dense loss whose weight decreases to 0. The run
is seeded: the scenes of a step depend only on the seed and the number of the step, and a killed run resumes from its
last checkpoint. It uses one GPU; a CPU runs the same steps, but far too slowly for a full training.

Monitor the accuracy per question type, not the loss: the loss also decreases while the model learns only the
distribution of the answers.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from vlmprof.demo.config import BLOCKS, HIDDEN, demo_config
from vlmprof.demo.training import experts
from vlmprof.demo.training.corpus import SceneBatch, build_corpus, describe
from vlmprof.demo.training.export import export
from vlmprof.demo.training.heads import DenseHeads
from vlmprof.demo.training.packing import accuracy_by_type, image_features
from vlmprof.demo.training.recipe import RECIPE, Recipe
from vlmprof.demo.training.step import LOSSES, CapturedStep, Controls, step_losses, update_parameters, vision_losses
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration

# Validation scenes: from the part of the training split that no run uses, so that the held-out split is not used before
# the end.
VALIDATION_FROM: Final = 900_000_000
VALIDATION_SCENES: Final = 240
_FULL_FROM: Final = 10_000_000
# Steps before the speed is measured: by then the graphs of all buckets have been captured.
_SETTLE_STEPS: Final = 500
_OPTIONS: Final = ("vision_steps", "joint_steps", "scenes_per_step", "full_scenes", "easy_scenes")


@final
class TrainingRun:
    """A model in training. `step` is the number of the next step, which with the recipe determines that step."""

    def __init__(self, recipe: Recipe, device: str, segments: int = 1) -> None:
        torch.manual_seed(recipe.seed)
        experts.register()
        self.recipe, self.device, self.step = recipe, device, 0
        self.model = MolmoForConditionalGeneration(demo_config(segments)).to(device)
        self.model.model.language_model.set_experts_implementation(experts.NAME)
        self.heads = DenseHeads(HIDDEN).to(device)
        self.controls = Controls.on(device, BLOCKS)
        body = self.model.model
        vision = [*body.vision_tower.parameters(), *body.multi_modal_projector.parameters(), *self.heads.parameters()]
        self._parameters = {"vision": vision, "joint": [*self.model.parameters(), *self.heads.parameters()]}
        self.optimizers = {stage: self._optimizer(parameters) for stage, parameters in self._parameters.items()}
        self._captured: dict[tuple[int, str], CapturedStep] = {}
        self._pool: Any = torch.cuda.graph_pool_handle() if device == "cuda" else None

    def advance(self, bucket: SceneBatch, rows: Tensor) -> Tensor:
        """Run one step on some scenes of a bucket; returns the losses in the order of `step.LOSSES`, on the device."""
        recipe, step = self.recipe, self.step
        rng = random.Random(f"{recipe.seed}/drop/{step}")
        # The first block is never skipped: without it the model fails, in training and afterwards.
        gates = [float(i == 0 or rng.random() >= recipe.layer_drop) for i in range(BLOCKS)]
        self.controls.gates.copy_(torch.tensor(gates))
        self.controls.rate.fill_(recipe.rate(step))
        self.controls.dense.fill_(recipe.dense_share(step))
        stage = "vision" if step < recipe.vision_steps else "joint"
        self.step += 1
        losses, update = partial(self._losses, stage, bucket), partial(self._update, stage)
        if self._pool is None:
            values = losses(rows)
            update(values)
            return values.detach()
        key = (id(bucket), stage)
        if key not in self._captured:
            self._captured[key] = CapturedStep(losses, update, self._parameters[stage], rows, self._pool)
        return self._captured[key].replay(rows)

    def save(self, path: Path) -> None:
        """Write a checkpoint; the previous one is replaced only when the new one is complete."""
        state = {"step": self.step, "recipe": asdict(self.recipe)}
        parts: dict[str, Any] = {"model": self.model, "heads": self.heads, **self.optimizers}
        partial_path = path.with_suffix(".part")
        torch.save(state | {name: value.state_dict() for name, value in parts.items()}, partial_path)
        partial_path.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint. Call it before the first step, because captured graphs refer to fixed memory."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for stage, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[stage])
            for group in optimizer.param_groups:
                group["lr"] = self.controls.rate
        self.step, self.recipe = state["step"], replace(self.recipe, joint_steps=state["recipe"]["joint_steps"])

    def _losses(self, stage: str, bucket: SceneBatch, rows: Tensor) -> Tensor:
        batch = bucket.pick(rows)
        # The autocast cache is off, because a graph must cast the weights at every replay.
        half = self.recipe.half and self.device == "cuda"  # bf16 is slower on a CPU
        with torch.autocast(self.device, torch.bfloat16, enabled=half, cache_enabled=False):
            if stage == "vision":
                return vision_losses(self.model, self.heads, batch, self.controls)
            return step_losses(self.model, self.heads, batch, self.controls, self.recipe)

    def _update(self, stage: str, losses: Tensor) -> None:
        update_parameters(losses, self._parameters[stage], self.optimizers[stage], self.recipe.clip_norm)

    def _optimizer(self, parameters: list[Any]) -> torch.optim.Optimizer:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        gpu = self.device == "cuda"
        rate: Any = self.controls.rate
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True, capturable=gpu)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # allocates its state, which must exist before a capture; at a rate of 0 nothing changes
        return optimizer


def draw(corpus: list[SceneBatch], step: int, recipe: Recipe) -> tuple[SceneBatch, Tensor]:
    """The scenes of a step: a random bucket, weighted by its size, and random rows of it."""
    rng = random.Random(f"{recipe.seed}/batch/{step}")
    bucket = rng.choices(corpus, weights=[len(candidate) for candidate in corpus])[0]
    return bucket, torch.tensor(rng.choices(range(len(bucket)), k=recipe.scenes_per_step))


def corpora(recipe: Recipe, work_dir: Path, processes: int) -> dict[str, list[SceneBatch]]:
    """The easy, full and validation scenes, from the cache in the work directory or built now."""
    ranges = {
        "easy": ("few", range(recipe.easy_scenes)),
        "full": ("full", range(_FULL_FROM, _FULL_FROM + recipe.full_scenes)),
        "validation": ("full", range(VALIDATION_FROM, VALIDATION_FROM + VALIDATION_SCENES)),
    }
    return {
        name: cached_corpus(difficulty, numbers, recipe.caps, work_dir, processes)
        for name, (difficulty, numbers) in ranges.items()
    }


def cached_corpus(
    difficulty: str, numbers: range, caps: tuple[int, ...], work_dir: Path, processes: int
) -> list[SceneBatch]:
    """Scenes of the training split in buckets, built by several processes and cached in files."""
    share = -(-len(numbers) // processes)
    jobs = [
        (difficulty, numbers[start : start + share], caps, work_dir / f"{difficulty}-{numbers[0]}-{start}-{share}.pt")
        for start in range(0, len(numbers), share)
    ]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_build_share, *zip(*jobs, strict=True)))
    parts = [SceneBatch(**state) for *_, path in jobs for state in torch.load(path, mmap=True, weights_only=True)]
    return SceneBatch.merged(parts)


def _build_share(difficulty: str, numbers: range, caps: tuple[int, ...], path: Path) -> None:
    if path.exists():
        return
    torch.set_num_threads(1)
    corpus = build_corpus("train", numbers, difficulty, caps)
    torch.save([bucket.state() for bucket in corpus], path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def validate(run: TrainingRun, corpus: list[SceneBatch]) -> str:
    """One line: accuracy per question type, and accuracy of the dense heads on tokens that are not background."""
    run.model.eval()
    totals: dict[str, list[int]] = {}
    with torch.no_grad():
        for batch in corpus:
            features = image_features(run.model, batch)
            for name, counts in run.heads.count_correct(features, batch.labels.flatten(0, 1)).items():
                totals[name] = [a + b for a, b in zip(totals.get(name, [0, 0]), counts, strict=True)]
    dense = " ".join(f"{name}={correct / max(1, n):.2f}" for name, (correct, n) in totals.items())
    answers = accuracy_by_type(run.model, corpus) if run.step > run.recipe.vision_steps else {}
    run.model.train()
    by_type = " ".join(f"{name}={right / max(1, n):.2f}" for name, (right, n) in answers.items())
    return f"{by_type} | dense {dense}"


def train(run: TrainingRun, scenes: dict[str, list[SceneBatch]], work_dir: Path, seconds: float | None) -> None:
    """Run to the last step of the recipe, with regular reports and checkpoints.

    With `seconds`, the length of the second stage is adjusted to end at about that time, once its speed is measured.
    """
    started, first = time.monotonic(), run.step
    timing_started, timing_from = started, max(first, run.recipe.vision_steps) + _SETTLE_STEPS
    while run.step < run.recipe.steps:
        recipe, step = run.recipe, run.step
        if seconds and step == timing_from:
            torch.zeros(1, device=run.device).item()  # wait until all steps so far are complete
            timing_started = time.monotonic()
        if seconds and step == timing_from + _SETTLE_STEPS:
            torch.zeros(1, device=run.device).item()
            speed = _SETTLE_STEPS / (time.monotonic() - timing_started)
            remaining = int((seconds - (time.monotonic() - started)) * speed)
            run.recipe = recipe = replace(recipe, joint_steps=step - recipe.vision_steps + max(1, remaining))
            print(f"{speed:.1f} steps per second: the second stage gets {recipe.joint_steps} steps", flush=True)
        bucket, rows = draw(scenes["easy" if recipe.is_easy(step) else "full"], step, recipe)
        losses = run.advance(bucket, rows.to(run.device, non_blocking=True))
        if step % recipe.report_every == 0:
            report = " ".join(f"{name}={loss:.3f}" for name, loss in zip(LOSSES, losses.tolist(), strict=True))
            speed = (run.step - first) / (time.monotonic() - started)
            print(f"step {step}/{recipe.steps} {speed:.1f}/s {report}", flush=True)
        if run.step % recipe.check_every == 0:
            print(f"  validation {run.step}: {validate(run, scenes['validation'])}", flush=True)
            run.save(work_dir / "checkpoint.pt")
            export(run.model, work_dir / "weights")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo model on shapes_qa.")
    parser.add_argument(
        "--work-dir", type=Path, required=True, help="folder for checkpoints and cached scenes; needs much space"
    )
    parser.add_argument("--vision-steps", type=int, help="steps of the first stage (default: the recipe)")
    parser.add_argument("--joint-steps", type=int, help="steps of the second stage (default: the recipe)")
    parser.add_argument("--scenes-per-step", type=int, help="scenes per step (default: the recipe)")
    parser.add_argument("--full-scenes", type=int, help="number of training scenes (default: the recipe)")
    parser.add_argument("--easy-scenes", type=int, help="number of easy scenes, used first (default: the recipe)")
    parser.add_argument(
        "--seconds", type=float, help="adjust the second stage to end after about this time, in seconds"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=2, help="number of processes that render scenes")
    options = parser.parse_args(arguments)
    torch.set_float32_matmul_precision("high")
    overrides = {name: getattr(options, name) for name in _OPTIONS}
    recipe = replace(RECIPE, **{name: number for name, number in overrides.items() if number is not None})
    options.work_dir.mkdir(parents=True, exist_ok=True)
    scenes = corpora(recipe, options.work_dir, options.processes)
    print(json.dumps(asdict(recipe)), *(f"{k}: {describe(v)}" for k, v in scenes.items()), sep="\n", flush=True)
    scenes = {name: [bucket.to(options.device) for bucket in corpus] for name, corpus in scenes.items()}
    run = TrainingRun(recipe, options.device)
    if (options.work_dir / "checkpoint.pt").exists():
        run.load(options.work_dir / "checkpoint.pt")
    train(run, scenes, options.work_dir, options.seconds)
    run.save(options.work_dir / "checkpoint.pt")
    print(f"validation {run.step}: {validate(run, scenes['validation'])}")
    print(json.dumps(asdict(run.recipe)), export(run.model, options.work_dir / "weights"), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
