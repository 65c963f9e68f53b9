"""What the nodes of a cluster are, and which of them may run a trial. Pure: ``ray.nodes()`` goes in as it is.

Ray waits for ever, without a word, for a node that fits a selector; so a sweep that no node fits is refused here, with
what the nodes have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from vlmprof.errors import suggestion
from vlmprof.job.labels import Pairs, matches

KIND = "accelerator_type:"
"""Begins the resource by which Ray names the GPUs of a node; its label says the same."""
KIND_LABEL = "ray.io/accelerator-type"
NO_KIND = "of no known type"
OWN_LABELS = "ray.io/"
"""Begins the labels that Ray sets itself."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of a cluster."""

    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @property
    def kind(self) -> str | None:
        """Of its GPUs; None where it has none."""
        if not self.resources.get("GPU"):
            return None
        named = [name.removeprefix(KIND) for name in self.resources if name.startswith(KIND)]
        return next(iter(named), "") or self.labels.get(KIND_LABEL) or NO_KIND

    def holds(self, bundle: Mapping[str, float]) -> int:
        """How many trials that need this at a time."""
        return int(min(self.resources.get(name, 0) // amount for name, amount in bundle.items() if amount))

    def fits(self, selector: Pairs) -> bool:
        """Whether its labels are as asked."""
        return all(matches(self.labels.get(label), value) for label, value in selector)

    def __str__(self) -> str:
        counted = {name: f"{self.resources[name]:g}" for name in ("CPU", "GPU") if self.resources.get(name)}
        own = {label: value for label, value in self.labels.items() if not label.startswith(OWN_LABELS)}
        parts = [f"{name}: {value}" for name, value in {**counted, **own}.items()]
        return ", ".join([*parts, self.kind] if self.kind and self.kind != NO_KIND else parts) or "nothing"


def read_nodes(described: Iterable[Mapping[str, Any]]) -> list[Node]:
    """The nodes that are alive, from ``ray.nodes()``."""
    return [Node(resources=one["Resources"], labels=one.get("Labels") or {}) for one in described if one["Alive"]]


def refusal(nodes: Sequence[Node], bundle: Mapping[str, float], accelerator: str, labels: Pairs) -> str:
    """Why no node can hold a trial: the first thing that none has, what there is, and what is near."""
    have = "; ".join(dict.fromkeys(map(str, nodes)))
    kinds = sorted({kind for node in nodes if (kind := node.kind) and kind != NO_KIND})
    if accelerator and accelerator not in kinds:
        return f"no node has a GPU of type '{accelerator}'{suggestion(accelerator, kinds)}; the nodes have: {have}"
    for label, value in labels:
        if not any(node.fits(((label, value),)) for node in nodes):
            return _no_label(nodes, label, value) + f"; the nodes have: {have}"
    needs = ", ".join(f"{name}: {amount:g}" for name, amount in bundle.items() if not name.startswith(KIND))
    asked = "".join(f", {label}={value}" for label, value in labels)
    return f"no node has what one trial needs ({needs}{asked}); the nodes have: {have}"


def _no_label(nodes: Sequence[Node], label: str, value: str) -> str:
    known = sorted({name for node in nodes for name in node.labels})
    if label not in known:
        own = [name for name in known if not name.startswith(OWN_LABELS)]
        return f"no node has a label '{label}'{suggestion(label, own)}"
    values = sorted({node.labels[label] for node in nodes if label in node.labels})
    return f"no node has the label {label}={value}{suggestion(value, values)}"


def unlike(nodes: Sequence[Node], bundle: Mapping[str, float], labels: Pairs) -> str | None:
    """What to say where trials could run on GPUs of several kinds; None where they cannot."""
    kinds = sorted({node.kind for node in nodes if node.kind and node.fits(labels) and node.holds(bundle)})
    if len(kinds) < 2 or not bundle.get("GPU"):
        return None
    return (
        f"the cluster has {len(kinds)} kinds of GPU ({', '.join(kinds)}) and the job names none: a trial runs on"
        " whichever is free, and each kind gets a front of its own, of the trials that ran there. For all trials on one"
        f" kind name it: resources: {{accelerator: {kinds[0]}}}"
    )
