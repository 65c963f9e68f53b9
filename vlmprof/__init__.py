"""vlmprof: sweeps the knobs of vision-language models, and reports accuracy, latency, memory and energy.

``run`` runs a job, ``check`` validates it, ``list_trials`` lists its trials, ``load`` opens the results of a sweep, and
``Results`` reads them. They are imported on first use: ``import vlmprof`` loads neither ray nor torch nor pandas.
Examples: ``docs/python-api.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["Results", "__version__", "check", "list_trials", "load", "run"]

if TYPE_CHECKING:
    from vlmprof.api import Results, check, list_trials, load, run
else:  # not for a type checker: it would take every name of this module for one that is there

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        # By name, not by an import statement: every module of the package imports this one, and may not reach the api.
        from importlib import import_module

        return getattr(import_module("vlmprof.api"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
