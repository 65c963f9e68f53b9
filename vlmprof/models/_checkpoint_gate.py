"""The one gate to the files of a checkpoint, for every family: what may be read, and what makes up its identity.

``admit`` is asked when a checkpoint is described, so that ``vlmprof check`` says what is wrong, and again before its
weights are read; ``require_whole`` by ``check`` and before reading. What passes is: regular files of sensible size
inside the checkpoint's folder (or in the blobs of the Hub's cache, which its folders link to); weights in safetensors,
whole, also where an index or the configuration names them; JSON that is JSON, a tokenizer that can be read; no kernel,
adapter or code from elsewhere. Weights in a format that can hold code need the job's consent, and then count for the
identity like all others.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from vlmprof.errors import ModelError, as_written
from vlmprof.file_identity import hint_of, kind_of
from vlmprof.models._fingerprint import SMALL_WEIGHTS_BYTES, folder_fingerprint
from vlmprof.models.family import Checkpoint
from vlmprof.regular_files import read_regular

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""Suffixes of formats that can run code when they are read."""
SMALL_KINDS = frozenset({".json", ".jinja", ".txt", ".model", ".py"})
"""Suffixes of what is read besides weights; also from folders inside a checkpoint, such as further tokenizers."""
READ_AS_JSON = (
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "chat_template.json",
)  # fmt: skip
MOST_JSON_BYTES = 256 * 2**20
"""Larger than any index and any tokenizer."""
MOST_HEADER_BYTES = 100_000_000
"""The most that safetensors itself takes."""
MOST_FILES = 4096
ADAPTER = "adapter_config.json"
KERNELS = frozenset(
    {"attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation"}
    | {"_experts_implementation", "_experts_implementation_internal"}
)
"""Settings whose value, with a slash in it, is a kernel of the Hub: code that transformers downloads and runs."""
NO_CONSENT = "or add 'allow_pickle: true' to the model in the job"


def folder_of(checkpoint: Checkpoint) -> Path | None:
    """The folder of a local checkpoint; None for one on the Hub."""
    try:
        folder = Path(checkpoint.path).expanduser()
        return folder if checkpoint.path and folder.is_dir() else None
    except (RuntimeError, OSError, ValueError):  # no such user, or a name that no file can have
        return None


def source_of(checkpoint: Checkpoint) -> str:
    """What transformers is told to read: a folder with ``~`` resolved, or the Hub id."""
    folder = folder_of(checkpoint)
    return str(folder) if folder else checkpoint.path


def admit(checkpoint: Checkpoint) -> None:
    """Examine the files of a local checkpoint; for one on the Hub, those that say which others are read.

    Raises:
        ModelError: one may not be read, or cannot be; names it and says how to go on.
    """
    folder = folder_of(checkpoint)
    if folder is None:
        _admit_from_hub(checkpoint)
        return
    consents = checkpoint.allow_pickle, checkpoint.trust_remote_code
    hints = tuple(_hint(path) for path in _files(folder))
    # Files that are too young for their times to tell changes apart are examined again.
    (_examined if all(hint for _, hint in hints) else _examine)(folder, hints, *consents)


def require_whole(checkpoint: Checkpoint) -> None:
    """Check that the weights of a local checkpoint that was admitted are all there, by their headers and sizes.

    Apart from ``admit``, because a checkpoint is described also where only its small files are.

    Raises:
        ModelError: a file is cut, or is none of safetensors.
    """
    folder = folder_of(checkpoint)
    if folder is None:
        return
    named = [folder / name for _, name in _named_weights(folder, checkpoint.allow_pickle)]
    for path in dict.fromkeys([folder / WEIGHTS, *named]):
        if path.suffix == ".safetensors" and path.is_file():
            _require_whole(path)


def identity(checkpoint: Checkpoint, folder: Path, suffixes: frozenset[str], unused: frozenset[str]) -> str:
    """The fingerprint of a local checkpoint that was admitted.

    Args:
        checkpoint: Its consents decide whether weights in other formats are part of it.
        folder: Of the checkpoint.
        suffixes: Of the files that its family reads.
        unused: Names of files that change no answer although they are there.
    """
    read = suffixes | (PICKLES if checkpoint.allow_pickle else frozenset())
    inside = [path for path in _files(folder) if path.parent != folder and path.suffix in SMALL_KINDS & suffixes]
    named = [folder / name for _, name in _named_weights(folder, checkpoint.allow_pickle)]
    further = [*inside, *(path for path in named if path.parent != folder)]
    try:
        return folder_fingerprint(folder, read, further=further, unused=unused)
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror or error}") from None


def _hint(path: Path) -> tuple[str, str]:
    try:
        return str(path), hint_of(path.stat())
    except OSError:
        return str(path), ""


@lru_cache(maxsize=16)
def _examined(folder: Path, hints: tuple[tuple[str, str], ...], allow_pickle: bool, allow_code: bool) -> None:
    _examine(folder, hints, allow_pickle, allow_code)


def _examine(folder: Path, hints: tuple[tuple[str, str], ...], allow_pickle: bool, allow_code: bool) -> None:
    files = [Path(path) for path, _ in hints]
    for path in files:
        _require_regular(path, folder)
    for name in READ_AS_JSON:
        if (folder / name).is_file():
            _read_json(folder / name)
    _require_own(folder, files, allow_code)
    named = list(_named_weights(folder, allow_pickle))
    for by, name in named:
        _require_named(folder, by, name, allow_pickle)
    if not allow_pickle:
        _refuse_pickles(folder, files)
    for path in files:
        if path.suffix == ".safetensors" and path.stat().st_size > SMALL_WEIGHTS_BYTES:
            _require_whole(path)  # before it is read for the identity: a sparse file has any size
    _require_tokenizer(folder / "tokenizer.json")


def _files(folder: Path) -> list[Path]:
    """What may be read of a folder: its files of the kinds that are, and those of the folders inside it; sorted."""
    kinds = SMALL_KINDS | PICKLES | {".safetensors"}
    found: list[Path] = []
    for entry in _entries(folder):
        if entry.suffix in kinds and not entry.is_dir():
            found.append(entry)
        elif entry.is_dir() and not entry.is_symlink():
            found += [inner for inner in _entries(entry) if inner.suffix in SMALL_KINDS and not inner.is_dir()]
        if len(found) > MOST_FILES:
            raise ModelError(f"{folder} holds more than {MOST_FILES:,} such files as models have; it is no checkpoint")
    return sorted(found)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__pycache__")))
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror}") from None


def _require_regular(path: Path, folder: Path) -> None:
    kind = kind_of(path)
    if kind != "a file":
        raise ModelError(f"{path} is {kind}; a checkpoint holds files: put the file there, or remove the name")
    target, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs"  # of the Hub's cache: its folders are links to them
    if not target.is_relative_to(home) and not (home.parent.name == "snapshots" and target.is_relative_to(blobs)):
        raise ModelError(f"{path} is a link to {target}, outside the checkpoint's folder; copy the file there")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_regular(path, MOST_JSON_BYTES))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise ModelError(f"{path} is not JSON: {reason.splitlines()[0][:200]}; copy the file again") from None


def _require_own(folder: Path, files: list[Path], allow_code: bool) -> None:
    """Refuse what would bring weights or code from elsewhere."""
    if folder / ADAPTER in files:
        base = "it changes another model, or another is loaded in its place"
        raise ModelError(f"{folder} holds {ADAPTER}: {base}; merge the adapter into the weights, or remove the file")
    config = folder / "config.json"
    if config.is_file() and not allow_code and (kernel := _kernel_of_hub(_read_json(config))):
        raise ModelError(_kernel_refused(str(config), kernel))


def _kernel_refused(where: str, kernel: tuple[str, str]) -> str:
    return (
        f"{where}: {kernel[0]} is {as_written(kernel[1][:80])}, a kernel of the Hub, which is code; remove the setting,"
        " or add 'trust_remote_code: true' to the model in the job if you have read that code"
    )


def _kernel_of_hub(config: Any) -> tuple[str, str] | None:
    """(setting, value) of a kernel that is code of the Hub, at any depth of a configuration."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            if found := next(((name, text) for name, text in _kernels(value) if "/" in text), None):
                return found
    return None


def _kernels(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in KERNELS & set(config):
        value = config[name]
        yield from ((name, str(text)) for text in (value.values() if isinstance(value, dict) else [value]))


def _named_weights(folder: Path, allow_pickle: bool) -> Iterator[tuple[str, str]]:
    """(file that names it, name) of the weights that an index or the configuration names."""
    config = folder / "config.json"
    values = _read_json(config) if config.is_file() else {}
    explicit = values.get("transformers_weights") if isinstance(values, dict) else None
    if explicit is not None:
        yield "config.json", str(explicit)
        if str(explicit).endswith(".index.json") and _is_plain(str(explicit)) and (folder / str(explicit)).is_file():
            yield from _named_in(folder / str(explicit))
    if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
        yield from _named_in(folder / INDEX)
    pickled = folder / "pytorch_model.bin.index.json"
    if allow_pickle and pickled.is_file():
        yield from _named_in(pickled)


def _named_in(index: Path) -> Iterator[tuple[str, str]]:
    for name in sorted(_names_of(_read_json(index), str(index))):
        yield index.name, name


def _names_of(index: Any, where: str) -> set[str]:
    names = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(names, Mapping) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{where} is no index of weights: expected 'weight_map' with a file for each tensor")
    return set(names.values())


def _is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and not set("\\\0:") & set(name)


def _require_named(folder: Path, by: str, name: str, allow_pickle: bool) -> None:
    """Check weights by the name that a file of the checkpoint gives them."""
    _require_allowed(f"{folder / by}", name, allow_pickle)
    path = folder / name
    if not os.path.lexists(path):
        raise ModelError(f"{folder / by} names {as_written(name[:80])}, which is not there; copy all files again")
    _require_regular(path, folder)


def _require_allowed(by: str, name: str, allow_pickle: bool) -> None:
    shown = as_written(name[:80])
    if not _is_plain(name):
        raise ModelError(f"{by} names {shown}, which lies outside the checkpoint; weights are read from inside it only")
    if name.endswith((".safetensors", ".safetensors.index.json")) or allow_pickle:
        return
    raise ModelError(
        f"{by} names {shown}, which is not safetensors: a format that can run code when it is read; convert it to"
        f" safetensors, {NO_CONSENT}"
    )


def _refuse_pickles(folder: Path, files: list[Path]) -> None:
    top = [path for path in files if path.parent == folder]
    if any(path.suffix == ".safetensors" for path in top):
        return
    if others := [path.name for path in top if path.suffix in PICKLES]:
        raise ModelError(
            f"{folder} has its weights in {', '.join(others[:3])}, a format that can run code when it is read; convert"
            f" them to safetensors, {NO_CONSENT}"
        )


def _require_whole(path: Path) -> None:
    """Check the header of a safetensors file against its size: a copy that was cut ends before its tensors do."""
    size = path.stat().st_size
    length = 0
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if 2 <= length <= min(MOST_HEADER_BYTES, size - 8) else None
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]  # type: ignore[union-attr]
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise ModelError(f"{path} has no header of safetensors: it is cut or damaged; copy the file again") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        how = "cut" if size < expected else "longer than it says"
        raise ModelError(f"{path} is {how}: its header describes {expected:,} bytes, it has {size:,}; copy it again")


def _require_tokenizer(path: Path) -> None:
    if not path.is_file():
        return
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{path} is no tokenizer: {reason}; copy the file again") from None


def _admit_from_hub(checkpoint: Checkpoint) -> None:
    """The same as far as files name others: transformers looks for the rest, told to take safetensors only."""
    if (path := _from_hub(checkpoint, "config.json")) is not None:
        config = _read_json(path)
        if not checkpoint.trust_remote_code and (kernel := _kernel_of_hub(config)):
            raise ModelError(_kernel_refused(f"{checkpoint.path}, config.json", kernel))
        if isinstance(config, dict) and config.get("transformers_weights") is not None:
            name = str(config["transformers_weights"])
            _require_allowed(f"{checkpoint.path}, config.json", name, checkpoint.allow_pickle)
    if (path := _from_hub(checkpoint, INDEX)) is not None:
        for name in sorted(_names_of(_read_json(path), f"{checkpoint.path}, {INDEX}")):
            _require_allowed(f"{checkpoint.path}, {INDEX}", name, checkpoint.allow_pickle)
    if _from_hub(checkpoint, ADAPTER) is not None:
        raise ModelError(f"{checkpoint.path} holds {ADAPTER}: it changes another model; use one with merged weights")


def _from_hub(checkpoint: Checkpoint, name: str) -> Path | None:
    """A small file of a Hub id, downloaded once; None where there is none, or where the Hub cannot be reached."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(hf_hub_download(checkpoint.path, name, revision=checkpoint.revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None  # who needs it says so: it is asked for again, with the same revision
    return path if stat.S_ISREG(path.stat().st_mode) else None
