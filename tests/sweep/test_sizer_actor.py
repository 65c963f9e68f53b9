"""One sizer for all sweeps of a cluster: shared by drivers, back after a kill, gone when nobody asks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.batch_size.devices import Device, demand_of, question, told
from tests.store.folders import begun
from vlmprof.batch_size.cache import IN_RESULTS, kept_with_results
from vlmprof.sweep.cluster import connected

pytestmark = pytest.mark.ray

DEMAND = demand_of(blocks=2.0, crops=3.0)


@pytest.fixture(scope="module")
def driver(cluster: str) -> Iterator[None]:
    """This process as a driver of the cluster."""
    with connected(cluster, verbose=False):
        yield


OTHER_SWEEP = """
import json, os, sys, time
from tests.batch_size.devices import Device, demand_of, question, told
from vlmprof.sweep.cluster import connected
with connected(sys.argv[1], verbose=False):
    import ray
    from vlmprof.sweep.sizer_actor import RemoteSizer
    sizer, device, demand = RemoteSizer(sys.argv[2]), Device(), demand_of(blocks=2.0, crops=3.0)
    asked = question(demand, device.total, device.floor, requester="another sweep")
    first = sizer.ask(asked, {})
    print(json.dumps([ray.get(sizer.actor().process.remote()), first.action]), flush=True)
    sys.stdin.readline()
    while (answer := sizer.ask(asked, {})).action == "wait":
        time.sleep(answer.wait_s)
    print(json.dumps([answer.action, answer.size, device.probes]), flush=True)
"""


def test_a_second_driver_finds_the_same_sizer_and_waits_for_the_first_one_s_prober(
    tmp_path: Path, driver: None, cluster: str
) -> None:
    import ray

    from vlmprof.sweep.sizer_actor import RemoteSizer

    sizer, device = RemoteSizer(str(tmp_path)), Device()
    asked = question(DEMAND, device.total, device.floor)
    answer = sizer.ask(asked, {})
    assert answer.action == "probe"
    command = [sys.executable, "-c", OTHER_SWEEP, cluster, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin and other.stdout
    process, action = json.loads(other.stdout.readline())
    assert process == ray.get(sizer.actor().process.remote()) and action == "wait"
    begun(tmp_path / "results")
    with kept_with_results(tmp_path / "results", sizer):
        sizer.renew("w", asked.configuration, answer.token)
        while answer.action == "probe":
            sizer.tell(told(asked, answer, device.probe(DEMAND, answer.size)))
            answer = sizer.ask(asked, {})
    assert [path.name for path in (tmp_path / "results" / IN_RESULTS).iterdir()] == ["w.jsonl"]
    said, _ = other.communicate("go on\n", timeout=120)
    assert json.loads(said) == ["use", answer.size, 0], "the second sweep probed what the first had measured"
    ray.kill(sizer.actor())


def test_it_survives_kill_9_and_knows_what_it_knew(tmp_path: Path, driver: None) -> None:
    import ray

    from vlmprof.sweep.sizer_actor import RemoteSizer

    sizer, device = RemoteSizer(str(tmp_path)), Device()
    asked = question(DEMAND, device.total, device.floor)
    for step in range(20):
        answer = sizer.ask(asked, {})
        if answer.action == "use":
            break
        if step == 1:  # in the middle of a search, between a question and its outcome
            os.kill(ray.get(sizer.actor().process.remote()), signal.SIGKILL)
        sizer.tell(told(asked, answer, device.probe(DEMAND, answer.size)))
    assert answer.action == "use" and answer.size in device.ran[DEMAND]
    assert device.probes == step, "a probe was lost with the process"
    ray.kill(sizer.actor())


def test_it_leaves_when_nobody_asks_and_is_there_again_for_who_does(tmp_path: Path, driver: None) -> None:
    import ray

    from vlmprof.sweep.cluster import NAMESPACE
    from vlmprof.sweep.sizer_actor import RemoteSizer, actor_name

    sizer, device = RemoteSizer(str(tmp_path), idle_s=0.5), Device()
    asked = question(DEMAND, device.total, device.floor)
    answer = sizer.ask(asked, {})
    sizer.tell(told(asked, answer, device.probe(DEMAND, answer.size)))
    for _ in range(600):
        try:
            ray.get_actor(actor_name(str(tmp_path)), namespace=NAMESPACE)
        except ValueError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("still there a minute after the last question")
    following = sizer.ask(asked, {})
    assert following.action == "probe" and following.size > answer.size, "what it knew was lost"


def test_where_nothing_can_be_measured_no_sizer_is_started(tmp_path: Path, driver: None) -> None:
    import ray

    from vlmprof.batch_size.protocol import SizeRequest
    from vlmprof.sweep.cluster import NAMESPACE
    from vlmprof.sweep.sizer_actor import RemoteSizer, actor_name

    sizer = RemoteSizer(str(tmp_path))
    assert sizer.ask(SizeRequest(memory_key="cpu", configuration="c", demand=(), max_size=7), {}).size == 7
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor(actor_name(str(tmp_path)), namespace=NAMESPACE)


def test_sweeps_with_another_atlas_have_another_sizer() -> None:
    from vlmprof.sweep.sizer_actor import actor_name

    assert actor_name("/one") != actor_name("/two")
