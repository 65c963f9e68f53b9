"""Describes a Molmo checkpoint from its JSON files alone: no torch, no transformers, no weights.

A local folder is read directly. A Hub id is looked up first among the released models, so that a job can be checked and
planned without a network, then in the local cache and on the Hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vlmprof.errors import ModelError, suggestion
from vlmprof.file_identity import content_digest
from vlmprof.models._checkpoint_gate import MOST_JSON_BYTES, admit, folder_of, identity
from vlmprof.models._decoding import ignored_settings
from vlmprof.models._implementations import EXPERTS_KERNELS
from vlmprof.models.family import Checkpoint
from vlmprof.models.molmo.hub_config import is_flat, read_flat
from vlmprof.models.molmo.tiling import Geometry, tiling_counts, token_counts
from vlmprof.regular_files import read_regular
from vlmprof.surfaces import SURFACES, Anatomy, ExpertRouting, ExpertsKernel, PixelBudget, TokenCounts

FINGERPRINT_SUFFIXES = frozenset({".json", ".safetensors", ".jinja"})
"""Suffixes of the files that the fingerprint of a checkpoint covers; without tokenizer.json, ``SLOW_TOKENIZER`` too."""

SLOW_TOKENIZER = frozenset({".txt", ".model"})

STANDARD_TEMPLATE = "5acae942a5c72b505f56540029aca0ad3f30783562827e19f8e848cf5b98d7ea"
"""The sha256 of the chat template that is used without a file: a file that holds it changes no answer, and the
fingerprints of checkpoints that vlmprof has saved stay what they were. A test compares the two."""

TRAINED_MAX_CROPS = 12
"""The cap of every released Molmo v1; used where a checkpoint has no processor configuration."""

ATTENTION_KERNELS = ("sdpa", "eager", "flash_attention_2")
"""The kernels that the model classes of this family declare; a test compares the two."""

ARCHITECTURES = {"olmoe": "MolmoE", "qwen2": "Molmo (Qwen2)", "olmo2": "Molmo (OLMo2)"}

RELEASED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Sources: launch_scripts/utils.py of allenai/molmo for the text models; the Hub's config.json of MolmoE-1B.
        "allenai/MolmoE-1B-0924": {
            "model_type": "olmoe",
            "num_hidden_layers": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
        },
        "allenai/Molmo-7B-D-0924": {"model_type": "qwen2", "num_hidden_layers": 28},
        "allenai/Molmo-7B-O-0924": {"model_type": "olmo2", "num_hidden_layers": 32},
        "allenai/Molmo-72B-0924": {"model_type": "qwen2", "num_hidden_layers": 80},
    }
)


def read_anatomy(family: str, checkpoint: Checkpoint) -> Anatomy:
    """The anatomy of a checkpoint.

    Raises:
        ModelError: no such checkpoint, one that is not a Molmo v1, or one with settings that are not supported.
    """
    if not checkpoint.path:
        released = ", ".join(RELEASED)
        raise ModelError(f"{family}: name a checkpoint, a local folder or a Hub id such as one of {released}")
    folder = folder_of(checkpoint)
    if folder is not None:
        return _from_folder(family, checkpoint, folder)
    if checkpoint.path in RELEASED:
        config: Mapping[str, Any] = {"text_config": RELEASED[checkpoint.path]}
        return _anatomy(family, config, TRAINED_MAX_CROPS, _hub_identity(checkpoint))
    return _from_hub(family, checkpoint)


def _from_folder(family: str, checkpoint: Checkpoint, folder: Path) -> Anatomy:
    admit(checkpoint)
    config = _nested(_json(folder / "config.json"), str(folder))
    anatomy = _anatomy(family, config, _max_crops(folder), _identity(checkpoint, folder))
    generation = folder / "generation_config.json"
    return replace(anatomy, decoding_left_out=ignored_settings(_json(generation) if generation.is_file() else {}))


def _identity(checkpoint: Checkpoint, folder: Path) -> str:
    template, has_tokenizer = folder / "chat_template.jinja", (folder / "tokenizer.json").is_file()
    standard = template.is_file() and content_digest(template) == STANDARD_TEMPLATE
    suffixes = FINGERPRINT_SUFFIXES | (frozenset() if has_tokenizer else SLOW_TOKENIZER)
    return identity(checkpoint, folder, suffixes, frozenset({template.name} if standard else ()))


def _from_hub(family: str, checkpoint: Checkpoint) -> Anatomy:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(checkpoint.path, "config.json", revision=checkpoint.revision or None)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        hint = suggestion(checkpoint.path, list(RELEASED))
        raise ModelError(
            f"'{checkpoint.path}' is not a folder here, and cannot be read from the Hub ({reason}){hint}"
        ) from None
    config = _nested(_json(Path(path)), checkpoint.path)
    return _anatomy(family, config, TRAINED_MAX_CROPS, _hub_identity(checkpoint))


def _anatomy(family: str, config: Mapping[str, Any], max_crops: int, fingerprint: str) -> Anatomy:
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    kind = text.get("model_type", "olmoe")
    if kind not in ARCHITECTURES:
        raise ModelError(f"no Molmo text model of type '{kind}'{suggestion(str(kind), list(ARCHITECTURES))}")
    geometry = Geometry(
        crop_px=vision.get("image_size", 336),
        patch_px=vision.get("patch_size", 14),
        margin_left=config.get("margin_left", 4),
        margin_right=config.get("margin_right", 4),
        pool=config.get("pool_size", 2),
    )
    dense = "num_experts" not in text
    architecture = ARCHITECTURES[kind]
    lacks: dict[type, str] = {PixelBudget: f"{architecture} cuts images into crops of a fixed size; use max_crops"}
    if dense:
        lacks[ExpertRouting] = f"{architecture} is dense, it routes no experts"
        lacks[ExpertsKernel] = f"{architecture} is dense, it has no experts to compute"
    return Anatomy(
        family=family,
        architecture=architecture,
        fingerprint=fingerprint,
        decoder_blocks=text["num_hidden_layers"],
        max_crops=max_crops,
        experts=text.get("num_experts"),
        experts_per_token=text.get("num_experts_per_tok"),
        renormalises=bool(text.get("norm_topk_prob", False)),
        attention_kernels=ATTENTION_KERNELS,
        experts_kernels=() if dense else EXPERTS_KERNELS,
        provides=frozenset(SURFACES) - set(lacks),
        lacks=lacks,
        count_tokens=_token_counter(geometry),
        count_tiling=_tiling_counter(geometry),
        only_eager="",
        only_host="",
    )


def _token_counter(geometry: Geometry) -> Any:
    def count(height: int, width: int, max_crops: int) -> TokenCounts:
        _require_visible(height, width, geometry)
        counts = token_counts(height, width, max_crops, geometry)
        return TokenCounts(tiling=counts.tiling, crops=counts.crops, vision_tokens=counts.vision_tokens)

    return count


def _require_visible(height: int, width: int, geometry: Geometry) -> None:
    """Refuse an image so narrow that its global view has no row or no column of pixels.

    Raises:
        ValueError: it is so narrow; the image processor could not scale it either.
    """
    side = np.float32(geometry.crop_px)
    scale = min(side / np.float32(height), side / np.float32(width))  # in float32, as the image processor scales
    if min(int(np.float32(height) * scale), int(np.float32(width) * scale)) < 1:
        raise ValueError(f"scaled to {geometry.crop_px} pixels, nothing is left of its shorter side")


def _tiling_counter(geometry: Geometry) -> Any:
    def count(tiling: tuple[int, int]) -> TokenCounts:
        counts = tiling_counts(tiling, geometry)
        return TokenCounts(tiling=counts.tiling, crops=counts.crops, vision_tokens=counts.vision_tokens)

    return count


def _nested(config: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    if is_flat(config):
        return read_flat(config)
    if config.get("model_type") != "molmo":
        raise ModelError(f"{source} holds a '{config.get('model_type')}' model, not a Molmo v1 ('molmo')")
    return config


def _max_crops(folder: Path) -> int:
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            values = _json(folder / name)
            values = values.get("image_processor", values)
            if "max_crops" in values:
                return int(values["max_crops"])
    return TRAINED_MAX_CROPS


def _json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(read_regular(path, MOST_JSON_BYTES))
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}; a checkpoint folder must contain it"
        ) from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return values


def _hub_identity(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.path}@{checkpoint.revision or 'main'}"
