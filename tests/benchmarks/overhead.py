"""What a sweep costs beside its trials: milliseconds a trial, driver memory, time to resume, rows a second.

    python -m tests.benchmarks.overhead --out overhead.json [--sizes 100 1000 10000] [--repeats 3]

Trials take no time (``trivial``), so all that is measured is ours, Ray's and the disk's:

* ``loop``: a ``for`` loop that gives the same rows to the same collector, in one process;
* ``tune``: Ray Tune with a class that does nothing, reused actors, loggers off, two at once, one Tuner; no rows;
* ``vlmprof``: a job through ``vlmprof.sweep.driver.launch``: trainable, collector, ledger, tables, board, two at once;
* ``resume``: the same job again, where all but 100 trials have finished, then where all have;
* ``collector``: rows a second that the collector takes over its actor, from one client and from two.

Each measurement is a process of its own, so that its memory is its own. ``steady`` leaves the start of the workers out;
tenths tell whether trials become dearer as a sweep grows. ``--show FILE`` prints the tables of a report.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from vlmprof.sweep.cluster import ENVIRONMENT, PRIVATE

ROOT = Path(__file__).parents[2]
MISSING = 100
"""Trials that a resumed sweep lacks."""
ROWS = (16, 256, 2048)
"""Rows of a trial that a client gives the collector."""
ROWS_IN_ALL = 20_000
"""In one run of each; four trials at least."""
ONE_S = 600
"""A bound for one measurement of a small size; a large one gets 60 ms a trial more."""


def loop(size: int, home: Path) -> dict[str, Any]:
    """A plain loop around the collector."""
    from tests.benchmarks.trivial import job, pace_ms, result
    from vlmprof.store import tables
    from vlmprof.store.collector import Collector

    made = job(home)
    plans = made.plans[:size]
    began = time.perf_counter()
    collector = Collector(made.spec.folder, made.spec.name, wait_s=1)
    collector.open_run([plan.id for plan in plans], {})
    for plan in plans:
        collector.finish(result(plan), collector.begin(plan.id).attempt)
    collector.close()
    seconds = time.perf_counter() - began
    starts = tables.read(made.spec.folder, "trials")["started"].astype(float).tolist()
    return {"seconds": seconds, **pace_ms(starts)}


def tune(size: int, home: Path) -> dict[str, Any]:
    """Ray Tune by itself."""
    from tests.benchmarks.trivial import pace_ms
    from vlmprof.sweep.cluster import connected

    with connected("local", verbose=False):
        from ray import tune as ray_tune

        class Nothing(ray_tune.Trainable):
            def step(self) -> dict[str, Any]:
                return {"done": True, "at": time.time()}

            def reset_config(self, new_config: dict[str, Any]) -> bool:
                return True

        tuner = ray_tune.Tuner(
            ray_tune.with_resources(Nothing, {"cpu": 1}),
            param_space={"trial": ray_tune.grid_search(list(range(size)))},
            tune_config=ray_tune.TuneConfig(reuse_actors=True, max_concurrent_trials=2),
            run_config=ray_tune.RunConfig(
                name="tune",
                storage_path=str(home),
                verbose=0,
                checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        began = time.perf_counter()
        results = tuner.fit()
        seconds = time.perf_counter() - began
        starts = [results[number].metrics["at"] for number in range(len(results))]
        assert len(starts) == size
    return {"seconds": seconds, **pace_ms(starts)}


def vlmprof(size: int, home: Path) -> dict[str, Any]:
    """A job as the command line runs it, without its checks and its report."""
    from tests.benchmarks.trivial import job, pace_ms
    from vlmprof.store import tables

    began = time.perf_counter()
    made = job(home)
    planning = time.perf_counter() - began
    plans = made.plans[:size]
    seconds = _launched(made.spec, plans)
    starts = tables.read(made.spec.folder, "trials")["started"].astype(float).tolist()
    assert len(starts) == size
    return {"seconds": seconds, "planning_ms": 1000 * planning / len(made.plans), **pace_ms(starts)}


def _launched(spec: Any, plans: Any) -> float:
    """Seconds from a cluster that is there to the last row; Ray's own start and end are left out."""
    from vlmprof.sweep.cluster import LOCAL, set_ray_environment

    set_ray_environment(LOCAL, verbose=False)
    import ray  # reads its settings when it is imported

    from tests.benchmarks.trivial import instead_of_models
    from tests.sweep.sweeps import Silent
    from vlmprof.sweep.driver import launch

    times: list[float] = []

    def init(**options: Any) -> Any:
        context = start(**options, runtime_env={"worker_process_setup_hook": instead_of_models})
        times.append(time.perf_counter())
        return context

    def shutdown() -> None:
        times.append(time.perf_counter())
        end()

    start, end = ray.init, ray.shutdown
    with mock.patch("ray.init", init), mock.patch("ray.shutdown", shutdown):
        states = launch(spec, plans, LOCAL, Silent(), verbose=False)
    assert set(states.values()) <= {"done"}, states
    return times[1] - times[0]


def resume(size: int, home: Path) -> dict[str, Any]:
    """A folder in which all but some trials have finished, then the same job again, twice: once for what is missing."""
    from tests.benchmarks.trivial import job, result
    from vlmprof.store.collector import Collector

    made = job(home)
    plans = made.plans[:size]
    missing = min(MISSING, size // 2)
    with mock.patch("os.fsync"):  # the folder is made for this measurement; how fast is not measured
        collector = Collector(made.spec.folder, made.spec.name, wait_s=1)
        collector.open_run([plan.id for plan in plans], {})
        for plan in plans[: size - missing]:
            collector.finish(result(plan), collector.begin(plan.id).attempt)
        collector.close()
    began = time.perf_counter()
    job(home)
    planning = time.perf_counter() - began
    some = _launched(made.spec, plans)
    return {"planning_s": planning, "missing": missing, "missing_s": some, "finished_s": _launched(made.spec, plans)}


def collector(home: Path, repeats: int) -> dict[str, Any]:
    """Rows a second through the actor; a client waits for each answer, as a trial does."""
    import ray

    from tests.benchmarks.trivial import job, result
    from vlmprof.sweep.actors import CollectorActor
    from vlmprof.sweep.cluster import connected

    plans, found = iter(job(home).plans), []
    with connected("local", verbose=False):
        actor = ray.remote(CollectorActor).options(num_cpus=0).remote(str(home / "results"), "overhead")
        ray.get(actor.open_run.remote([], {}, None))
        give = ray.remote(_give).options(num_cpus=1)
        ray.get([give.remote(actor, []) for _ in range(2)])  # the clients' processes are there
        for rows, clients, _ in itertools.product(ROWS, (1, 2), range(repeats)):
            each = min(400, max(4, ROWS_IN_ALL // rows // clients))
            whole = [_of(result(plan), rows) for plan in itertools.islice(plans, each * clients)]
            began = time.perf_counter()
            ray.get([give.remote(actor, whole[number::clients]) for number in range(clients)])
            seconds = time.perf_counter() - began
            told = {"rows_per_s": len(whole) * rows / seconds, "trials_per_s": len(whole) / seconds}
            found.append({"rows": rows, "clients": clients, **told})
        ray.get(actor.close.remote())
    return {"runs": found}


def _of(result: Any, rows: int) -> Any:
    sample = result.samples[0]
    return replace(result, timings=(), samples=tuple({**sample, "sample": f"s{number:06d}"} for number in range(rows)))


def _give(actor: Any, results: list[Any]) -> None:
    import ray

    for result in results:
        begun = ray.get(actor.begin.remote(result.trial, result.trial, "", "here"))
        ray.get(actor.finish.remote(result, begun.attempt))


# --- the measurements, each in a process of its own -------------------------------------------------------------------


def measurements(sizes: list[int], repeats: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(name, how often, arguments)"""
    for size in sizes:
        for name in ("loop", "tune", "vlmprof"):
            yield f"{name}-{size}", repeats if size <= 1000 else 1, {"what": name, "size": size}
    yield f"resume-{max(sizes)}", 1, {"what": "resume", "size": max(sizes)}
    yield "collector", 1, {"what": "collector", "repeats": repeats}


def one(asked: dict[str, Any], home: Path) -> dict[str, Any]:
    """Run a measurement in this process."""
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "loop": loop,
        "tune": tune,
        "vlmprof": vlmprof,
        "resume": resume,
        "collector": collector,
    }
    arguments = {name: value for name, value in asked.items() if name != "what"}
    found = partial(kinds[asked["what"]], home=home)(**arguments)
    return {**found, "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def apart(asked: dict[str, Any]) -> dict[str, Any]:
    """The same in a fresh process and a fresh folder; a failure is a result too."""
    home = Path(tempfile.mkdtemp(prefix="vp-overhead-"))
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    quiet = {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **ENVIRONMENT, **PRIVATE, **quiet}  # Ray reads them when it is imported
    command = [sys.executable, "-m", "tests.benchmarks.overhead", "--one", json.dumps(asked), "--home", str(home)]
    limit = ONE_S + 0.06 * asked.get("size", 0)
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {limit:.0f} s"}
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if done.returncode:
        return {"failed": done.stderr[-2000:]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def markdown(report: dict[str, Any]) -> str:
    """The tables of docs/reliability.md, from a report's JSON."""
    found = report["measurements"]
    lines = ["| trials | | ms/trial | steady ms/trial | first, last tenth | driver MB |", "|---|---|---|---|---|---|"]
    for size in report["sizes"]:
        for name in ("loop", "tune", "vlmprof"):
            runs = [run for run in found.get(f"{name}-{size}", []) if "failed" not in run]
            if runs:
                lines.append(f"| {size:,} | {name} | {_row(runs, size)} |")
    lines += ["", "| the same job again | planning s | until complete s | driver MB |", "|---|---|---|---|"]
    for name, runs in found.items():
        if name.startswith("resume") and "failed" not in runs[0]:
            run, size = runs[0], int(name.removeprefix("resume-"))
            planning, memory = f"{run['planning_s']:.1f}", f"{run['rss_mb']:.0f}"
            lines.append(
                f"| {size:,} trials, {run['missing']} missing | {planning} | {run['missing_s']:.1f} | {memory} |"
            )
            lines.append(f"| {size:,} trials, all finished | {planning} | {run['finished_s']:.1f} | {memory} |")
    lines += ["", "| rows a trial | clients | rows/s | trials/s |", "|---|---|---|---|"]
    gave = [run for runs in found.get("collector", []) if "failed" not in runs for run in runs["runs"]]
    for rows, clients in itertools.product(ROWS, (1, 2)):
        same = [run for run in gave if (run["rows"], run["clients"]) == (rows, clients)]
        if same:
            rates = (_spread([run[key] for run in same]) for key in ("rows_per_s", "trials_per_s"))
            lines.append(f"| {rows:,} | {clients} | {' | '.join(rates)} |")
    failed = [f"{name}: {run['failed'][-300:]}" for name, runs in found.items() for run in runs if "failed" in run]
    return "\n".join([*lines, "", f"Machine: {report['machine']}.", *failed])


def _row(runs: list[dict[str, Any]], size: int) -> str:
    tenths = runs[0]["tenths_ms"]
    growth = f"{tenths[0]:.1f}, {tenths[-1]:.1f}" if tenths else ""
    steady, memory = _spread([run["steady_ms"] for run in runs]), _spread([run["rss_mb"] for run in runs])
    return f"{_spread([1000 * run['seconds'] / size for run in runs])} | {steady} | {growth} | {memory}"


def _spread(values: list[float]) -> str:
    middle = statistics.median(values)
    digits = 1 if middle < 100 else 0
    around = f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})" if len(values) > 1 else ""
    return f"{middle:,.{digits}f}{around}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--repeats", type=int, default=3, help="of what takes less than a minute")
    parser.add_argument("--only", default="", help="measurements whose name begins so")
    parser.add_argument("--out", type=Path, help="write the report here, as JSON, after every measurement")
    parser.add_argument("--show", type=Path, help="print the tables of this report and do nothing else")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.show:
        print(markdown(json.loads(asked.show.read_text())))
        return
    if asked.one:
        print(json.dumps(one(json.loads(asked.one), asked.home)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the measurement under way ends too
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"
    report: dict[str, Any] = {"machine": machine, "sizes": asked.sizes, "measurements": {}}
    for name, repeats, arguments in measurements(asked.sizes, asked.repeats):
        if not name.startswith(asked.only):
            continue
        report["measurements"][name] = [apart(arguments) for _ in range(repeats)]
        print(name, report["measurements"][name], file=sys.stderr, flush=True)
        if asked.out:
            asked.out.write_text(json.dumps(report, indent=1))
    print(markdown(report))
    sys.exit(any("failed" in run for runs in report["measurements"].values() for run in runs))


if __name__ == "__main__":
    main()
