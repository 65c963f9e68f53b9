"""Train the demo model from scratch: `python -m vlmprof.demo.train --work-dir DIR`.

Two stages. The vision tower and connector first learn, token by token, what the dense labels say. Then everything
learns to answer, easy scenes first, the dense loss fading out. Seeded: what a step sees follows from its number
alone, so a run that was killed resumes from its last checkpoint as if nothing had happened. Works on one CPU core
or one GPU; several processes (`torchrun --nproc-per-node 2 -m vlmprof.demo.train ...`) share each step by averaging
gradients.

Watch the accuracies a type, not the loss: the loss falls nicely while a model learns only which answers are common.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

from vlmprof.demo.config import EXPERTS, HIDDEN, TOP_K, demo_config
from vlmprof.demo.corpus import Batch, build_corpus, describe
from vlmprof.demo.export import export
from vlmprof.demo.heads import DenseHeads
from vlmprof.demo.labels import IGNORE
from vlmprof.demo.packing import accuracy_by_type, answer_logits, image_features
from vlmprof.demo.recipe import RECIPES, Recipe
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration

# Scenes to watch progress on: training scenes that no run reaches, so that the held-out split stays unseen until
# the end.
WATCH_FROM: Final = 900_000_000
WATCH_SCENES: Final = 96
_FULL_FROM: Final = 10_000_000


@final
class Run:
    """A model in training. `step` is the number of the next step; everything else follows from it and the recipe."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.step = recipe, device, 0
        self.model = MolmoForConditionalGeneration(demo_config()).to(device)
        # Several times faster than the other kernels in backward on a CPU.
        self.model.model.language_model.set_experts_implementation("grouped_mm")
        self.heads = DenseHeads(HIDDEN).to(device)
        self.parameters = [*self.model.parameters(), *self.heads.parameters()]
        matrices = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))

    def advance(self, batch: Batch) -> dict[str, float]:
        """Take one step on this process's share of the step's scenes."""
        rate = self.recipe.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.optimizer.step()
        self.step += 1
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted losses of the current step."""
        recipe, losses = self.recipe, {}
        features = image_features(self.model, batch)
        if dense := recipe.dense_share(self.step):
            losses["dense"] = dense * self.heads.loss(features, batch.labels.flatten(0, 1))
        if self.step >= recipe.vision_steps:
            with dropped_blocks(self.model, recipe.layer_drop, random.Random(f"{recipe.seed}/drop/{self.step}")):
                packed = answer_logits(self.model, batch, features)
            losses["answer"] = F.cross_entropy(packed.logits, batch.targets[batch.targets != IGNORE].long())
            losses["balance"] = recipe.balance_weight * load_balancing_loss_func(packed.router_logits, EXPERTS, TOP_K)
        return losses

    def save(self, path: Path) -> None:
        """Write a checkpoint; the old one stays whole until the new one is."""
        state = {"step": self.step, "recipe": asdict(self.recipe)}
        parts = {"model": self.model, "heads": self.heads, "optimizer": self.optimizer}
        part = path.with_suffix(".part")
        torch.save(state | {name: value.state_dict() for name, value in parts.items()}, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


@contextmanager
def dropped_blocks(model: MolmoForConditionalGeneration, share: float, rng: random.Random) -> Iterator[None]:
    """Leave out blocks at random; never the first, without which nothing works, in training or after."""
    text = model.model.language_model
    every = text.layers
    text.layers = nn.ModuleList(block for i, block in enumerate(every) if i == 0 or rng.random() >= share)
    try:
        yield
    finally:
        text.layers = every


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average gradients over processes. All drop the same blocks, so the same gradients exist everywhere."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def batch_at(corpus: list[Batch], step: int, recipe: Recipe, rank: int = 0, world: int = 1) -> Batch:
    """The scenes of a step: one bucket drawn by size, then scenes of it. A process takes its share."""
    rng = random.Random(f"{recipe.seed}/batch/{step}")
    bucket = rng.choices(corpus, weights=[len(one) for one in corpus])[0]
    rows = [rng.randrange(len(bucket)) for _ in range(recipe.scenes_per_step * world)]
    return bucket.pick(torch.tensor(rows[rank::world]))


def corpora(recipe: Recipe, work_dir: Path, rank: int) -> dict[str, list[Batch]]:
    """The easy, full and watched scenes, from the work directory's cache or drawn now."""
    wanted = {
        "easy": ("few", range(recipe.easy_scenes)),
        "full": ("full", range(_FULL_FROM, _FULL_FROM + recipe.full_scenes)),
        "watch": ("full", range(WATCH_FROM, WATCH_FROM + WATCH_SCENES)),
    }
    made = {}
    for name, (difficulty, numbers) in wanted.items():
        path = work_dir / f"{name}-{len(numbers)}.pt"
        if rank == 0 and not path.exists():
            drawn = build_corpus("train", numbers, difficulty, recipe.caps)
            torch.save([bucket.state() for bucket in drawn], path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        if dist.is_initialized():
            dist.barrier()
        # Mapped, so that several processes share one copy in memory.
        made[name] = [Batch(**state) for state in torch.load(path, mmap=True, weights_only=True)]
    return made


def watch(run: Run, corpus: list[Batch]) -> str:
    """One line: accuracy a question type, and of the dense heads where something is to be seen."""
    run.model.eval()
    seen: dict[str, list[int]] = {}
    with torch.no_grad():
        for bucket in corpus:
            batch = bucket.to(run.device)
            for name, counts in run.heads.hits(image_features(run.model, batch), batch.labels.flatten(0, 1)).items():
                seen[name] = [a + b for a, b in zip(seen.get(name, [0, 0]), counts, strict=True)]
    dense = " ".join(f"{name}={good / max(1, n):.2f}" for name, (good, n) in seen.items())
    answers = accuracy_by_type(run.model, corpus) if run.step > run.recipe.vision_steps else {}
    run.model.train()
    return " ".join(f"{name}={good / max(1, n):.2f}" for name, (good, n) in answers.items()) + f" | dense {dense}"


def train(run: Run, scenes: dict[str, list[Batch]], work_dir: Path) -> None:
    """Run to the recipe's last step, saving and reporting on the way."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    recipe, started, first = run.recipe, time.monotonic(), run.step
    while run.step < recipe.steps:
        corpus = scenes["easy" if recipe.is_easy(run.step) else "full"]
        losses = run.advance(batch_at(corpus, run.step, recipe, rank, world).to(run.device))
        if rank == 0 and run.step % 50 == 0:
            speed = (run.step - first) / (time.monotonic() - started)
            report = " ".join(f"{name}={loss:.3f}" for name, loss in losses.items())
            print(f"step {run.step}/{recipe.steps} {speed:.2f}/s {report}", flush=True)
        if rank == 0 and run.step % recipe.check_every == 0:
            print(f"  watch {run.step}: {watch(run, scenes['watch'])}", flush=True)
        if rank == 0 and run.step % recipe.save_every == 0:
            run.save(work_dir / "checkpoint.pt")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo model on shapes_qa.")
    parser.add_argument("--work-dir", type=Path, required=True, help="checkpoints and cached scenes; may be large")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="cpu")
    parser.add_argument("--vision-steps", type=int, help="steps of the first stage, instead of the recipe's")
    parser.add_argument("--joint-steps", type=int, help="steps of the second stage, instead of the recipe's")
    parser.add_argument("--scenes-per-step", type=int, help="of each process, instead of the recipe's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads; at these sizes one is nearly as fast as two"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
    given = {name: getattr(options, name) for name in ("vision_steps", "joint_steps", "scenes_per_step")}
    recipe = replace(RECIPES[options.recipe], **{name: number for name, number in given.items() if number is not None})
    options.work_dir.mkdir(parents=True, exist_ok=True)
    rank = dist.get_rank() if dist.is_initialized() else 0
    scenes = corpora(recipe, options.work_dir, rank)
    run = Run(recipe, options.device)
    if (options.work_dir / "checkpoint.pt").exists():
        run.load(options.work_dir / "checkpoint.pt")
    if rank == 0:
        print(json.dumps(asdict(recipe)), *(f"{k}: {describe(v)}" for k, v in scenes.items()), sep="\n", flush=True)
    train(run, scenes, options.work_dir)
    if rank == 0:
        run.save(options.work_dir / "checkpoint.pt")
        print(export(run.model, options.work_dir / "weights"), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
