"""``vlmprof data``: statistics of a task's data, before any model runs. No GPU, no weights."""

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

app = typer.Typer(
    no_args_is_help=True, help="Statistics of a task's data: answer lengths, tilings. No GPU, no weights."
)

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
    from vlmprof.job.spec import ModelSpec
    from vlmprof.trial.resolve import family_of

    _require_model(model, task)
    given = {"family": family, "checkpoint": model, "revision": model_revision}
    fields = {"family": "demo"} if model == "demo" else given
    leaf, checkpoint = family_of(ModelSpec.model_validate(fields))
    _, examples = _examples(task, split, path, revision, metric)
    sizes = [(example.picture.width, example.picture.height) for example in examples]
    statistics = tilings(model, leaf.describe(checkpoint), sizes)
    common = ", ".join(f"{width}x{height} ({count})" for (width, height), count in statistics.sizes[:5])
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


def _require_model(model: str, task: str) -> None:
    if not model:
        raise UserError(
            f"how pictures are tiled depends on the model: say which, as in 'vlmprof data tilings {task} --model demo';"
            " a checkpoint's folder or a Hub id does too"
        )


def _examples(name: str, split: str, path: str, revision: str, metric: str) -> tuple[Task, Sequence[Example]]:
    from vlmprof.job.spec import TaskSpec
    from vlmprof.trial.resolve import task_of

    task = task_of(TaskSpec(name=name, split=split, path=path, revision=revision, metric=metric))
    return task, list(task.examples(task.split(split)))


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
    writers[to.suffix](pa.Table.from_pylist([dict(row) for row in rows]), str(to))
    out.print(f"written: {to}")
