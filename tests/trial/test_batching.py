"""The facade: with files and without, and the worst case that a probe runs."""

from pathlib import Path

from tests.jobs import small_job
from tests.trial.sizing.devices import GIB, Device, demand_of, question, told
from vlmprof.trial.batching import BatchSizer
from vlmprof.trial.probe import worst_case
from vlmprof.trial.resolve import planned_counts, resolve, subset_of
from vlmprof.trial.samples import Asked
from vlmprof.trial.sizing.values import Question

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
    assert sizer.ask(Question(world="cpu", configuration="c", demand=(), most=7), {}).size == 7
    assert not list(tmp_path.iterdir())


def test_two_askers_of_one_folder_do_not_probe_together(tmp_path: Path) -> None:
    one, two = BatchSizer(tmp_path), BatchSizer(tmp_path)
    assert one.ask(question(DEMAND, 80 * GIB, GIB, asker="one"), {}).action == "probe"
    assert two.ask(question(DEMAND, 80 * GIB, GIB, asker="two"), {}).action == "wait"


def test_the_worst_case_has_the_largest_image_and_the_longest_question(tmp_path: Path, tiny_checkpoint: Path) -> None:
    resolved = resolve(small_job(tmp_path, tiny_checkpoint).plans[0])
    asked = [Asked(example=one, prompt=resolved.task.ask(one, "demo")) for one in subset_of(resolved)]
    worst = worst_case(resolved, asked)

    def tokens(one: Asked) -> int:
        return planned_counts(resolved, one.prompt.picture.height, one.prompt.picture.width).vision_tokens

    assert tokens(worst) == max(tokens(one) for one in asked)
    assert len(worst.prompt.text) == max(len(one.prompt.text) for one in asked)
