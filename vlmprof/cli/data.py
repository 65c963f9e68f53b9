"""``vlmprof data``: a task's data checked and described, before any model runs. No GPU, no weights.

Exit codes of ``check``: 0 the data are sound, 2 something is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vlmprof.cli.output import err, out, plural
from vlmprof.errors import UserError
from vlmprof.escaping import as_cell

if TYPE_CHECKING:
    from vlmprof.analyze.data_check import DataFault
    from vlmprof.models.family import AbstractFamily, Checkpoint
    from vlmprof.records import Example
    from vlmprof.tasks.task import Task

app = typer.Typer(no_args_is_help=True, help="A task's data: checked, answer lengths, tilings. No GPU, no weights.")

Name = Annotated[str, typer.Argument(help="A task; 'vlmprof list tasks' lists all.", show_default=False)]
SplitName = Annotated[str, typer.Option(help="A split of the task; empty: its default.")]
DataPath = Annotated[str, typer.Option("--path", help="Folder or file with the data; empty: download from the Hub.")]
Revision = Annotated[str, typer.Option(help="Commit of the task's repository on the Hub; empty: the pinned one.")]
MetricName = Annotated[str, typer.Option("--metric", help="Metric; only for the task 'local'.")]
FORMATS = {
    "budget": "{}",
    "vision_tokens_mean": "{:.1f}",
    "vision_tokens_most": "{}",
    "capped_share": "{:.1%}",
    "same_as": "{}",
}
To = Annotated[Path | None, typer.Option("--to", help="Write the table: a .parquet or a .csv file.")]


@app.command("check")
def check_data(
    task: Name,
    split: SplitName = "",
    path: DataPath = "",
    revision: Revision = "",
    metric: MetricName = "",
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="FIELD=COLUMN, where names differ; only for the task 'local'.")
    ] = None,
    index_from: Annotated[
        int | None, typer.Option("--index-from", min=0, max=1, help="Number of the first option, for answers by index.")
    ] = None,
    headers: Annotated[bool, typer.Option("--headers", help="Read headers of pictures only: fast, and less.")] = False,
    most: Annotated[int, typer.Option(help="Faults that are shown; 0: all.")] = 20,
    to: To = None,
) -> None:
    """Prove that a task's data are as it expects: files, columns, counts, reference answers and every picture."""
    from vlmprof.analyze.data_check import data_check

    loaded = _task(task, split, path, revision, metric, _pairs(columns or []), index_from)
    found = data_check(loaded, split, pixels=not headers, progress=_progress)
    revision = f"revision {found.revision}" if found.revision else "no revision"
    out.print(f"{found.task} ({found.split}), {revision}", highlight=False, soft_wrap=True)
    published = "" if found.published is None else f" of {found.published:,} published"
    out.print(f"{found.samples:,} samples{published}, {plural(found.pictures, 'picture')}", highlight=False)
    if found.sizes:
        common = ", ".join(f"{width}x{height} ({count:,})" for (width, height), count in found.sizes)
        out.print(f"most frequent sizes: {common}", highlight=False, soft_wrap=True)
    for note in found.notes:
        out.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    _write([asdict(fault) for fault in found.faults], to)
    if not found.faults:
        out.print("no fault" + (" in rows and headers; pixels were not read" if headers else ""))
        return
    raise UserError("\n".join(_fault_lines(found.faults, most)))


def _fault_lines(faults: Sequence[DataFault], most: int) -> Iterator[str]:
    yield f"{plural(len(faults), 'fault')}:"
    shown = faults[:most] if most else faults
    for fault in shown:
        place = " ".join(part for part in (fault.where, fault.sample and f"(sample {fault.sample})") if part)
        yield f"  {place}: {fault.reason}" if place else f"  {fault.reason}"
    if len(shown) < len(faults):
        yield f"  and {len(faults) - len(shown)} more; --most 0 shows all, --to writes them to a file"


def _progress(samples: Iterable[Any]) -> Iterable[Any]:
    from rich.progress import track

    return track(samples, "pictures", console=err, transient=True, disable=not err.is_terminal)


def _pairs(columns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = [column.partition("=") for column in columns]
    wrong = next((column for column, (_, equals, _) in zip(columns, pairs, strict=True) if not equals), None)
    if wrong is not None:
        raise UserError(f"--column {wrong}: expected FIELD=COLUMN, such as answers=labels")
    return tuple(sorted((field, name) for field, _, name in pairs))


@app.command("answers")
def show_answers(
    task: Name,
    split: SplitName = "",
    path: DataPath = "",
    revision: Revision = "",
    metric: MetricName = "",
    tokenizer: Annotated[str, typer.Option(help="Folder or file with a tokenizer.json; empty: count words.")] = "",
    to: To = None,
) -> None:
    """Show how long the reference answers are, how many each output-token cap cuts, and which cap suffices."""
    from vlmprof.analyze.answers import answers

    loaded, examples = _examples(task, split, path, revision, metric)
    statistics = answers(loaded.name, loaded.split(split), examples, _counter(tokenizer))
    lengths = ", ".join(f"{percent:g} % within {length}" for percent, length in statistics.percentiles)
    out.print(f"{statistics.task} ({statistics.split}): {statistics.samples} answers")
    out.print(f"{statistics.unit}: mean {statistics.mean:.1f}, {lengths}, longest {statistics.longest}")
    rows = [{"cap": cap, "unit": statistics.unit, "cut_share": share} for cap, share in statistics.cut]
    _print_table(rows, {"cap": "{}", "cut_share": "{:.2%}"})
    if statistics.unit == "words":
        out.print("Words are not tokens: name a --tokenizer to get a recommended cap.")
    else:
        recommended = statistics.recommended or "none of these is long enough"
        out.print(f"Recommended cap: {recommended} (the task's own: {loaded.max_new_tokens})")
    _write(rows, to)


@app.command("tilings")
def show_tilings(
    task: Name,
    model: Annotated[str, typer.Option(help="'demo', a checkpoint's folder, or a Hub id.", show_default=False)] = "",
    family: Annotated[str, typer.Option(help="Family of the checkpoint; 'vlmprof list models' lists all.")] = "molmo",
    model_revision: Annotated[str, typer.Option(help="Commit of the model's repository.")] = "",
    split: SplitName = "",
    path: DataPath = "",
    revision: Revision = "",
    metric: MetricName = "",
    to: To = None,
) -> None:
    """Show how the images are tiled under each cap, which caps do the same work, and which a sweep should list."""
    from vlmprof.analyze.tilings import tilings

    if not model:
        raise UserError(
            f"how pictures are tiled depends on the model: say which, as in 'vlmprof data tilings {task} --model demo';"
            " a checkpoint's folder or a Hub id does too"
        )
    leaf, checkpoint = _family(model, family, model_revision)
    _, examples = _examples(task, split, path, revision, metric)
    sizes = [(one.picture.width, one.picture.height) for one in examples if not one.picture.fault]
    statistics = tilings(model, leaf.describe(checkpoint), sizes)
    common = ", ".join(f"{width}x{height} ({count})" for (width, height), count in statistics.sizes[:5])
    _say_left_out(task, len(examples) - len(sizes), statistics.refused)
    out.print(f"{statistics.pictures} pictures; the most frequent sizes: {common}")
    rows = [
        {
            "budget": cap.budget,
            "unit": statistics.unit,
            "vision_tokens_mean": cap.tokens_mean,
            "vision_tokens_most": cap.tokens_most,
            "capped_share": cap.capped_share,
            "same_as": cap.same_as,
        }
        for cap in statistics.caps
    ]
    _print_table(rows, FORMATS)
    distinct = ", ".join(map(str, statistics.distinct))
    out.print(f"Distinct work, for a sweep to list ({statistics.unit}): {distinct}")
    _write(rows, to)


def _family(model: str, family: str, revision: str) -> tuple[AbstractFamily, Checkpoint]:
    from vlmprof.job.spec import ModelSpec
    from vlmprof.trial.resolve import family_of

    given = {"family": family, "checkpoint": model, "revision": revision}
    return family_of(ModelSpec.model_validate({"family": "demo"} if model == "demo" else given))


def _examples(name: str, split: str, path: str, revision: str, metric: str) -> tuple[Task, Sequence[Example]]:
    task = _task(name, split, path, revision, metric)
    return task, list(task.examples(task.split(split)))


def _say_left_out(task: str, faulty: int, refused: int) -> None:
    if faulty:
        err.print(f"{plural(faulty, 'picture')} left out; 'vlmprof data check {task}' says why", style="yellow")
    if refused:
        err.print(f"{plural(refused, 'picture')} left out, of sizes that the model refuses", style="yellow")


def _task(
    name: str,
    split: str,
    path: str,
    revision: str,
    metric: str,
    columns: tuple[tuple[str, str], ...] = (),
    index_from: int | None = None,
) -> Task:
    from pydantic import ValidationError

    from vlmprof.job.spec import TaskSpec
    from vlmprof.trial.resolve import task_of

    source = {"path": path, "revision": revision, "metric": metric, "columns": columns, "index_from": index_from}
    fields = {"name": name, "split": split, **source}
    try:
        spec = TaskSpec.model_validate(fields)
    except ValidationError as error:
        raise UserError(
            "; ".join(str(detail["msg"]).removeprefix("Value error, ") for detail in error.errors())
        ) from None
    return task_of(spec)


def _counter(tokenizer: str) -> Callable[[str], int] | None:
    if not tokenizer:
        return None
    from tokenizers import Tokenizer

    file = Path(tokenizer) / "tokenizer.json" if Path(tokenizer).is_dir() else Path(tokenizer)
    if not file.is_file():
        raise UserError(f"there is no {file}; --tokenizer takes a folder with a tokenizer.json, or that file")
    loaded = Tokenizer.from_file(str(file))
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    table = Table(*(name.replace("_", " ") for name in columns), box=None, header_style="bold")
    for row in rows:
        table.add_row(*("" if row[name] is None else template.format(row[name]) for name, template in columns.items()))
    out.print(table)


def _write(rows: Sequence[Mapping[str, Any]], to: Path | None) -> None:
    if to is None:
        return
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    writers = {".parquet": pq.write_table, ".csv": pc.write_csv}
    if to.suffix not in writers:
        raise UserError(f"--to {to}: expected a name that ends in {' or '.join(writers)}")
    shown = as_cell if to.suffix == ".csv" else lambda value: value
    writers[to.suffix](pa.Table.from_pylist([{name: shown(row[name]) for name in row} for row in rows]), str(to))
    out.print(f"written: {to}")
