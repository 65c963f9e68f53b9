"""``vlmprof data``: what a task's data say before any model runs. No GPU, no weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vlmprof.cli.output import out
from vlmprof.errors import UserError

if TYPE_CHECKING:
    from vlmprof.records import Example
    from vlmprof.tasks.task import Task

app = typer.Typer(no_args_is_help=True, help="Look at a task's data: answer lengths, tilings. No GPU, no weights.")

Name = Annotated[str, typer.Argument(help="A task; 'vlmprof list tasks' names all.", show_default=False)]
SplitName = Annotated[str, typer.Option(help="A split of the task; empty: its default.")]
DataPath = Annotated[str, typer.Option("--path", help="Folder or file with the data; empty: the Hub.")]
Revision = Annotated[str, typer.Option(help="Commit of the task's repository on the Hub; empty: the pinned one.")]
MetricName = Annotated[str, typer.Option("--metric", help="Only for the task 'local'.")]
FORMS = {
    "budget": "{}",
    "vision_tokens_mean": "{:.1f}",
    "vision_tokens_most": "{}",
    "capped_share": "{:.1%}",
    "same_as": "{}",
}
To = Annotated[Path | None, typer.Option("--to", help="Write the table: a .parquet or a .csv file.")]


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
    """Show how long the reference answers are, what each cap on output tokens cuts, and which cap is enough."""
    from vlmprof.analyze.answers import answers

    found, examples = _examples(task, split, path, revision, metric)
    seen = answers(found.name, found.split(split), examples, _counter(tokenizer))
    lengths = ", ".join(f"{percent:g} % within {length}" for percent, length in seen.percentiles)
    out.print(f"{seen.task} ({seen.split}): {seen.samples} answers")
    out.print(f"{seen.unit}: mean {seen.mean:.1f}, {lengths}, longest {seen.longest}")
    rows = [{"cap": cap, "unit": seen.unit, "cut_share": share} for cap, share in seen.cut]
    _show(rows, {"cap": "{}", "cut_share": "{:.2%}"})
    if seen.unit == "words":
        out.print("Words are no tokens: say --tokenizer to get a recommended cap.")
    else:
        enough = seen.recommended or "none of these is long enough"
        out.print(f"Recommended cap: {enough} (the task's own: {found.max_new_tokens})")
    _write(rows, to)


@app.command("tilings")
def show_tilings(
    task: Name,
    model: Annotated[str, typer.Option(help="'demo', a checkpoint's folder, or a Hub id.", show_default=False)],
    family: Annotated[str, typer.Option(help="Family of the checkpoint; 'vlmprof list models' names all.")] = "molmo",
    model_revision: Annotated[str, typer.Option(help="Commit of the model's repository.")] = "",
    split: SplitName = "",
    path: DataPath = "",
    revision: Revision = "",
    metric: MetricName = "",
    to: To = None,
) -> None:
    """Show how the pictures tile under each cap, which caps are the same work, and which a sweep should list."""
    from vlmprof.analyze.tilings import tilings
    from vlmprof.job.spec import ModelSpec
    from vlmprof.trial.resolve import family_of

    named = {"family": family, "checkpoint": model, "revision": model_revision}
    said = {"family": "demo"} if model == "demo" else named
    kind, checkpoint = family_of(ModelSpec.model_validate(said))
    _, examples = _examples(task, split, path, revision, metric)
    seen = tilings(model, kind.describe(checkpoint), [(one.picture.width, one.picture.height) for one in examples])
    common = ", ".join(f"{width}x{height} ({count})" for (width, height), count in seen.sizes[:5])
    out.print(f"{seen.pictures} pictures; the most frequent sizes: {common}")
    rows = [
        {
            "budget": cap.budget,
            "unit": seen.unit,
            "vision_tokens_mean": cap.tokens_mean,
            "vision_tokens_most": cap.tokens_most,
            "capped_share": cap.capped_share,
            "same_as": cap.same_as,
        }
        for cap in seen.caps
    ]
    _show(rows, FORMS)
    out.print(f"Distinct work, for a sweep to list ({seen.unit}): {', '.join(map(str, seen.distinct))}")
    _write(rows, to)


def _examples(name: str, split: str, path: str, revision: str, metric: str) -> tuple[Task, Sequence[Example]]:
    from vlmprof.job.spec import TaskSpec
    from vlmprof.trial.resolve import task_of

    found = task_of(TaskSpec(name=name, split=split, path=path, revision=revision, metric=metric))
    return found, list(found.examples(found.split(split)))


def _counter(tokenizer: str) -> Callable[[str], int] | None:
    if not tokenizer:
        return None
    from tokenizers import Tokenizer

    file = Path(tokenizer) / "tokenizer.json" if Path(tokenizer).is_dir() else Path(tokenizer)
    if not file.is_file():
        raise UserError(f"there is no {file}; --tokenizer takes a folder with a tokenizer.json, or that file")
    loaded = Tokenizer.from_file(str(file))
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)


def _show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    table = Table(*(name.replace("_", " ") for name in columns), box=None, header_style="bold")
    for row in rows:
        table.add_row(*("" if row[name] is None else form.format(row[name]) for name, form in columns.items()))
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
    writers[to.suffix](pa.Table.from_pylist([dict(row) for row in rows]), str(to))
    out.print(f"written: {to}")
