"""What is sent to a cluster: the job and, on request, the data of its tasks. Nothing else, and no secrets.

The job file is written anew from the parsed job, so comments are not sent. A relative path to data stays the same on
the cluster, so that trials have the same ids as on this machine; any other path is replaced by one inside ``data/``.
Data are tables and images: files of other types are not sent, so nothing that is sent can be imported or executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, final

from vlmprof.errors import Fault, SpecError, UserError
from vlmprof.file_identity import kind_of
from vlmprof.job import strict_yaml
from vlmprof.job.spec import SweepSpec, TaskSpec, read
from vlmprof.plan.point import canonical
from vlmprof.regular_files import read_regular
from vlmprof.submit.secret_scan import texts, why_secret, why_secret_file

JOB = "job.yaml"
TABLES = (".parquet", ".jsonl", ".json")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LIMIT_BYTES = 100 * 10**6
"""Ray keeps what is sent in the head node's memory, and refuses more than 500 MiB."""
MOST_FILE_BYTES = 2**34
"""More than any limit that ``pack`` is given."""
DIGITS = 10
"""Hexadecimal digits of the digest in a submission id."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobBundle:
    """A job file and its data, ready to be sent."""

    name: str
    storage: str
    """The job's ``storage``, unchanged."""
    digest: str
    """Of the job and its data: equal for equal content, regardless of comments and the order of keys."""
    job: str
    """Content of the job file."""
    files: Mapping[str, Path]
    """Path on the cluster -> file on this machine."""

    @property
    def id(self) -> str:
        """The submission id of its first attempt."""
        return f"{self.name}-{self.digest}"

    def write(self, folder: Path) -> None:
        """Write the job file and the data to an empty folder."""
        (folder / JOB).write_text(self.job, encoding="utf-8")
        for name, source in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read_regular(source, MOST_FILE_BYTES))


def pack(path: Path, *, with_data: bool, limit_bytes: int = LIMIT_BYTES) -> JobBundle:
    """The bundle of a job file.

    Raises:
        SpecError: the job is invalid, refers to something that exists only on this machine, or contains a secret.
        UserError: the data are too large, of a type that is not sent, or look private.
    """
    spec = read(path)
    raw, _ = strict_yaml.read(path)
    job: dict[str, Any] = dict(raw or {})
    faults = [*_secrets(job), *_local_references(spec, with_data)]
    if faults:
        raise SpecError(str(path), faults)
    files: dict[str, Path] = {}
    if with_data:
        job["tasks"] = [_add_data(entry, task, files) for entry, task in zip(job["tasks"], spec.tasks, strict=True)]
    _require_size(files, limit_bytes)
    digest = hashlib.sha256(canonical([_normalized(spec, job), _hashes(files)]).encode()).hexdigest()[:DIGITS]
    return JobBundle(
        name=spec.name,
        storage=spec.storage,
        digest=digest,
        job=strict_yaml.written(job),
        files=dict(sorted(files.items())),
    )


def _normalized(spec: SweepSpec, job: Mapping[str, Any]) -> dict[str, Any]:
    """The job in a unique form: defaults filled in, short forms expanded, data paths as on the cluster."""
    normalized: dict[str, Any] = spec.model_dump(mode="json")
    for task, entry in zip(normalized["tasks"], job["tasks"], strict=True):
        if "path" in task:
            task["path"] = entry["path"]
    return normalized


def _secrets(job: Mapping[str, Any]) -> Iterator[Fault]:
    for field, text in texts(job):
        if what := why_secret(text):
            yield Fault(field=field, problem=f"looks like {what}; every user of the cluster can read a job")


def _local_references(spec: SweepSpec, with_data: bool) -> Iterator[Fault]:
    """Faults for relative paths: to weights, which are never sent, and to data that are not to be sent."""
    for i, model in enumerate(spec.models):
        if _is_relative(model.checkpoint) and Path(model.checkpoint).exists():
            problem = f"'{model.checkpoint}' is a folder of this machine, and weights are not sent with a job"
            yield Fault(field=f"models[{i}].checkpoint", problem=f"{problem}; name an absolute path on the cluster")
    for i, task in enumerate(spec.tasks):
        if _is_relative(task.path) and not with_data:
            problem = f"'{task.path}' is a path of this machine; --with-data sends the data"
            yield Fault(field=f"tasks[{i}].path", problem=f"{problem}, or name an absolute path on the cluster")


def _is_relative(path: str) -> bool:
    return bool(path) and not Path(path).expanduser().is_absolute()


def _add_data(entry: Any, task: TaskSpec, files: dict[str, Path]) -> Any:
    """Add a task's data to ``files``; returns the job's entry for the task with its path on the cluster."""
    if not task.path:
        return entry
    local = Path(task.path).expanduser()
    if not local.exists():
        raise UserError(f"task '{task.name}': there is nothing at {local} to send")
    remote, base = _remote_path(task.path, local), local if local.is_dir() else local.parent
    root = remote if local.is_dir() else remote.parent
    for file in _data_of(task, local):
        relative = _relative(file, base)
        name = str(root / relative)
        if name == JOB:
            raise UserError(f"task '{task.name}': the name {JOB} is reserved for the job; put the data into a folder")
        files[name] = file
    return {**entry, "path": str(remote)}


def _remote_path(path: str, local: Path) -> PurePosixPath:
    """The path of data on the cluster, relative to the job's folder: the same as here if it is below this folder."""
    relative = PurePosixPath(path)
    if not local.is_absolute() and ".." not in relative.parts:
        return relative
    digest = hashlib.sha256(str(local.resolve()).encode()).hexdigest()[:8]
    return PurePosixPath("data") / digest / local.name


def _relative(file: Path, base: Path) -> PurePosixPath:
    """A file's path relative to the data folder; refused if it leads out of that folder, also by a symbolic link."""
    if not file.resolve().is_relative_to(base.resolve()) or ".." in file.relative_to(base).parts:
        raise UserError(f"{file} lies outside {base}, and only what is inside is sent; copy it there")
    relative = PurePosixPath(file.relative_to(base).as_posix())
    if what := why_secret_file(relative):
        raise UserError(f"{file} looks like {what}, and is not sent; move it out of {base}")
    return relative


def _data_of(task: TaskSpec, local: Path) -> Iterator[Path]:
    """The tables of a task, and the images that its subset uses."""
    from vlmprof.trial.resolve import task_of

    if local.is_file() and local.suffix not in TABLES:
        raise UserError(f"{local} does not have the name of a table ({', '.join(TABLES)}), and is not sent")
    tables = sorted(path for path in local.rglob("*") if path.suffix in TABLES) if local.is_dir() else [local]
    for table in tables:
        if not table.is_file():
            raise UserError(f"{table} is {kind_of(table)}, and only files are sent; move it out of {local}")
    yield from tables
    sent = {path.resolve() for path in tables}
    for example in task_of(task).subset(task.split, task.samples, task.seed, task.stratify):
        image = Path(getattr(example.picture.load, "path", ""))
        if not image.name or image.resolve() in sent:
            continue
        if image.suffix.lower() not in IMAGES:
            raise UserError(f"{image} does not have the name of an image ({', '.join(IMAGES)}), and is not sent")
        sent.add(image.resolve())
        yield image


def _require_size(files: Mapping[str, Path], limit: int) -> None:
    total = sum(file.stat().st_size for file in files.values())
    if total > limit:
        raise UserError(
            f"the data are {total / 1e6:,.1f} MB in {len(files)} files, and at most {limit / 1e6:,.1f} MB are sent; put"
            " them where the cluster can read them and name that path in the job, or allow more with --data-limit-mb"
        )


def _hashes(files: Mapping[str, Path]) -> Sequence[tuple[str, str]]:
    return [
        (name, hashlib.sha256(read_regular(file, MOST_FILE_BYTES)).hexdigest()) for name, file in sorted(files.items())
    ]
