"""Every benchmark still runs: at tiny sizes, on a CPU. What comes out is no measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CODES_OF_CHECKS = (0, 1)
"""A benchmark that ran ends with 1 where a check of its numbers does not hold: on a CPU, or a busy machine."""


@dataclass(frozen=True, kw_only=True)
class Smoke:
    """How a benchmark is tried, and what its report must hold."""

    arguments: tuple[str, ...]
    """``OUT`` stands for the file of the report."""
    holds: Callable[[Any], bool]
    codes: tuple[int, ...] = (0,)
    printed: bool = False
    """Whether the report comes on the standard output."""


def sections(*names: str) -> Callable[[Any], bool]:
    """All sections ran, none with an error and none left out."""

    def hold(report: Mapping[str, Any]) -> bool:
        found = report["sections"]
        return set(found) >= set(names) and not any(went_wrong(found[name]) for name in names)

    return hold


def went_wrong(section: Any) -> bool:
    return isinstance(section, dict) and bool({"error", "skipped"} & set(section))


SMOKES: Mapping[str, Smoke] = {
    "batch_sizes": Smoke(
        arguments=("--worlds", "1", "--only-ours", "--json", "OUT"),
        holds=lambda report: [row["jitter"] for row in report["rows"]] == [0.0, 0.04, 0.1],
    ),
    "batch_sizes_gpu": Smoke(
        arguments=("--tiny", "--json", "OUT"), holds=sections("grid", "survived", "exhaustive"), codes=CODES_OF_CHECKS
    ),
    "reading": Smoke(
        arguments=("--sizes", "tiny", "--out", "OUT"),
        holds=lambda report: all(row["code"] == 0 for row in report["rows"]) and len(report["rows"]) == 14,
    ),
    "hf_prompts": Smoke(
        arguments=("--tiny", "--device", "cpu", "--models", "internvl", "--limit", "120", "--out", "OUT"),
        holds=sections("InternVL3-8B: built", "InternVL3-8B: 1", "InternVL3-8B: 12", "InternVL3-8B: order"),
    ),
    "clock": Smoke(
        arguments=("--tiny", "--device", "cpu", "--tokens", "4", "--seconds", "0.5", "--out", "OUT"),
        holds=lambda report: (
            {"overhead", "recorded", "marks", "agreement", "session"} <= set(report) and report["checks"]
        ),
        codes=CODES_OF_CHECKS,
    ),
    "choosing": Smoke(
        arguments=("--worlds", "1", "--draws", "50", "--most-samples", "300", "--out", "OUT"),
        holds=sections("winner", "chances"),
    ),
    "compare_alarms": Smoke(
        arguments=("--runs", "2", "--sections", "latency", "--out", "OUT"), holds=sections("latency")
    ),
    "coupling": Smoke(
        arguments=("--worlds", "1", "--sections", "alarms,auc", "--most-samples", "300", "--out", "OUT"),
        holds=sections("alarms", "auc"),
    ),
    "simulated_results": Smoke(
        arguments=("OUT", "--values", "2", "--samples", "30"), holds=lambda report: report["bytes"] > 0, printed=True
    ),
    "doubt": Smoke(
        arguments=(
            *("--worlds", "1", "--draws", "50", "--most-samples", "300", "--scale", "0.01"),
            *("--limit", "200", "--out", "OUT"),
        ),
        holds=sections("speed", "tiers", "coverage", "intervals"),
    ),
    "engine": Smoke(
        arguments=(
            *("--tiny", "--device", "cpu", "--batches", "2", "--out", "OUT"),
            *("--parts", "answers,decode,kernels,profile,grid,equality"),
        ),
        holds=sections("grid", "decode 2", "answers", "kernels", "profile", "equality"),
        codes=CODES_OF_CHECKS,
    ),
    "loader": Smoke(
        arguments=("--photos", "6", "--pages", "2", "--readers", "1"),
        holds=lambda report: {"machine", "photos", "pages"} <= set(report),
        printed=True,
    ),
    "overhead": Smoke(
        arguments=("--sizes", "4", "--repeats", "1", "--only", "loop", "--out", "OUT"),
        holds=lambda report: (
            bool(report["measurements"])
            and not any("failed" in run for runs in report["measurements"].values() for run in runs)
        ),
    ),
    "preprocess": Smoke(
        arguments=("--sizes", "50x70", "--pictures", "2", "--max-crops", "1", "--repeats", "3", "--device", "cpu"),
        holds=lambda report: [case["largest_difference"] < 2e-6 for case in report["cases"]] == [True],
        printed=True,
    ),
    "prompts": Smoke(
        arguments=("--tiny", "--device", "cpu", "--rows", "2", "--engines", "graphs,compiled,eager", "--out", "OUT"),
        holds=lambda report: len(report["sections"]) == 19 and not any(map(went_wrong, report["sections"].values())),
    ),
    "store": Smoke(
        arguments=("--trials", "20", "--rows", "200", "--out", "OUT"),
        holds=lambda report: bool(report["answers"]) and bool(report["trials"]),
    ),
    "sweep": Smoke(
        arguments=("--tiny", "--device", "cpu", "--points", "2", "--samples", "6", "--limit", "200", "--out", "OUT"),
        holds=lambda report: [row["state"] for row in report["sections"]["sweep"]["rows"]] == ["done"] * 2,
    ),
    "two_gpus": Smoke(
        arguments=("--tiny", "--device", "cpu", "--samples", "4", "--limit", "200", "--out", "OUT"),
        holds=sections("one", "two"),
        codes=CODES_OF_CHECKS,
    ),
}
QUICK = {"doubt", "loader", "overhead", "preprocess", "store"}
"""Those that take seconds; the others build models or a cluster, and run with the exhaustive tests."""


ON_RAY = {"sweep", "two_gpus"}
"""Tried in a file of their own, which runs after other tests that start Ray and not beside them."""


def marks(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in QUICK else [pytest.mark.exhaustive]


def commands() -> set[str]:
    """The benchmarks that are started from the command line; the other files are their parts."""
    files = (file for file in HERE.glob("*.py") if not file.stem.startswith("test_"))
    return {file.stem for file in files if '__name__ == "__main__"' in file.read_text()}


def started(command: list[str]) -> subprocess.CompletedProcess[str]:
    """It has come to its end; the settings of the tests' own cluster are not its."""
    alone = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**alone, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_every_benchmark_is_tried() -> None:
    assert commands() == set(SMOKES)


HELP = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(f"tests.benchmarks.{name}", run_name="__main__")
    except SystemExit as end:
        print(f"{name} ends with {end.code}")
"""


def test_each_says_how_it_is_used() -> None:
    """It imports all that it needs, and makes its arguments: all in one process, as most of it are the imports."""
    done = started([sys.executable, "-c", HELP, *SMOKES])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(SMOKES)
    assert all(f"{name} ends with 0" in done.stdout for name in SMOKES)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=marks(name)) for name in SMOKES if name not in ON_RAY],
)
def test_it_runs_at_a_tiny_size(name: str, tmp_path: Path) -> None:
    runs_at_a_tiny_size(name, tmp_path)


def runs_at_a_tiny_size(name: str, tmp_path: Path) -> None:
    smoke, out = SMOKES[name], tmp_path / "report.json"
    arguments = (str(out) if word == "OUT" else word for word in smoke.arguments)
    done = started([sys.executable, "-m", f"tests.benchmarks.{name}", *arguments])
    said = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.returncode in smoke.codes, said
    report = json.loads(done.stdout if smoke.printed else out.read_text())
    assert smoke.holds(report), said
