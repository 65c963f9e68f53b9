"""``vlmprof compare`` and ``power``: two runs in pairs, alarms for CI, and how many samples it takes.

Exit codes of ``compare``: 0 the condition of ``--fail-if`` is surely true of no pair, or there is none; 2 the user can
fix it; 3 it is surely true of some pair.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlmprof.cli.output import out
from vlmprof.errors import UserError

if TYPE_CHECKING:
    from vlmprof.analyze.comparison import Comparison, Settings

app = typer.Typer()
ALARM = 3
"""Exit code of ``compare`` where ``--fail-if`` is surely true."""

Folders = Annotated[
    list[str],
    typer.Argument(
        help="One folder of results, or two; with --calibrate runs of one job, or a job.",
        show_default=False,
    ),
]
Pair = Annotated[
    tuple[str, str] | None,
    typer.Option(
        help="Compare these: settings such as 'max_crops=1', the id of a trial, or 'full'.",
        show_default=False,
        metavar="FIRST SECOND",
    ),
]
FailIf = Annotated[
    str,
    typer.Option(
        help="Exit with 3 where this is surely true of a pair: 'accuracy < -0.01 or latency_ms_p50 > +3%'.",
        show_default=False,
        metavar="CONDITION",
    ),
]
CanaryUse = Annotated[
    Literal["both", "divide", "ignore"],
    typer.Option(help="Drift of the machine: a change of latency must show with and without the canary, or in one."),
]


@app.command("compare")
def compare_runs(
    folders: Folders,
    configurations: Pair = None,
    fail_if: FailIf = "",
    canary: CanaryUse = "both",
    across: Annotated[bool, typer.Option("--across-devices", help="Compare latencies of unlike devices too.")] = False,
    samples: Annotated[int, typer.Option(help="So many samples that moved are shown, each way.", min=0)] = 10,
    to: Annotated[
        Path | None, typer.Option(help="Write all samples that moved here: .parquet or .jsonl.", show_default=False)
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Write the row of each pair here: .parquet or .jsonl.", show_default=False)
    ] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure the false alarm rate of --fail-if.")] = False,
    runs: Annotated[int, typer.Option(help="With --calibrate JOB: how often the job is run.", min=2)] = 4,
) -> None:
    """Compare two runs of a job, or two configurations: what changed, which samples moved, what else differs."""
    from vlmprof.analyze.comparison import Settings

    settings = Settings(configurations=configurations or (), fail_if=fail_if, canary=canary, across_devices=across)
    if calibrate:
        raise UserError("soon")
        return
    if len(folders) > 2:
        raise UserError(f"expected one folder or two, got {len(folders)}; with --calibrate there may be more")
    _show(folders, settings, samples, (to, table))


def _show(folders: list[str], settings: Settings, samples: int, files: tuple[Path | None, Path | None]) -> None:
    from vlmprof.analyze.comparison import compare
    from vlmprof.analyze.pair_detail import moved_samples, pair_detail
    from vlmprof.report.comparison_table import comparison_report
    from vlmprof.report.table_files import require_ending, write_rows

    for file in filter(None, files):
        require_ending(file)  # before the work
    found = compare(folders[0], folders[1] if len(folders) > 1 else None, settings)
    detail = pair_detail(found) if _has_answers(found) else None
    for part in comparison_report(found, detail, samples):
        out.print(part)
    written = zip(files, (lambda: moved_samples(found), lambda: found.frame), strict=True)
    for path, rows in written:
        if path is not None:
            out.print(f"\nWritten: {path} ({write_rows(rows(), path)} rows)", highlight=False, soft_wrap=True)
    if found.is_alarming:
        raise typer.Exit(ALARM)


def _has_answers(found: Comparison) -> bool:
    """Whether it is of one pair with scores of single samples."""
    return (
        len(found.frame) == 1
        and "accuracy_samples" in found.frame
        and bool(found.frame["accuracy_samples"].notna().all())
    )
