"""Split every expert into equal parts: `python -m vlmprof.demo.training.segment CHECKPOINT [DIRECTORY]`.

A few wide experts, each of which processes half of the tokens, learn the same functions: a model with one expert per
token is then nearly as accurate as with all. An expert is the sum of narrower experts, obtained by splitting it along
its intermediate dimension. If the number of experts per token grows by the same factor, the outputs do not change, but
using fewer experts now removes more of the model. The idea of fine-grained experts: Dai et al. 2024, "DeepSeekMoE",
section 3.1.
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

# Noise on the router rows of the parts, as a share of the standard deviation of the router's weights: large enough to
# avoid ties, small enough that the parts of one expert are selected together.
_ROUTER_NOISE: Final = 0.05


def segmented(state: dict[str, Tensor], parts: int, seed: int) -> dict[str, Tensor]:
    """The state dict of a model after splitting each expert into ``parts``.

    Router probabilities are spread over ``parts`` times as many experts, so the output of an expert is multiplied by
    ``parts``. The copied router rows differ by a little noise, so that no two experts tie.
    """
    generator = torch.Generator().manual_seed(seed)
    result = dict(state)
    for name, value in state.items():
        if name.endswith("mlp.gate.weight"):
            copies = value.repeat_interleave(parts, 0)
            result[name] = copies + _ROUTER_NOISE * value.std() * torch.randn(copies.shape, generator=generator)
        elif name.endswith("experts.gate_up_proj"):
            experts, _, hidden = value.shape
            gate, up = value.view(experts, 2, parts, -1, hidden).unbind(1)
            result[name] = torch.cat([gate, up], dim=2).flatten(0, 1)
        elif name.endswith("experts.down_proj"):
            experts, hidden, _ = value.shape
            result[name] = parts * value.view(experts, hidden, parts, -1).transpose(1, 2).flatten(0, 1)
    return result


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Split the experts of a trained demo model and save it in the packaged format."
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt written by vlmprof.demo.training.train")
    parser.add_argument("directory", type=Path, nargs="?", default=WEIGHTS)
    options = parser.parse_args(arguments)
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    model = MolmoForConditionalGeneration(demo_config())
    model.load_state_dict(segmented(state["model"], SEGMENTS, state["recipe"]["seed"]))
    print(f"step {state['step']}: sha256 {export(model, options.directory)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
