"""``vlmprof compare`` and ``power``: two runs in pairs, alarms for CI, and how many samples it takes.

Exit codes of ``compare``: 0 the condition of ``--fail-if`` is surely true of no pair, or there is none; 2 the user can
fix it; 3 it is surely true of some pair.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlmprof.cli.output import out, plural
from vlmprof.cli.results import Results
from vlmprof.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from vlmprof.analyze.comparing.comparison import RunComparison, Settings

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
    figure: Annotated[
        Path | None, typer.Option(help="Draw the changes here: .png, .svg or .pdf.", show_default=False)
    ] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure the false alarm rate of --fail-if.")] = False,
    runs: Annotated[int, typer.Option(help="With --calibrate JOB: how often the job is run.", min=2)] = 4,
) -> None:
    """Compare two runs of a job, or two configurations: what changed, which samples moved, what else differs."""
    from vlmprof.analyze.comparing.comparison import Settings

    settings = Settings(configurations=configurations or (), fail_if=fail_if, canary=canary, across_devices=across)
    if calibrate:
        _calibrate(folders, settings, runs)
        return
    if len(folders) > 2:
        raise UserError(f"expected one folder or two, got {len(folders)}; with --calibrate there may be more")
    _show(folders, settings, samples, (to, table, figure))


def _calibrate(folders: list[str], settings: Settings, runs: int) -> None:
    from vlmprof.analyze.comparing.calibration import calibrate
    from vlmprof.report.comparison_table import calibration_report

    if len(folders) == 1:
        folders = _independent_runs(folders[0], runs)
    for part in calibration_report(calibrate(folders, settings)):
        out.print(part)


def _independent_runs(file: str, runs: int) -> list[str]:
    """Run a job so often, each time in a new process and into a folder of its own; those that are there are kept."""
    from vlmprof import api

    if not file.endswith((".yaml", ".yml")):
        raise UserError(f"--calibrate: expected two or more folders, or a job such as jobs/quickstart.yaml, got {file}")
    folders, place = [], api.check(file).spec.where.rstrip("/")
    for number in range(1, runs + 1):
        where = f"{place}-calibration-{number}"
        out.print(f"run {number} of {runs}: {where}", highlight=False, soft_wrap=True)
        command = [sys.executable, "-m", "vlmprof", "run", file, "--inline", "--set", f"storage={where}"]
        code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
        if code:
            raise UserError(f"--calibrate: run {number} of {file} ended with exit code {code}; its folder is {where}")
        folders.append(where)
    return folders


def _show(folders: list[str], settings: Settings, samples: int, files: tuple[Path | None, ...]) -> None:
    from vlmprof.analyze.comparing.comparison import compare
    from vlmprof.analyze.comparing.pair_detail import moved_samples, pair_detail
    from vlmprof.report.comparison_table import comparison_report
    from vlmprof.report.table_files import require_ending

    to, table, figure = files
    for file in filter(None, (to, table)):
        require_ending(file)  # before the work
    found = compare(folders[0], folders[1] if len(folders) > 1 else None, settings)
    detail = pair_detail(found) if _has_answers(found) else None
    for part in comparison_report(found, detail, samples):
        out.print(part)
    if to is not None:
        _write(moved_samples(found), to)
    if table is not None:
        _write(found.frame, table)
    if figure is not None:
        _draw(found, figure)
    if found.is_alarming:
        raise typer.Exit(ALARM)


def _draw(found: RunComparison, file: Path) -> None:
    from vlmprof.plots._comparison import draw_comparison

    draw_comparison(found, file)
    out.print(f"\nDrawn: {file}", highlight=False, soft_wrap=True)


def _write(rows: pd.DataFrame, file: Path) -> None:
    from vlmprof.report.table_files import write_rows

    out.print(f"\nWritten: {file} ({plural(write_rows(rows, file), 'row')})", highlight=False, soft_wrap=True)


def _has_answers(found: RunComparison) -> bool:
    """Whether it is of one pair with scores of single samples."""
    return (
        len(found.frame) == 1
        and "accuracy_samples" in found.frame
        and bool(found.frame["accuracy_samples"].notna().all())
    )


@app.command("power")
def show_power(
    folder: Results,
    difference: Annotated[
        float, typer.Option(help="Difference of accuracy to be told, such as 0.01: one point.")
    ] = 0.01,
    power: Annotated[float, typer.Option(help="Chance that a difference of this size is told.")] = 0.8,
) -> None:
    """Say how many samples a difference of accuracy needs, from the paired variance of the sweep itself."""
    from vlmprof.analyze.comparing.power import read_power
    from vlmprof.report.power_table import power_report

    for part in power_report(read_power(folder, difference, power)):
        out.print(part)
