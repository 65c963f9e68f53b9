"""``vlmprof table`` and ``export``: results for papers and for other programs. Needs neither ray nor torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmprof.cli.output import err, out
from vlmprof.cli.results import AcrossModels, Results, names_in
from vlmprof.errors import UserError

app = typer.Typer()
TABLES = "trials,samples,timings,front"


@app.command("table")
def show_table(
    folder: Results,
    rows: Annotated[
        str, typer.Option(help="front (with the full model), all, or a list of full, front, ids and settings.")
    ] = "front",
    columns: Annotated[
        str, typer.Option(help="accuracy,relative,vision_tokens,flop,prefill,total,memory, or columns of trials.")
    ] = "",
    form: Annotated[str, typer.Option("--format", help="latex, markdown, html or csv.")] = "markdown",
    intervals: Annotated[
        str, typer.Option(help="half: +-; ends: [low, high]; none. CSV always has the ends.")
    ] = "half",
    to: Annotated[Path | None, typer.Option(help="A file to write; else it is printed.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    by: Annotated[str, typer.Option(help="Columns that must not be mixed in one table, comma-separated.")] = "",
    across_models: AcrossModels = False,
) -> None:
    """Write a table for a paper: configurations by tasks, with intervals, bold, marks and a caption."""
    from vlmprof.analyze.papers.paper_table import TableWanted, paper_tables
    from vlmprof.report.paper_table import notes, paper_text

    wanted = TableWanted(
        rows=rows, columns=tuple(names_in(columns)), by=tuple(names_in(by)), across_models=across_models
    )
    found = paper_tables(folder, wanted)
    text = "\n".join(paper_text(table, form, intervals) for table in found.tables)
    if to is None:
        typer.echo(text, nl=False)  # as it is: no line of it may be wrapped
    else:
        _write(to, text, force=force)
    for table in found.tables:
        for sentence in notes(table) if form == "csv" else ():
            err.print(sentence, style="dim", highlight=False, markup=False, soft_wrap=True)
        for caveat in table.caveats:
            err.print(f"beware: {caveat}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    for why, count in found.left_out.items():
        err.print(f"left out: {count} {why}", style="yellow", highlight=False, markup=False, soft_wrap=True)


@app.command("export")
def export_tables(
    folder: Results,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values; lists as JSON.")] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="A line of JSON for each row.")] = False,
    as_arrow: Annotated[bool, typer.Option("--arrow", help="Arrow IPC files (Feather).")] = False,
    names: Annotated[str, typer.Option("--tables", help="Which tables, comma-separated.")] = TABLES,
    to: Annotated[
        Path | None, typer.Option(help="A folder, or a file for one table.", show_default="export/ in the results")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write the tables for other programs, with the units and meanings of their columns in columns.json."""
    from vlmprof.job.storage import mounted
    from vlmprof.report.export import export

    chosen = [name for name, on in (("csv", as_csv), ("jsonl", as_jsonl), ("arrow", as_arrow)) if on]
    if len(chosen) != 1:
        raise UserError(f"expected one of --csv, --jsonl and --arrow, got {' and '.join(chosen) or 'none'}")
    if to is None and "://" in folder:
        raise UserError(f"{folder} cannot hold exported files; name a folder with --to")
    found = export(folder, chosen[0], to or mounted(folder) / "export", tuple(names_in(names)), force=force)
    for name, path in found.files.items():
        out.print(f"{path}: {found.rows[name]:,} rows", highlight=False, markup=False, soft_wrap=True)
    out.print(f"{found.sidecar}: what the columns mean", highlight=False, markup=False, soft_wrap=True)
    for name, trials in found.lost.items():
        lost = f"beware: {name} lacks {len(trials)} trials whose rows are damaged: {', '.join(trials[:5])}"
        err.print(lost, style="yellow", highlight=False, markup=False, soft_wrap=True)


def _write(to: Path, text: str, *, force: bool) -> None:
    if to.exists() and not force:
        raise UserError(f"{to} is there already; name another file, or replace it with --force")
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, encoding="utf-8")
    out.print(f"Written: {to}", highlight=False, markup=False, soft_wrap=True)
