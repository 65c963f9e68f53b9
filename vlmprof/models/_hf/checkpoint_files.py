"""Where a checkpoint's files are: a folder or a pinned Hub revision. What may be read: ``models._checkpoint_gate``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmprof.errors import ModelError
from vlmprof.models._checkpoint_gate import admit, folder_of, identity, source_of
from vlmprof.models.family import Checkpoint

SUFFIXES = frozenset({".json", ".safetensors", ".py", ".jinja", ".model", ".txt", ".bin", ".pt"})
COMMIT_LENGTH = 40


def options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Keyword arguments for every ``from_pretrained`` call on this checkpoint."""
    pinned = {} if folder_of(checkpoint) else {"revision": checkpoint.revision}
    return {**pinned, "trust_remote_code": checkpoint.trust_remote_code}


def fingerprint(checkpoint: Checkpoint) -> str:
    """Identity of the weights: a pinned revision, or a hash of the files.

    Raises:
        ModelError: no path is given, a Hub id has no pinned revision, or a file of a folder may not be read.
    """
    if not checkpoint.path:
        raise ModelError("transformers_vlm: name a checkpoint, a local folder or a Hub id with its revision")
    folder = folder_of(checkpoint)
    if folder:
        admit(checkpoint)
        return identity(checkpoint, folder, SUFFIXES, frozenset())
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
        config = GenerationConfig.from_pretrained(source_of(checkpoint), **options(checkpoint))
    except OSError:  # raised for a missing file; the defaults of transformers then apply
        return {}
    settings: Mapping[str, Any] = config.to_dict()
    return settings
