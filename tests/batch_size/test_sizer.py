"""The facade: with files and without, and the worst case that a probe runs."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from tests.batch_size.devices import GIB, Device, demand_of, question, told
from tests.jobs import small_job
from vlmprof.batch_size.protocol import SizeRequest
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.trial.outcome import Sample
from vlmprof.trial.resolve import planned_counts, resolve, subset_of
from vlmprof.trial.worst_case_probe import worst_case_sample

DEMAND = demand_of(blocks=2.0)


def settle(sizer: BatchSizer, device: Device) -> int:
    asked = question(DEMAND, device.total, device.floor)
    while (answer := sizer.ask(asked, {"gpu": "some"})).action == "probe":
        sizer.renew("w", asked.configuration, answer.token)
        sizer.tell(told(asked, answer, device.probe(DEMAND, answer.size)))
    return answer.size


def test_with_a_folder_a_second_sizer_knows_and_without_one_it_does_not(tmp_path: Path) -> None:
    device = Device()
    first = settle(BatchSizer(tmp_path), device)
    probes = device.probes
    assert settle(BatchSizer(tmp_path), device) == first and device.probes == probes
    assert settle(BatchSizer(), device) > 0 and device.probes > probes


def test_where_nothing_is_measured_nothing_is_written(tmp_path: Path) -> None:
    sizer = BatchSizer(tmp_path)
    assert sizer.ask(SizeRequest(memory_key="cpu", configuration="c", demand=(), max_size=7), {}).size == 7
    assert not list(tmp_path.iterdir())


def test_two_askers_of_one_folder_do_not_probe_together(tmp_path: Path) -> None:
    one, two = BatchSizer(tmp_path), BatchSizer(tmp_path)
    assert one.ask(question(DEMAND, 80 * GIB, GIB, requester="one"), {}).action == "probe"
    assert two.ask(question(DEMAND, 80 * GIB, GIB, requester="two"), {}).action == "wait"


SWEEP = """
import json, sys, time
from pathlib import Path
from tests.batch_size.devices import Device, demand_of, question, told
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.batch_size.cache import CacheFile
read = CacheFile._apply_new_lines
CacheFile._apply_new_lines = lambda self: [read(self), time.sleep(0.01)]  # a gap between reading and writing would show
sizer, device = BatchSizer(Path(sys.argv[1])), Device()
print("ready", flush=True)
sys.stdin.readline()
for blocks in (1.0, 2.0, 3.0):
    demand = demand_of(blocks=blocks)
    asked = question(demand, device.total, device.floor, requester=sys.argv[2])
    while (answer := sizer.ask(asked, {})).action != "use":
        if answer.action == "wait":
            time.sleep(answer.wait_s / 10)
            continue
        began = time.time()
        time.sleep(0.03)
        ended = time.time()
        sizer.tell(told(asked, answer, device.probe(demand, answer.size), name=f"{sys.argv[2]}-{began}"))
        print(json.dumps([blocks, answer.size, began, ended]))
"""


def test_two_sweeps_that_share_only_the_folder_never_probe_the_same_at_once(tmp_path: Path) -> None:
    """Two processes, as of two drivers without a cluster in common."""
    command = [sys.executable, "-c", SWEEP, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    sweeps = [subprocess.Popen([*command, name], **pipes) for name in ("one", "two")]  # type: ignore[call-overload]
    assert [sweep.stdout.readline() for sweep in sweeps] == ["ready\n"] * 2
    for sweep in sweeps:
        sweep.stdin.write("go\n")
        sweep.stdin.flush()
    probes = [json.loads(line) for sweep in sweeps for line in sweep.communicate(timeout=120)[0].splitlines()]
    assert [sweep.returncode for sweep in sweeps] == [0, 0] and len(probes) > 3
    assert len({(blocks, size) for blocks, size, _, _ in probes}) == len(probes), "something was probed twice"
    for (blocks, _, _, ended), (same, _, began, _) in pairwise(sorted(probes, key=lambda one: (one[0], one[2]))):
        assert blocks != same or ended <= began


def test_the_worst_case_has_the_largest_image_and_the_longest_question(tmp_path: Path, tiny_checkpoint: Path) -> None:
    resolved = resolve(small_job(tmp_path, tiny_checkpoint).plans[0])
    asked = [Sample(example=one, prompt=resolved.task.ask(one, "demo")) for one in subset_of(resolved)]
    worst = worst_case_sample(resolved, asked)

    def tokens(one: Sample) -> int:
        return planned_counts(resolved, one.prompt.picture.height, one.prompt.picture.width).vision_tokens

    assert tokens(worst) == max(tokens(one) for one in asked)
    assert len(worst.prompt.text) == max(len(one.prompt.text) for one in asked)
