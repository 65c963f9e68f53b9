"""In CI a test may be skipped only for a reason that stands here; any other skip fails the run.

A skip that nobody expects is a promise that nobody checks: a dependency that fell out of ``[dev]``, a browser that is
no longer installed. Tests that are deselected by their mark (``gpu``, ``hub``) are no skips.
"""

from __future__ import annotations

import os

import pytest

ALLOWED = {
    "needs a CUDA device": "CI has no GPU; run tests/engine/test_engine_gpu.py where there is one",
    "says what is missing where torchvision is missing": "[dev] brings no torchvision, so this test runs in CI; "
    "it is skipped in an environment that has torchvision",
    "only root may mount a small file system": "full and read-only disks are made by mounting a tmpfs",
    "no node here": "the words of the watch page are read with node where there is one; its JSON is tested without",
    "no browser here": "the watch page is looked at in Chromium where there is one; its data are tested without",
    "no git repository here": "an exported tree has no list of files to compare docs/index.md with",
    "could not import 'mlflow'": "mlflow is an optional dependency that [dev] does not bring",
    "could not import 'wandb'": "so is wandb",
}
"""The beginning of a reason -> why the run may pass all the same."""

_unexpected: dict[str, str] = {}


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"


def _note(report: pytest.CollectReport | pytest.TestReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = told.removeprefix("Skipped: ")
    if not reason.startswith(tuple(ALLOWED)):
        _unexpected[report.nodeid] = reason


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _in_ci() and _unexpected and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not (_in_ci() and _unexpected):
        return
    terminalreporter.section("unexpected skips", red=True)
    for nodeid, reason in sorted(_unexpected.items()):
        terminalreporter.line(f"{nodeid}: {reason}; tests/skips.py lists the reasons that are allowed")
