"""SECURITY.md, promise by promise, as far as a test can hold it. Sockets and tokens: tests/sweep."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import trial_row
from tests.jobs import job_file
from vlmprof import registry
from vlmprof.errors import SpecError
from vlmprof.job.spec import read
from vlmprof.store.collector import Collector, TrialResult

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "vlmprof").rglob("*.py"))
CODE_FROM_DATA = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
PARQUET, PICKLE = b"PAR1", b"\x80"


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_turns_data_into_code(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & CODE_FROM_DATA
    for name, call in calls(tree):
        assert name not in {"eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load", "os.system"}, name
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get("shell") != "True", "a shell reads text as code"
        assert name != "torch.load" or given.get("weights_only") == "True"
    assert "yaml" not in imported or path.name == "strict_yaml.py"


def test_results_are_parquet_and_json_lines_and_nothing_else(tmp_path: Path) -> None:
    collector = Collector(tmp_path / "results", "mine", wait_s=1)
    collector.open_run(["x"], {"name": "mine"})
    row = trial_row({"max_crops": 4})
    samples = ({"trial": row["trial"], "sample": "1"},)
    collector.finish(TrialResult(trial=row["trial"], knobs=("max_crops",), state="done", row=row, samples=samples))
    collector.close()
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) >= 3
    for path in files:
        start = path.read_bytes()[:4]
        assert start == PARQUET if path.suffix == ".parquet" else start[:1] in b"{"
        assert not start.startswith(PICKLE)


@pytest.mark.parametrize("name", ["evil", "evil.KNOB", "./evil.py", "../evil", "os.system", "knob", "_block_choice"])
def test_a_name_in_a_job_loads_nothing_that_was_not_installed(name: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('the job ran code that lay beside it')")
    path = job_file(tmp_path, tiny_checkpoint, knobs={name: [1]})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.syspath_prepend(tmp_path)
        with pytest.raises(SpecError, match="no knob named"):
            read(path)
        assert name not in registry.names("knobs")


def test_checking_a_job_runs_nothing_that_lies_beside_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Python puts the working folder first where modules are looked for; the command does not."""
    for name in ("yaml", "pydantic", "vlmprof", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('ran what lay beside the job')")
    job_file(tmp_path, tiny_checkpoint)
    command = Path(sys.executable).parent / "vlmprof"
    done = subprocess.run(
        [command, "check", "job.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "ran what lay beside" not in done.stdout + done.stderr
