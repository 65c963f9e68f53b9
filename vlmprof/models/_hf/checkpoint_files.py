"""Where a checkpoint's files are, and which of them may be read: folder or pinned Hub revision, no code, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmprof.errors import ModelError
from vlmprof.models._fingerprint import folder_fingerprint
from vlmprof.models.family import Checkpoint

KINDS = frozenset({".json", ".safetensors", ".py", ".jinja", ".model", ".txt", ".bin", ".pt"})
COMMIT_LENGTH = 40


def options(checkpoint: Checkpoint) -> dict[str, Any]:
    """What every ``from_pretrained`` of this checkpoint is told."""
    pinned = {} if local_folder(checkpoint) else {"revision": checkpoint.revision}
    return {**pinned, "trust_remote_code": checkpoint.trust_remote_code}


def local_folder(checkpoint: Checkpoint) -> Path | None:
    """The folder of a local checkpoint; None for one on the Hub."""
    folder = Path(checkpoint.path).expanduser()
    return folder if folder.is_dir() else None


def fingerprint(checkpoint: Checkpoint) -> str:
    """Identity of the weights: a pinned revision, or a hash of the files.

    Raises:
        ModelError: nothing is named, or a Hub id has no revision to pin it.
    """
    if not checkpoint.path:
        raise ModelError("transformers_vlm: name a checkpoint, a local folder or a Hub id with its revision")
    folder = local_folder(checkpoint)
    if folder:
        return folder_fingerprint(folder, KINDS)
    if not checkpoint.revision:
        raise ModelError(
            f"'{checkpoint.path}' is no folder here; as a Hub id it needs a pinned revision, or the weights may change"
            " between two trials: add 'revision: <commit>', the commit hash from the model's page under Files"
        )
    if len(checkpoint.revision) != COMMIT_LENGTH or set(checkpoint.revision) - set("0123456789abcdef"):
        raise ModelError(
            f"'{checkpoint.path}': revision '{checkpoint.revision}' can move; expected a commit hash of"
            f" {COMMIT_LENGTH} hexadecimal digits, found on the model's page under Files"
        )
    return f"{checkpoint.path}@{checkpoint.revision}"


def generation_settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The generation configuration that lies with the weights; empty where there is none."""
    from transformers import GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(checkpoint.path, **options(checkpoint))
    except OSError:  # what the library says of a missing file; a model without one has the library's defaults
        return {}
    settings: Mapping[str, Any] = config.to_dict()
    return settings


def refuse_pickle(checkpoint: Checkpoint) -> None:
    """Refuse a local folder whose weights are not safetensors, unless the job allows others.

    Raises:
        ModelError: naming the files.
    """
    folder = local_folder(checkpoint)
    if folder is None or checkpoint.allow_pickle or any(folder.glob("*.safetensors")):
        return
    others = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth"})
    if others:
        raise ModelError(
            f"{folder} has its weights in {', '.join(others[:3])}, a format that can run code when it is read; convert"
            " them to safetensors, or say 'allow_pickle: true' beside the checkpoint"
        )
