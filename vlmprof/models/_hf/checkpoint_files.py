"""Where a checkpoint's files are (a folder or a pinned Hub revision), and which may be read: no code, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmprof.errors import ModelError
from vlmprof.models._fingerprint import folder_fingerprint
from vlmprof.models.family import Checkpoint

SUFFIXES = frozenset({".json", ".safetensors", ".py", ".jinja", ".model", ".txt", ".bin", ".pt"})
COMMIT_LENGTH = 40


def options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Keyword arguments for every ``from_pretrained`` call on this checkpoint."""
    pinned = {} if local_folder(checkpoint) else {"revision": checkpoint.revision}
    return {**pinned, "trust_remote_code": checkpoint.trust_remote_code}


def local_folder(checkpoint: Checkpoint) -> Path | None:
    """The folder of a local checkpoint; None for one on the Hub."""
    folder = Path(checkpoint.path).expanduser()
    return folder if folder.is_dir() else None


def fingerprint(checkpoint: Checkpoint) -> str:
    """Identity of the weights: a pinned revision, or a hash of the files.

    Raises:
        ModelError: no path is given, or a Hub id has no pinned revision.
    """
    if not checkpoint.path:
        raise ModelError("transformers_vlm: name a checkpoint, a local folder or a Hub id with its revision")
    folder = local_folder(checkpoint)
    if folder:
        return folder_fingerprint(folder, SUFFIXES)
    if not checkpoint.revision:
        raise ModelError(
            f"'{checkpoint.path}' is not a folder here; a Hub id needs a pinned revision, or the weights may change"
            " between two trials: add 'revision: <commit>', the commit hash from the model's page under Files"
        )
    if len(checkpoint.revision) != COMMIT_LENGTH or set(checkpoint.revision) - set("0123456789abcdef"):
        raise ModelError(
            f"'{checkpoint.path}': revision '{checkpoint.revision}' can move; expected a commit hash of"
            f" {COMMIT_LENGTH} hexadecimal digits, found on the model's page under Files"
        )
    return f"{checkpoint.path}@{checkpoint.revision}"


def generation_settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The generation configuration of the checkpoint; empty where there is none."""
    from transformers import GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(checkpoint.path, **options(checkpoint))
    except OSError:  # raised for a missing file; the defaults of transformers then apply
        return {}
    settings: Mapping[str, Any] = config.to_dict()
    return settings


def refuse_pickle(checkpoint: Checkpoint) -> None:
    """Refuse a local folder whose weights are not safetensors, unless the job allows pickle.

    Raises:
        ModelError: names the files.
    """
    folder = local_folder(checkpoint)
    if folder is None or checkpoint.allow_pickle or any(folder.glob("*.safetensors")):
        return
    others = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth"})
    if others:
        raise ModelError(
            f"{folder} has its weights in {', '.join(others[:3])}, a format that can run code when it is read; convert"
            " them to safetensors, or add 'allow_pickle: true' to the model in the job"
        )
