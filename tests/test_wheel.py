"""The wheel holds every file of the package: modules, the demo's weights, the watch page, the Grafana dashboard."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def test_the_wheel_holds_what_git_holds_of_the_package(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "vlmprof"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.split() if (ROOT / name).is_file()}
    for name in [*tracked, "pyproject.toml", "README.md", "LICENSE"]:
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "source" / name)
    # A copy, since setuptools leaves build folders in the tree it builds; offline, with the setuptools that is here.
    subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)], cwd=tmp_path / "source", check=True, capture_output=True
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        weights = archive.read("vlmprof/demo/weights/model.safetensors")
    assert {name for name in names if not name.split("/")[0].endswith(".dist-info")} == tracked
    assert weights == (ROOT / "vlmprof/demo/weights/model.safetensors").read_bytes()
    for name in ("report/watch.html", "report/watch.css", "report/watch.js", "monitor/grafana_dashboard.json"):
        assert f"vlmprof/{name}" in names
