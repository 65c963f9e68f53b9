"""Train the demo model from scratch: `python -m vlmprof.demo.training.train --work-dir DIR`.

Two stages. The vision tower and connector first learn, token by token, what the dense labels say. Then everything
learns to answer, easy scenes first, the dense loss fading out. Seeded: which scenes a step sees follows from its number
alone, and a run that was killed resumes from its last checkpoint. One GPU; a CPU runs the same steps, too slowly to
get anywhere.

Watch the accuracies a type, not the loss: the loss falls nicely while a model learns only which answers are common.
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
from vlmprof.demo.training.step import LOSSES, CapturedStep, Controls, learn, step_losses, vision_losses
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration

# Scenes to watch progress on: training scenes that no run reaches, so that the held-out split stays unseen until
# the end.
WATCH_FROM: Final = 900_000_000
WATCH_SCENES: Final = 240
_FULL_FROM: Final = 10_000_000
# By then every bucket has its graph, and the pace says something.
_SETTLE_STEPS: Final = 500
_OPTIONS: Final = ("vision_steps", "joint_steps", "scenes_per_step", "full_scenes", "easy_scenes")


@final
class TrainingRun:
    """A model in training. `step` is the number of the next step; everything else follows from it and the recipe."""

    def __init__(self, recipe: Recipe, device: str, segments: int = 1) -> None:
        torch.manual_seed(recipe.seed)
        experts.register()
        self.recipe, self.device, self.step = recipe, device, 0
        self.model = MolmoForConditionalGeneration(demo_config(segments)).to(device)
        self.model.model.language_model.set_experts_implementation(experts.NAME)
        self.heads = DenseHeads(HIDDEN).to(device)
        self.controls = Controls.on(device, BLOCKS)
        body = self.model.model
        sides = [*body.vision_tower.parameters(), *body.multi_modal_projector.parameters(), *self.heads.parameters()]
        self._learning = {"vision": sides, "joint": [*self.model.parameters(), *self.heads.parameters()]}
        self.optimizers = {stage: self._optimizer(parameters) for stage, parameters in self._learning.items()}
        self._captured: dict[tuple[int, str], CapturedStep] = {}
        self._pool: Any = torch.cuda.graph_pool_handle() if device == "cuda" else None

    def advance(self, bucket: SceneBatch, rows: Tensor) -> Tensor:
        """Take one step on some scenes of a bucket; the losses in the order of `step.LOSSES`, on the device."""
        recipe, step = self.recipe, self.step
        rng = random.Random(f"{recipe.seed}/drop/{step}")
        # Never the first, without which nothing works, in training or after.
        gates = [float(i == 0 or rng.random() >= recipe.layer_drop) for i in range(BLOCKS)]
        self.controls.gates.copy_(torch.tensor(gates))
        self.controls.rate.fill_(recipe.rate(step))
        self.controls.dense.fill_(recipe.dense_share(step))
        stage = "vision" if step < recipe.vision_steps else "joint"
        self.step += 1
        losses, update = partial(self._losses, stage, bucket), partial(self._update, stage)
        if self._pool is None:
            found = losses(rows)
            update(found)
            return found.detach()
        key = (id(bucket), stage)
        if key not in self._captured:
            self._captured[key] = CapturedStep(losses, update, self._learning[stage], rows, self._pool)
        return self._captured[key].replay(rows)

    def save(self, path: Path) -> None:
        """Write a checkpoint; the old one stays whole until the new one is."""
        state = {"step": self.step, "recipe": asdict(self.recipe)}
        parts: dict[str, Any] = {"model": self.model, "heads": self.heads, **self.optimizers}
        part = path.with_suffix(".part")
        torch.save(state | {name: value.state_dict() for name, value in parts.items()}, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; before the first step, because a captured one holds on to its memory."""
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
        # No cache of cast weights: a graph must cast them anew at every replay.
        half = self.recipe.half and self.device == "cuda"  # on a CPU it is slower
        with torch.autocast(self.device, torch.bfloat16, enabled=half, cache_enabled=False):
            if stage == "vision":
                return vision_losses(self.model, self.heads, batch, self.controls)
            return step_losses(self.model, self.heads, batch, self.controls, self.recipe)

    def _update(self, stage: str, losses: Tensor) -> None:
        learn(losses, self._learning[stage], self.optimizers[stage], self.recipe.clip_norm)

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
        optimizer.step()  # makes its state, which a graph must find in place; at a rate of 0 nothing is learnt
        return optimizer


def draw(corpus: list[SceneBatch], step: int, recipe: Recipe) -> tuple[SceneBatch, Tensor]:
    """The scenes of a step: one bucket drawn by size, then rows of it."""
    rng = random.Random(f"{recipe.seed}/batch/{step}")
    bucket = rng.choices(corpus, weights=[len(one) for one in corpus])[0]
    return bucket, torch.tensor(rng.choices(range(len(bucket)), k=recipe.scenes_per_step))


def corpora(recipe: Recipe, work_dir: Path, processes: int) -> dict[str, list[SceneBatch]]:
    """The easy, full and watched scenes, from the work directory's cache or drawn now."""
    wanted = {
        "easy": ("few", range(recipe.easy_scenes)),
        "full": ("full", range(_FULL_FROM, _FULL_FROM + recipe.full_scenes)),
        "watch": ("full", range(WATCH_FROM, WATCH_FROM + WATCH_SCENES)),
    }
    return {
        name: drawn(difficulty, numbers, recipe.caps, work_dir, processes)
        for name, (difficulty, numbers) in wanted.items()
    }


def drawn(difficulty: str, numbers: range, caps: tuple[int, ...], work_dir: Path, processes: int) -> list[SceneBatch]:
    """Scenes of the training split in buckets, drawn by several processes and cached."""
    share = -(-len(numbers) // processes)
    jobs = [
        (difficulty, numbers[start : start + share], caps, work_dir / f"{difficulty}-{numbers[0]}-{start}-{share}.pt")
        for start in range(0, len(numbers), share)
    ]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_draw_share, *zip(*jobs, strict=True)))
    parts = [SceneBatch(**state) for *_, path in jobs for state in torch.load(path, mmap=True, weights_only=True)]
    return SceneBatch.merged(parts)


def _draw_share(difficulty: str, numbers: range, caps: tuple[int, ...], path: Path) -> None:
    if path.exists():
        return
    torch.set_num_threads(1)
    made = build_corpus("train", numbers, difficulty, caps)
    torch.save([bucket.state() for bucket in made], path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def watch(run: TrainingRun, corpus: list[SceneBatch]) -> str:
    """One line: accuracy a question type, and of the dense heads where something is to be seen."""
    run.model.eval()
    seen: dict[str, list[int]] = {}
    with torch.no_grad():
        for batch in corpus:
            for name, counts in run.heads.hits(image_features(run.model, batch), batch.labels.flatten(0, 1)).items():
                seen[name] = [a + b for a, b in zip(seen.get(name, [0, 0]), counts, strict=True)]
    dense = " ".join(f"{name}={good / max(1, n):.2f}" for name, (good, n) in seen.items())
    answers = accuracy_by_type(run.model, corpus) if run.step > run.recipe.vision_steps else {}
    run.model.train()
    return " ".join(f"{name}={good / max(1, n):.2f}" for name, (good, n) in answers.items()) + f" | dense {dense}"


def train(run: TrainingRun, scenes: dict[str, list[SceneBatch]], work_dir: Path, seconds: float | None) -> None:
    """Run to the recipe's last step, saving and reporting on the way.

    With `seconds`, the second stage is cut or stretched to end about then, once its speed is known.
    """
    started, first = time.monotonic(), run.step
    settled, pace_from = started, max(first, run.recipe.vision_steps) + _SETTLE_STEPS
    while run.step < run.recipe.steps:
        recipe, step = run.recipe, run.step
        if seconds and step == pace_from:
            torch.zeros(1, device=run.device).item()  # all steps so far are done
            settled = time.monotonic()
        if seconds and step == pace_from + _SETTLE_STEPS:
            torch.zeros(1, device=run.device).item()
            pace = _SETTLE_STEPS / (time.monotonic() - settled)
            left = int((seconds - (time.monotonic() - started)) * pace)
            run.recipe = recipe = replace(recipe, joint_steps=step - recipe.vision_steps + max(1, left))
            print(f"{pace:.1f} steps a second: {recipe.joint_steps} steps of answers", flush=True)
        bucket, rows = draw(scenes["easy" if recipe.is_easy(step) else "full"], step, recipe)
        losses = run.advance(bucket, rows.to(run.device, non_blocking=True))
        if step % recipe.report_every == 0:
            report = " ".join(f"{name}={loss:.3f}" for name, loss in zip(LOSSES, losses.tolist(), strict=True))
            speed = (run.step - first) / (time.monotonic() - started)
            print(f"step {step}/{recipe.steps} {speed:.1f}/s {report}", flush=True)
        if run.step % recipe.check_every == 0:
            print(f"  watch {run.step}: {watch(run, scenes['watch'])}", flush=True)
            run.save(work_dir / "checkpoint.pt")
            export(run.model, work_dir / "weights")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo model on shapes_qa.")
    parser.add_argument("--work-dir", type=Path, required=True, help="checkpoints and cached scenes; may be large")
    parser.add_argument("--vision-steps", type=int, help="steps of the first stage, instead of the recipe's")
    parser.add_argument("--joint-steps", type=int, help="steps of the second stage, instead of the recipe's")
    parser.add_argument("--scenes-per-step", type=int, help="instead of the recipe's")
    parser.add_argument("--full-scenes", type=int, help="scenes to learn from, instead of the recipe's")
    parser.add_argument("--easy-scenes", type=int, help="easy scenes to begin with, instead of the recipe's")
    parser.add_argument("--seconds", type=float, help="end the second stage about then, whatever its steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=2, help="that draw scenes")
    options = parser.parse_args(arguments)
    torch.set_float32_matmul_precision("high")
    given = {name: getattr(options, name) for name in _OPTIONS}
    recipe = replace(RECIPE, **{name: number for name, number in given.items() if number is not None})
    options.work_dir.mkdir(parents=True, exist_ok=True)
    scenes = corpora(recipe, options.work_dir, options.processes)
    print(json.dumps(asdict(recipe)), *(f"{k}: {describe(v)}" for k, v in scenes.items()), sep="\n", flush=True)
    scenes = {name: [bucket.to(options.device) for bucket in corpus] for name, corpus in scenes.items()}
    run = TrainingRun(recipe, options.device)
    if (options.work_dir / "checkpoint.pt").exists():
        run.load(options.work_dir / "checkpoint.pt")
    train(run, scenes, options.work_dir, options.seconds)
    run.save(options.work_dir / "checkpoint.pt")
    print(f"watch {run.step}: {watch(run, scenes['watch'])}")
    print(json.dumps(asdict(run.recipe)), export(run.model, options.work_dir / "weights"), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
