"""What a sweep tells Ray's metrics, read from a real node's metrics port."""

import re
import time
import urllib.request
from collections import defaultdict

import pytest

from tests.monitor.exported_names import exported_name
from vlmprof.monitor.live_state import TrialLabel
from vlmprof.monitor.ray_metrics import SERIES, STAGE_MS
from vlmprof.store.collector import TrialResult
from vlmprof.store.ledger import read_states
from vlmprof.store.schema import SCHEMA_VERSION
from vlmprof.sweep.cluster import connected
from vlmprof.trial.progress import Progress

LABEL = TrialLabel(name="demo shapes_qa top_k=1", model="demo", task="shapes_qa")
OF = {"model": "demo", "task": "shapes_qa"}


def result(trial, state, **columns):
    row = {"trial": trial, "state": state, "schema_version": SCHEMA_VERSION, **OF, **columns}
    timings = ()
    if state == "done":
        timing = {"trial": trial, "prefill_ms": 5.0, "end_to_end_ms": 40.0}
        timings = ({**timing, "canary": False}, {**timing, "canary": True})
    return TrialResult(trial=trial, knobs=(), state=state, row=row, timings=timings)


def lines_of(text):
    """Series name -> [(tags, value)], of our series."""
    found = defaultdict(list)
    for name, tags, value in re.findall(r"^(ray_vlmprof_\w+){(.*)} (\S+)$", text, re.MULTILINE):
        found[name].append((dict(re.findall(r'(\w+)="([^"]*)"', tags)), float(value)))
    return found


def value(found, name, **tags):
    [only] = [value for told, value in found[name] if tags.items() <= told.items()]
    return only


def exported(port, wanted):
    """Everything of ours on a node's metrics port, once all that is wanted is there."""
    found = {}
    for _ in range(240):
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        found = lines_of(text)
        told = [tags for tags, _ in found["ray_vlmprof_trials_ended_total"]]
        if wanted <= found.keys() and {"done", "oom"} <= {tags["state"] for tags in told if tags["sweep"] == SWEEP}:
            return found
        time.sleep(0.5)
    raise AssertionError(f"not exported within two minutes: {sorted(wanted - found.keys())}")


SWEEP = "telemetry"


@pytest.mark.ray
def test_a_real_node_exports_every_series_with_its_tags(tmp_path, cluster):
    with connected(cluster, verbose=False):
        import ray

        from vlmprof.sweep.actors import CollectorActor

        actor = ray.remote(CollectorActor).options(num_cpus=0).remote(str(tmp_path), SWEEP)
        ray.get(actor.open_run.remote(["a", "b", "c"], {}, None))
        for trial in "ab":
            ray.get(actor.begin.remote(trial, f"attempt of {trial}", "", "here"))
            ray.get(actor.began.remote(trial, LABEL))
        for done in (0, 8, 12):
            ray.get(actor.progress.remote("a", Progress(phase="score", done=done, total=12)))
        ray.get(actor.finish.remote(result("a", "done", seconds=7.0, batch_size=16)))
        for _ in range(2):  # the call was in flight when a process died: Ray repeats it
            ray.get(actor.finish.remote(result("b", "oom", seconds=1.0)))
        port = ray.nodes()[0]["MetricsExportPort"]
        found = exported(port, {exported_name(one) for one in SERIES})
        ray.get(actor.close.remote())
        ray.kill(actor)
    assert read_states(tmp_path) == {"a": "done", "b": "oom"}
    assert value(found, "ray_vlmprof_samples_scored_total", sweep=SWEEP, **OF) == 12
    assert value(found, "ray_vlmprof_trials_ended_total", sweep=SWEEP, state="oom") == 1
    assert value(found, "ray_vlmprof_out_of_memory_total", sweep=SWEEP) == 1
    assert value(found, "ray_vlmprof_batch_size", sweep=SWEEP) == 16
    assert value(found, "ray_vlmprof_stage_ms_count", sweep=SWEEP, stage="prefill") == 1, "a canary is no request"
    assert value(found, "ray_vlmprof_stage_ms_bucket", sweep=SWEEP, stage="prefill", le="5.0") == 1
    for one in SERIES:
        for tags, _ in found[exported_name(one)]:
            assert set(one.tags) <= tags.keys(), one.name
            assert not {"trial", "name", "point"} & tags.keys(), "a series a trial would drown a metrics server"


def test_names_are_unique_and_histograms_alone_have_buckets():
    names = [one.name for one in SERIES]
    assert len(set(names)) == len(names) and all(name.startswith("vlmprof_") for name in names)
    assert all(bool(one.boundaries) == (one.kind == "histogram") for one in SERIES)
    assert list(STAGE_MS.boundaries) == sorted(STAGE_MS.boundaries)
