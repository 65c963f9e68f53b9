"""Finds plugins (leaves: knobs, models, tasks, ...) by their file name, and imports only the one that is needed.

``moe_top_k:`` in a job imports ``vlmprof/knobs/moe_top_k.py`` and takes its one constant ``KNOB``. There is no list to
edit and no decorator to add. A third party adds a leaf by an entry point of the group ``vlmprof.<kind>`` whose name is
the key and whose value is the constant. A built-in leaf takes precedence over an entry point of the same name.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, final

from vlmprof.errors import UnknownNameError, VlmprofError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The package that holds the leaves of one kind, and the constant that each exports."""

    package: str
    constant: str
    noun: str
    base: str
    """The one module of the package that holds the leaves' base class. Every other module whose name does not begin
    with an underscore is a leaf."""

    @property
    def group(self) -> str:
        """The entry-point group of third-party leaves."""
        return self.package


KINDS = {
    "knobs": Kind(package="vlmprof.knobs", constant="KNOB", noun="knob", base="knob"),
    "models": Kind(package="vlmprof.models", constant="FAMILY", noun="model family", base="family"),
    "tasks": Kind(package="vlmprof.tasks", constant="TASK", noun="task", base="task"),
    "metrics": Kind(package="vlmprof.metrics", constant="METRIC", noun="metric", base="metric"),
    "strategies": Kind(package="vlmprof.plan.strategies", constant="STRATEGY", noun="strategy", base="strategy"),
    "plots": Kind(package="vlmprof.plots", constant="PLOT", noun="plot", base="plot"),
}


def builtin(kind: str) -> tuple[str, ...]:
    """The leaves of a kind that ship with vlmprof, sorted, without importing any of them."""
    return tuple(sorted(_builtin(KINDS[kind])))


def names(kind: str) -> list[str]:
    """The names of all leaves of a kind, sorted, without importing any of them."""
    return sorted({*_builtin(KINDS[kind]), *(point.name for point in _external(KINDS[kind]))})


def load(kind: str, name: str) -> Any:
    """The constant that the leaf ``name`` exports.

    Raises:
        UnknownNameError: no leaf has this name.
        VlmprofError: the leaf exists but does not export its constant.
    """
    spec = KINDS[kind]
    if name in _builtin(spec):
        module = importlib.import_module(f"{spec.package}.{name}")
        if not hasattr(module, spec.constant):
            raise VlmprofError(f"{module.__name__} must export {spec.constant}")
        return getattr(module, spec.constant)
    for point in _external(spec):
        if point.name == name:
            return point.load()
    raise UnknownNameError(spec.noun, name, names(kind))


@cache  # a large plan looks up its knobs tens of thousands of times
def _builtin(spec: Kind) -> tuple[str, ...]:
    package = importlib.import_module(spec.package)
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return tuple(name for name in modules if not name.startswith("_") and name != spec.base)


def _external(spec: Kind) -> tuple[EntryPoint, ...]:
    return _entry_points(spec.group, tuple(sys.path))


@lru_cache(maxsize=64)  # reads the metadata of all packages, and a job may ask for a name in every line
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))
