"""A skip that is on no list fails a run in CI, and only there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import skips

ROOT = Path(__file__).parents[1]
ALLOWED = next(iter(skips.ALLOWED))
TESTS = {
    "allowed": f"import pytest\ndef test_a(): pytest.skip({ALLOWED!r})\ndef test_b(): pass\n",
    "unexpected": "import pytest\ndef test_a(): pytest.skip('not today')\ndef test_b(): pass\n",
    "missing": "import pytest\npytest.importorskip('no_such_package')\ndef test_b(): pass\n",
}


@pytest.mark.parametrize(
    ("ci", "file", "workers", "code"),
    [
        ("true", "allowed", "0", 0),
        ("true", "unexpected", "0", 1),
        ("true", "unexpected", "1", 1),
        ("true", "missing", "1", 1),
        ("", "unexpected", "0", 0),
    ],
)
def test_only_a_skip_with_a_known_reason_passes_in_ci(
    tmp_path: Path, ci: str, file: str, workers: str, code: int
) -> None:
    (tmp_path / "test_passes.py").write_text("def test_it(): pass\n")
    (tmp_path / f"test_{file}.py").write_text(TESTS[file])
    command = [sys.executable, "-m", "pytest", "-p", "tests.skips", "-p", "no:cacheprovider", "-n", workers, "."]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert ("unexpected skips" in done.stdout) == bool(code)


def test_every_reason_that_is_allowed_stands_in_a_test() -> None:
    """A reason that no test gives any more must go from the list."""
    tests = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py") if file != Path(__file__)]
    for reason in skips.ALLOWED:
        missing = reason.removeprefix("could not import ").strip("'")
        assert any(f'"{reason}"' in text or f'importorskip("{missing}")' in text for text in tests), reason
