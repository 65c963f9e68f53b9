"""The table of docs/tasks.md against the declarations."""

import importlib

from tests.test_docs import DOCS, cells
from vlmprof import registry
from vlmprof.tasks._data.dataset import Dataset

PAGE = (DOCS / "tasks.md").read_text()


def declared() -> dict[str, Dataset]:
    modules = {
        name: importlib.import_module(f"vlmprof.tasks.{name}")
        for name in registry.names("tasks")
        if name != "brightness"
    }
    return {name: module.DATASET for name, module in modules.items() if hasattr(module, "DATASET")}


def row(dataset: Dataset) -> list[str]:
    splits = ", ".join(f"{name} ({split.count:,})" for name, split in dataset.splits.items())
    source = f"`{dataset.repository}` at `{dataset.revision[:7]}`" if dataset.repository else "own file"
    metric = f"`{dataset.metric.name}`, {dataset.metric.kind}"
    cap = str(dataset.max_new_tokens)
    return [metric, splits, cap, dataset.licence, dataset.pictures, dataset.clusters, source]


def test_every_task_is_told_as_it_is_declared() -> None:
    table = PAGE[: PAGE.index("## Where")]
    assert cells(table) == {name: row(dataset) for name, dataset in declared().items()}


def test_every_declaration_is_complete() -> None:
    for name, dataset in declared().items():
        assert dataset.name == name
        assert bool(dataset.repository) == (len(dataset.revision) == 40) == (not dataset.obtain)
        assert dataset.licence and dataset.pictures and dataset.clusters and "molmo" in dataset.styles


def test_every_metric_is_told_with_its_kind() -> None:
    page = (DOCS / "metrics.md").read_text()
    told = cells(page[: page.index("## Agreement")])
    metrics = {name: registry.load("metrics", name) for name in registry.names("metrics")}
    assert {name: rest[0] for name, rest in told.items()} == {name: one.kind for name, one in metrics.items()}
    assert all(one.name == name for name, one in metrics.items())
