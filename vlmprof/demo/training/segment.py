"""Cut every expert into equal parts: `python -m vlmprof.demo.training.segment CHECKPOINT [DIRECTORY]`.

A few wide experts, each of which serves half of the tokens, learn the same things: one of them then answers nearly as
well as all. Cut along its inner width, an expert is a sum of narrower ones, and with as many times more of them used
the answers stay what they were; but now fewer experts are less of the model. The idea of fine-grained experts: Dai et
al. 2024, "DeepSeekMoE", section 3.1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from vlmprof.demo.config import SEGMENTS, demo_config
from vlmprof.demo.training.export import WEIGHTS, export
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration

# Of the standard deviation of a router's weights: no two parts tie, and the parts of one expert are chosen together.
_PARTING: Final = 0.05


def segmented(state: dict[str, Tensor], parts: int, seed: int) -> dict[str, Tensor]:
    """The tensors of a model whose experts were cut into ``parts``.

    Router probabilities are shared among so many times more experts, so what an expert returns is multiplied by
    ``parts``. The routers' copies differ by a little noise, so that no two experts tie.
    """
    generator = torch.Generator().manual_seed(seed)
    found = dict(state)
    for name, value in state.items():
        if name.endswith("mlp.gate.weight"):
            copies = value.repeat_interleave(parts, 0)
            found[name] = copies + _PARTING * value.std() * torch.randn(copies.shape, generator=generator)
        elif name.endswith("experts.gate_up_proj"):
            experts, _, hidden = value.shape
            gate, up = value.view(experts, 2, parts, -1, hidden).unbind(1)
            found[name] = torch.cat([gate, up], dim=2).flatten(0, 1)
        elif name.endswith("experts.down_proj"):
            experts, hidden, _ = value.shape
            found[name] = parts * value.view(experts, hidden, parts, -1).transpose(1, 2).flatten(0, 1)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Cut the experts of a trained demo model; write it as it ships.")
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of vlmprof.demo.training.train")
    parser.add_argument("directory", type=Path, nargs="?", default=WEIGHTS)
    options = parser.parse_args(arguments)
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    model = MolmoForConditionalGeneration(demo_config())
    model.load_state_dict(segmented(state["model"], SEGMENTS, state["recipe"]["seed"]))
    print(f"step {state['step']}: sha256 {export(model, options.directory)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
