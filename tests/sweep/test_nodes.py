"""Which nodes may run a trial, and what is said where none may. Nodes are given as ``ray.nodes()`` describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.jobs import small_job
from vlmprof.errors import SpecError, UserError
from vlmprof.job.labels import matches
from vlmprof.job.spec import ResourceSpec
from vlmprof.sweep.cluster import TrialResources, trial_resources


def described(cpus: float = 8, gpus: float = 0, kind: str = "", alive: bool = True, **labels: str) -> dict[str, Any]:
    resources = {"CPU": cpus, "memory": 1e9, "node:10.0.0.1": 1.0}
    resources |= {"GPU": gpus} if gpus else {}
    resources |= {f"accelerator_type:{kind}": 1.0} if kind else {}
    own = {name.replace("_", "-"): value for name, value in labels.items()}
    return {"Alive": alive, "Resources": resources, "Labels": {"ray.io/node-id": "abc", **own}}


HEAD = described(4)
A100 = described(96, 8, "A100", vlmprof_gpu="a100-40g")
L4 = described(48, 4, "L4", vlmprof_gpu="l4")


@pytest.mark.parametrize(
    ("selector", "fits", "does_not"),
    [
        ("l4", ["l4"], ["L4", "l40", None]),
        ("!l4", ["a100", None], ["l4"]),
        ("in(a100, l4)", ["a100", "l4"], ["h200", None]),
        ("in(a100,l4)", ["l4"], ["a100,l4"]),
        ("!in(a100, l4)", ["h200", None], ["a100", "l4"]),
    ],
)
def test_selectors_are_read_as_ray_reads_them(selector: str, fits: list[str | None], does_not: list[str]) -> None:
    assert all(matches(value, selector) for value in fits)
    assert not any(matches(value, selector) for value in does_not)


def share(
    monkeypatch: pytest.MonkeyPatch, cluster: list[dict[str, Any]], **resources: Any
) -> tuple[TrialResources, list[str]]:
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: cluster)
    told: list[str] = []
    return trial_resources(ResourceSpec.model_validate(resources), told.append), told


def test_only_nodes_that_fit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = [HEAD, A100, L4, described(96, 8, "A100", alive=False, vlmprof_gpu="a100-40g")]
    found, told = share(monkeypatch, cluster, labels={"vlmprof-gpu": "a100-40g"})
    assert (found.gpus, found.concurrent, told) == (1, 8, [])
    assert found.placement == {
        "bundles": [{"CPU": 1, "GPU": 1}],
        "bundle_label_selector": [{"vlmprof-gpu": "a100-40g"}],
    }
    found, told = share(monkeypatch, cluster, accelerator="L4", cpus=24)
    assert (found.concurrent, told) == (2, [])
    assert "bundle_label_selector" not in found.placement


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"accelerator": "A10"}, r"no node has a GPU of type 'A10'; did you mean 'A100'\?.*CPU: 96, GPU: 8, .*A100"),
        ({"labels": {"vlmprof-gpus": "l4"}}, r"no node has a label 'vlmprof-gpus'; did you mean 'vlmprof-gpu'\?"),
        ({"labels": {"vlmprof-gpu": "a100-80g"}}, r"the label vlmprof-gpu=a100-80g; did you mean 'a100-40g'\?"),
        ({"labels": {"vlmprof-gpu": "l4"}, "cpus": 64}, r"what one trial needs \(CPU: 64, GPU: 1, vlmprof-gpu=l4\)"),
        ({"cpus": 128}, r"no node has what one trial needs \(CPU: 128, GPU: 1\); the nodes have: CPU: 4; CPU: 96"),
    ],
)
def test_what_no_node_has_is_refused_with_what_there_is_and_what_is_near(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        share(monkeypatch, [HEAD, A100, L4], **resources)


def test_gpus_of_several_kinds_are_pointed_out_and_named_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    _, told = share(monkeypatch, [HEAD, A100, L4])
    assert len(told) == 1 and "2 types of GPU (A100, L4)" in told[0] and "accelerator: A100" in told[0]
    for resources in ({"accelerator": "L4"}, {"labels": {"vlmprof-gpu": "l4"}}, {"gpus": 0}, {"cpus": 96}):
        assert share(monkeypatch, [HEAD, A100, L4], **resources)[1] == []
    by_label = [described(8, 1, vlmprof_gpu="x"), described(8, 1, "H200")]
    assert "2 types of GPU (H200, of no known type)" in share(monkeypatch, by_label)[1][0]


def test_a_number_of_concurrent_trials_caps_them_and_waits_for_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share(monkeypatch, [A100], concurrent=3)[0].concurrent == 3
    found, told = share(monkeypatch, [HEAD], gpus=1, concurrent=6)
    assert (found.concurrent, found.gpus) == (6, 1)
    assert len(told) == 1 and "Waiting for a node" in told[0] and "the nodes have: CPU: 4" in told[0]
    with pytest.raises(UserError, match="set gpus: 1 to wait"):
        share(monkeypatch, [HEAD], concurrent=6)


@pytest.mark.parametrize("value", ["in()", "-x", "a b", "!!l4", "in(a", "l4,a100", ""])
def test_a_selector_that_ray_cannot_read_is_a_fault_of_the_job(
    tmp_path: Path, tiny_checkpoint: Path, value: str
) -> None:
    with pytest.raises(SpecError, match="expected value, !value, in"):
        small_job(tmp_path, tiny_checkpoint, resources={"labels": {"vlmprof-gpu": value}})


@pytest.mark.parametrize("gpus", [0.5, 2, "half"])
def test_parts_of_a_gpu_are_refused(tmp_path: Path, tiny_checkpoint: Path, gpus: Any) -> None:
    with pytest.raises(SpecError, match=r"gpus.*'auto', 0 or 1"):
        small_job(tmp_path, tiny_checkpoint, resources={"gpus": gpus})


def test_labels_are_part_of_a_trial_and_a_cap_is_not(tmp_path: Path, tiny_checkpoint: Path) -> None:
    def ids(**resources: Any) -> set[str]:
        return {plan.id for plan in small_job(tmp_path, tiny_checkpoint, resources=resources).plans}

    plain = ids(gpus=0)
    assert ids(gpus=0, concurrent=2) == plain == ids(gpus=0, labels={})
    assert not ids(gpus=0, labels={"vlmprof-gpu": "l4"}) & plain
    assert ids(gpus=0, labels={"a": "1", "b": "2"}) == ids(gpus=0, labels={"b": "2", "a": "1"})
