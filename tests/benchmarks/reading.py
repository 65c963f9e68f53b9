"""How long the commands take that read results: seconds and memory of each, on made-up sweeps of several sizes.

    python -m tests.benchmarks.reading --out reading.json                  # ten minutes
    python -m tests.benchmarks.reading --out reading.json --sizes tiny     # tries the code

Each command is a process of its own, as it is typed, its start included. Sizes: ``real`` has 343 configurations with
5,000 samples each on two tasks, ``10k`` and ``100k`` so many trials with few samples. A command that ends with an
error, or takes longer than ``--limit``, is reported as such and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.simulated_results import Size, write_simulated

SIZES = {
    "tiny": Size(values=2, samples=60, tasks=2),
    "real": Size(values=7, samples=5000, tasks=2),
    "10k": Size(values=10, knobs=4, samples=16),
    "100k": Size(values=18, knobs=4, samples=4, trials=100_000),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "status": ("status", "{folder}"),
    "status --json": ("status", "{folder}", "--json"),
    "pareto": ("pareto", "{folder}"),
    "plot": ("plot", "{folder}", "--to", "{out}/plots"),
    "best": ("best", "{folder}", "--where", "latency_ms_p50 < 120 ms"),
    "budgets": ("budgets", "{folder}"),
    "compare": ("compare", "{folder}", "{other}"),
    "power": ("power", "{folder}"),
    "coupling": ("coupling", "{folder}"),
    "transfer": ("transfer", "{folder}"),
    "oracle": ("oracle", "{folder}", "--budget", "0.5"),
    "table": ("table", "{folder}", "--format", "csv"),
    "export": ("export", "{folder}", "--arrow", "--to", "{out}/exported"),
    "plan": ("plan", "--yes", "{job}"),
}
"""What is timed: name -> arguments."""


def timed(arguments: list[str], limit_s: float) -> dict[str, Any]:
    """One command as a process: seconds, memory at its peak, bytes printed, and its exit code."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "tests.benchmarks.reading", "--measured", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"seconds": None, "why": f"longer than {limit_s:g} s"}
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    found = {
        "seconds": round(seconds, 2),
        "processor_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "printed_bytes": len(done.stdout),
        "peak_bytes": int(lines.pop()) if lines and lines[-1].isdecimal() else None,
        "code": done.returncode,
    }
    return found if not done.returncode else {**found, "why": " ".join(lines)[-300:]}


def measured(arguments: list[str]) -> None:
    """The command itself; the last line on standard error is the memory that it took at most, in bytes."""
    from vlmprof.cli import main

    sys.argv = ["vlmprof", *arguments]
    try:
        main()
    finally:
        sys.stderr.write(f"\n{_peak_bytes()}\n")


def _peak_bytes() -> int:
    """The most memory of this process; what ``getrusage`` says includes that of the process that forked it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def run(names: list[str], limit_s: float, out: Path) -> dict[str, Any]:
    """All commands at all sizes; what there is so far is on disk after each."""
    report: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count(), "rows": []}
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            folder = write_simulated(Path(place) / "results", SIZES[name])
            other = shutil.copytree(folder, Path(place) / "again")
            (Path(place) / "job.yaml").write_text(_job(SIZES[name], folder))
            for label, arguments in COMMANDS.items():
                given = {"folder": str(folder), "other": str(other), "out": place, "job": str(Path(place) / "job.yaml")}
                row = timed([one.format(**given) for one in arguments], limit_s)
                report["rows"].append({"size": name, "command": label, **row})
                out.write_text(json.dumps(report, indent=1))
                print(json.dumps(report["rows"][-1]), file=sys.stderr, flush=True)
    return report


def _job(size: Size, folder: Path) -> str:
    """A job of about as many points as the sweep has trials, at most 10,368."""
    values = {"tiny": (2, 2, 2, 1)}.get(next(name for name, one in SIZES.items() if one is size), (9, 8, 8, 18))
    crops, experts, blocks, tokens = (list(range(1, count + 1)) for count in values)
    knobs = {"max_crops": crops, "moe_top_k": experts, "output_tokens": tokens}
    kept = [{"keep": keep, "policy": "prefix"} for keep in blocks]
    sections = {
        "name": "reading",
        "models": ["demo"],
        "tasks": ["shapes_qa"],
        "knobs": {**knobs, "active_blocks": kept},
    }
    return json.dumps({**sections, "storage": str(folder.parent / "never_run")})


def main() -> None:
    """Time everything, or be one of the commands that are timed."""
    if sys.argv[1:2] == ["--measured"]:
        measured(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", default="real,10k,100k", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a command")
    options = parser.parse_args()
    run(options.sizes.split(","), options.limit, options.out)


if __name__ == "__main__":
    main()
