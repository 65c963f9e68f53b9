"""What travels to a cluster: the job, and where it is asked the data of its tasks. Nothing else, and nothing secret.

The job is written anew from what was read, so that comments stay at home. A relative path to data means the same file
on the cluster, so that trials have the ids they have here; any other path becomes one inside ``data/``. Data are tables
and pictures: a file of another kind does not travel, so nothing that arrives can be imported or run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, final

from vlmprof.errors import Fault, SpecError, UserError
from vlmprof.job import strict_yaml
from vlmprof.job.spec import SweepSpec, TaskSpec, read
from vlmprof.plan.point import canonical
from vlmprof.submit.secret_scan import texts, why_secret, why_secret_file

JOB = "job.yaml"
TABLES = (".parquet", ".jsonl", ".json")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LIMIT_BYTES = 100 * 10**6
"""Ray keeps what travels in the memory of the head, and refuses more than 500 MiB."""
DIGITS = 10


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobBundle:
    """A job, ready to be sent."""

    name: str
    storage: str
    """As the job says."""
    digest: str
    """Of the job and its data: equal for equal content, whatever comments or order of keys."""
    job: str
    """The job file."""
    files: Mapping[str, Path]
    """Path on the cluster -> data here."""

    @property
    def id(self) -> str:
        """The submission id of its first attempt."""
        return f"{self.name}-{self.digest}"

    def write(self, folder: Path) -> None:
        """Lay all of it down in an empty folder."""
        (folder / JOB).write_text(self.job, encoding="utf-8")
        for name, source in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())


def pack(path: Path, *, with_data: bool, limit_bytes: int = LIMIT_BYTES) -> JobBundle:
    """The parcel of a job file.

    Raises:
        SpecError: the job is wrong by itself, or says something that only this machine has, or a secret.
        UserError: the data are too large, of a kind that does not travel, or look private.
    """
    spec = read(path)
    raw, _ = strict_yaml.read(path)
    job: dict[str, Any] = dict(raw or {})
    faults = [*_secrets(job), *_only_here(spec, with_data)]
    if faults:
        raise SpecError(str(path), faults)
    files: dict[str, Path] = {}
    if with_data:
        job["tasks"] = [_packed(entry, task, files) for entry, task in zip(job["tasks"], spec.tasks, strict=True)]
    _require_fit(files, limit_bytes)
    digest = hashlib.sha256(canonical([_meaning(spec, job), _contents(files)]).encode()).hexdigest()[:DIGITS]
    return JobBundle(
        name=spec.name,
        storage=spec.storage,
        digest=digest,
        job=strict_yaml.written(job),
        files=dict(sorted(files.items())),
    )


def _meaning(spec: SweepSpec, job: Mapping[str, Any]) -> dict[str, Any]:
    """All that a job says, in one form: defaults filled in, short forms written out, data where they will lie."""
    said: dict[str, Any] = spec.model_dump(mode="json")
    for task, entry in zip(said["tasks"], job["tasks"], strict=True):
        if "path" in task:
            task["path"] = entry["path"]
    return said


def _secrets(job: Mapping[str, Any]) -> Iterator[Fault]:
    for field, text in texts(job):
        if what := why_secret(text):
            yield Fault(field=field, problem=f"looks like {what}; a job is readable by all who use the cluster")


def _only_here(spec: SweepSpec, with_data: bool) -> Iterator[Fault]:
    for i, model in enumerate(spec.models):
        if _is_relative(model.checkpoint) and Path(model.checkpoint).exists():
            problem = f"'{model.checkpoint}' is a folder of this machine, and weights do not travel with a job"
            yield Fault(field=f"models[{i}].checkpoint", problem=f"{problem}; name an absolute path of the cluster's")
    for i, task in enumerate(spec.tasks):
        if _is_relative(task.path) and not with_data:
            problem = f"'{task.path}' is a path of this machine; --with-data sends what lies there"
            yield Fault(field=f"tasks[{i}].path", problem=f"{problem}, or name an absolute path of the cluster's")


def _is_relative(path: str) -> bool:
    return bool(path) and not Path(path).expanduser().is_absolute()


def _packed(entry: Any, task: TaskSpec, files: dict[str, Path]) -> Any:
    """The job's entry for a task whose data travel; adds them to ``files``."""
    if not task.path:
        return entry
    here = Path(task.path).expanduser()
    if not here.exists():
        raise UserError(f"task '{task.name}': there is nothing at {here} to send")
    there, base = _place(task.path, here), here if here.is_dir() else here.parent
    root = there if here.is_dir() else there.parent
    for file in _data_of(task, here):
        inside = _inside(file, base)
        name = str(root / inside)
        if name == JOB:
            raise UserError(f"task '{task.name}': the name {JOB} is the job's own; put the data into a folder")
        files[name] = file
    return {**entry, "path": str(there)}


def _place(said: str, here: Path) -> PurePosixPath:
    """Where data lie on the cluster, from the folder of the job: where they lie here, if that is below this folder."""
    path = PurePosixPath(said)
    if not here.is_absolute() and ".." not in path.parts:
        return path
    mark = hashlib.sha256(str(here.resolve()).encode()).hexdigest()[:8]
    return PurePosixPath("data") / mark / here.name


def _inside(file: Path, base: Path) -> PurePosixPath:
    """A file's path from the folder of the data; it must not lead out of it, by a link neither."""
    if not file.resolve().is_relative_to(base.resolve()) or ".." in file.relative_to(base).parts:
        raise UserError(f"{file} lies outside {base}, and does not travel with what is inside; copy it there")
    inside = PurePosixPath(file.relative_to(base).as_posix())
    if what := why_secret_file(inside):
        raise UserError(f"{file} looks like {what}, and is not sent; move it out of {base}")
    return inside


def _data_of(task: TaskSpec, here: Path) -> Iterator[Path]:
    """The tables of a task, and the pictures that its subset names."""
    from vlmprof.trial.resolve import task_of

    if here.is_file() and here.suffix not in TABLES:
        raise UserError(f"{here} is no table by its name (one of {', '.join(TABLES)}), and is not sent")
    tables = sorted(path for path in here.rglob("*") if path.suffix in TABLES) if here.is_dir() else [here]
    yield from tables
    known = {path.resolve() for path in tables}
    for example in task_of(task).subset(task.split, task.samples, task.seed, task.stratify):
        picture = Path(getattr(example.picture.load, "path", ""))
        if not picture.name or picture.resolve() in known:
            continue
        if picture.suffix.lower() not in PICTURES:
            raise UserError(f"{picture} is no picture by its name (one of {', '.join(PICTURES)}), and is not sent")
        known.add(picture.resolve())
        yield picture


def _require_fit(files: Mapping[str, Path], limit: int) -> None:
    total = sum(file.stat().st_size for file in files.values())
    if total > limit:
        raise UserError(
            f"the data are {total / 1e6:,.1f} MB in {len(files)} files, and {limit / 1e6:,.1f} MB may travel with a"
            " job; put them where the cluster sees them and name that path in the job, or allow more: --data-limit-mb"
        )


def _contents(files: Mapping[str, Path]) -> Sequence[tuple[str, str]]:
    return [(name, hashlib.sha256(file.read_bytes()).hexdigest()) for name, file in sorted(files.items())]
