"""The nodes of a cluster, and which of them may run a trial. Pure: takes the value of ``ray.nodes()``.

Ray waits forever, without a message, for a node that matches a selector. So a sweep that matches no node is refused
here, with what the nodes have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from vlmprof.errors import suggestion
from vlmprof.job.labels import Pairs, matches

GPU_TYPE = "accelerator_type:"
"""Prefix of the resource by which Ray names the GPU type of a node; its label has the same value."""
GPU_TYPE_LABEL = "ray.io/accelerator-type"
UNKNOWN_TYPE = "of no known type"
RAY_LABELS = "ray.io/"
"""Prefix of the labels that Ray sets itself."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of a cluster."""

    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @property
    def gpu_type(self) -> str | None:
        """Type of its GPUs; None if it has none."""
        if not self.resources.get("GPU"):
            return None
        types = [name.removeprefix(GPU_TYPE) for name in self.resources if name.startswith(GPU_TYPE)]
        return next(iter(types), "") or self.labels.get(GPU_TYPE_LABEL) or UNKNOWN_TYPE

    def holds(self, bundle: Mapping[str, float]) -> int:
        """How many trials with this bundle it can run at a time."""
        return int(min(self.resources.get(name, 0) // amount for name, amount in bundle.items() if amount))

    def fits(self, selector: Pairs) -> bool:
        """Whether its labels match the selector."""
        return all(matches(self.labels.get(label), value) for label, value in selector)

    def __str__(self) -> str:
        counts = {name: f"{self.resources[name]:g}" for name in ("CPU", "GPU") if self.resources.get(name)}
        labels = {label: value for label, value in self.labels.items() if not label.startswith(RAY_LABELS)}
        parts = [f"{name}: {value}" for name, value in {**counts, **labels}.items()]
        known_type = [self.gpu_type] if self.gpu_type and self.gpu_type != UNKNOWN_TYPE else []
        return ", ".join([*parts, *known_type]) or "nothing"


def read_nodes(described: Iterable[Mapping[str, Any]]) -> list[Node]:
    """The nodes that are alive, from ``ray.nodes()``."""
    return [Node(resources=node["Resources"], labels=node.get("Labels") or {}) for node in described if node["Alive"]]


def refusal(nodes: Sequence[Node], bundle: Mapping[str, float], accelerator: str, labels: Pairs) -> str:
    """Why no node can hold a trial: the first requirement that no node meets, what the nodes have, the nearest name."""
    have = "; ".join(dict.fromkeys(map(str, nodes)))
    types = sorted({name for node in nodes if (name := node.gpu_type) and name != UNKNOWN_TYPE})
    if accelerator and accelerator not in types:
        return f"no node has a GPU of type '{accelerator}'{suggestion(accelerator, types)}; the nodes have: {have}"
    for label, value in labels:
        if not any(node.fits(((label, value),)) for node in nodes):
            return _no_label(nodes, label, value) + f"; the nodes have: {have}"
    needs = ", ".join(f"{name}: {amount:g}" for name, amount in bundle.items() if not name.startswith(GPU_TYPE))
    selector = "".join(f", {label}={value}" for label, value in labels)
    return f"no node has what one trial needs ({needs}{selector}); the nodes have: {have}"


def _no_label(nodes: Sequence[Node], label: str, value: str) -> str:
    known = sorted({name for node in nodes for name in node.labels})
    if label not in known:
        own = [name for name in known if not name.startswith(RAY_LABELS)]
        return f"no node has a label '{label}'{suggestion(label, own)}"
    values = sorted({node.labels[label] for node in nodes if label in node.labels})
    return f"no node has the label {label}={value}{suggestion(value, values)}"


def mixed_gpus(nodes: Sequence[Node], bundle: Mapping[str, float], labels: Pairs) -> str | None:
    """A warning if trials could run on GPUs of several types; None otherwise."""
    types = sorted({node.gpu_type for node in nodes if node.gpu_type and node.fits(labels) and node.holds(bundle)})
    if len(types) < 2 or not bundle.get("GPU"):
        return None
    return (
        f"the cluster has {len(types)} types of GPU ({', '.join(types)}) and the job names none: a trial runs on"
        " whichever is free, and each type gets a front of its own, of the trials that ran there. To run all trials on"
        f" one type, name it: resources: {{accelerator: {types[0]}}}"
    )
