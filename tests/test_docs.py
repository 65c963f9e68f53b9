"""The documentation against the code: links, references, the tree, tables, jobs, versions and commands."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pydantic_core import PydanticUndefined

from vlmprof import registry
from vlmprof.cli import app
from vlmprof.job import messages, spec
from vlmprof.store import schema
from vlmprof.trial.resolve import prepare

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"`((?:vlmprof|tests)/[\w/]+\.py)(?:::([\w.]+))?`")
CELL = re.compile(r"^\| `([^`]+)` \|(.*)\|$", re.MULTILINE)
TYPES = {
    pa.string(): "text",
    pa.int64(): "whole",
    pa.float64(): "real",
    pa.bool_(): "yes or no",
    pa.list_(pa.float64()): "list of real",
    pa.list_(pa.string()): "list of texts",
}
ANY_KNOB = "<name>"
KNOBS = [path.stem for path in sorted((ROOT / "vlmprof/knobs").glob("[a-z]*.py")) if path.stem != "knob"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def section(page: Path, title: str) -> str:
    """What stands below a heading of the second level, up to the next."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    return found


def cells(text: str) -> dict[str, list[str]]:
    """First cell, without its quotes -> the other cells of a row."""
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in CELL.findall(text)}


# --- links, references, the tree --------------------------------------------------------------------------------------


def test_the_example_for_own_data_is_timed_for_less_than_a_minute() -> None:
    """A few dozen questions took 23 s on two idle cores with these repeats, and 44 s on busy ones."""
    (block,) = (text for text in fenced(ROOT / "README.md", "yaml") if "name: mine" in text)
    timing = yaml.safe_load(block)["timing"]
    assert timing["max_repeats"] * timing["requests"] <= 32 and timing["warmup_seconds"] == 0


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), f"{name_of(page)} links to {target}"
        assert not anchor or anchor in anchors(there), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pictures_are_there_and_say_what_they_show(page: Path) -> None:
    assert all((page.parent / target).is_file() for target in IMAGE.findall(prose(page)))
    assert "![](" not in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_that_is_referred_to_exists(page: Path) -> None:
    for path, name in REFERENCE.findall(prose(page)):
        assert (ROOT / path).is_file(), f"{name_of(page)}: {path}"
        assert not name or name in definitions(ROOT / path), f"{name_of(page)}: {path}::{name}"


def definitions(path: Path) -> set[str]:
    found = set()
    for node in ast.parse(path.read_text()).body:
        name = getattr(node, "name", "")
        found |= {name, *(f"{name}.{item.name}" for item in getattr(node, "body", ()) if hasattr(item, "name"))}
    return found


def test_the_annotated_tree_is_what_git_holds() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("no git repository here")
    held = {path for path in listing.stdout.split("\0") if path and (ROOT / path).exists()}
    told = list(tree(fenced(DOCS / "index.md", "")[0]))
    assert sorted(held - set(told)) == [], "files that docs/index.md does not list"
    assert sorted(set(told) - held) == [], "files that docs/index.md lists and git does not hold"
    assert not re.search(r"\bTODO\b", (DOCS / "index.md").read_text()), "files of which docs/index.md says nothing"
    assert len(told) == len(set(told))


def tree(block: str) -> Iterator[str]:
    """The paths of an annotated tree: two spaces a level, folders end in ``/``, two spaces before what is said."""
    folders: list[str] = []
    for line in block.splitlines():
        entry = re.match(r"( *)(\S+)(?:  +(\S.*))?$", line)
        assert entry, f"not a line of a tree: {line!r}"
        name, depth = entry[2], len(entry[1]) // 2
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
            continue
        assert entry[3] or name == "__init__.py" or name.endswith((".png", ".jinja")), f"{name} says nothing"
        yield "".join([*folders, name])


# --- the tables of the schema and of the job file ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "fields"),
    [("samples", schema.SAMPLES), ("timings", schema.TIMINGS), ("trials", schema.trials_schema([ANY_KNOB]))],
    ids=["samples", "timings", "trials"],
)
def test_every_column_is_told_with_type_unit_and_direction(title: str, fields: pa.Schema) -> None:
    told = cells(section(DOCS / "schema.md", title))
    assert set(told) == set(fields.names)
    for field in fields:
        metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        kind, unit, better, meaning = told[field.name]
        assert (kind, unit, better) == (TYPES[field.type], metadata.get("unit", ""), metadata.get("better", ""))
        assert meaning.endswith("."), f"{field.name} is not explained"


SECTIONS: Mapping[str, type[spec.Section]] = {
    "The job": spec.SweepSpec,
    "models": spec.ModelSpec,
    "tasks": spec.TaskSpec,
    "timing": spec.TimingSpec,
    "batch": spec.BatchSpec,
    "resources": spec.ResourceSpec,
    "chunk": spec.ChunkSpec,
}
IN_WORDS = {"storage": "`results/<name>`", "samples": "all", "threads": "as `cpus`"}


def test_every_section_of_a_job_is_told() -> None:
    parts = {
        found for field in spec.SweepSpec.model_fields.values() if (found := messages.section_of(field.annotation))
    }
    assert {spec.SweepSpec, *parts} == set(SECTIONS.values())


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_of_a_job_is_told_with_its_default(title: str) -> None:
    told, fields = cells(section(DOCS / "jobs.md", title)), SECTIONS[title].model_fields
    assert set(told) == set(fields)
    for key, field in fields.items():
        _, default, meaning = told[key]
        assert default == IN_WORDS.get(key, in_words(field.default)), key
        assert meaning


def in_words(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, spec.Section):
        return "see there"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"  # as YAML spells it
    if isinstance(default, tuple):
        return f"`[{', '.join(default)}]`"
    return f"`{default}`" if default not in ("", None) else "empty"


@pytest.mark.parametrize("block", [block for page in PAGES for block in fenced(page, "yaml")])
def test_every_job_in_the_docs_is_right(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_data").mkdir()  # the file that docs/tasks.md shows a line of
    Path("my_data/questions.jsonl").write_text(fenced(DOCS / "tasks.md", "json")[0])
    (tmp_path / "job.yaml").write_text(block)
    assert prepare(tmp_path / "job.yaml").plans


# --- the cluster file and the commands --------------------------------------------------------------------------------


def test_the_cluster_file_passes_ray_s_own_check() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    assert config["available_node_types"][config["head_node_type"]]["resources"]["GPU"] == 0
    assert re.search(r"ray:([\d.]+)-py311", config["docker"]["image"])[1] == pinned("ray")  # type: ignore[index]


def pinned(name: str) -> str:
    (version,) = re.findall(rf"^{name}==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return version


def test_constraints_are_plain_pins_each_once() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert len(names) == len(set(names))
    assert pinned("torch") == "2.13.0"


def test_the_readme_names_every_command_and_knob() -> None:
    text = (ROOT / "README.md").read_text()
    commands = [
        f"{group.name} {command.name}" if isinstance(group.name, str) else command.name
        for group in app.registered_groups
        for command in group.typer_instance.registered_commands
    ]
    assert len(commands) >= 15 and all(commands)
    assert all(f"`vlmprof {command}" in text for command in commands)
    table = section(ROOT / "README.md", "Knobs")
    assert all(f"`{knob}`" in table for knob in KNOBS)


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_has_a_page_that_is_reached(knob: str) -> None:
    page = (DOCS / "knobs" / f"{knob}.md").read_text()
    assert f"(knobs/{knob}.md)" in (DOCS / "knobs.md").read_text()
    assert page.startswith(f"# {knob}\n\nUnit: ")
    surface = registry.load("knobs", knob).needs.__name__
    headings = ("**What it does.**", "**Traps.**", "**How the effect is judged.**")
    assert all(said in page for said in (f"`{surface}`", *headings))


def test_ci_runs_the_test_command_of_the_readme() -> None:
    install, test = "pip install -c constraints.txt -e '.[dev]'", "pytest"
    assert f"\n{install} && {test}\n" in (ROOT / "README.md").read_text()
    script = (ROOT / ".ci/run").read_text()
    assert install.replace("install", "install --quiet") in script
    assert re.search(rf"^timeout .* {test}$", script, re.MULTILINE)


def test_ci_runs_every_test_that_the_test_command_leaves_out() -> None:
    """What needs a GPU or the Hub is run by hand; ``exhaustive`` tests must not be left to anybody."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    (left_out,) = re.findall(r"-m '(.*)'", settings["addopts"])
    assert left_out == "not exhaustive and not gpu and not hub"
    assert re.search(
        r'^timeout .* pytest -m "exhaustive and not gpu and not hub"', (ROOT / ".ci/run").read_text(), re.M
    )
    known = {mark.partition(":")[0] for mark in settings["markers"]}
    assert known == {"exhaustive", "gpu", "hub", "ray", "serial"}, "say here and in .ci/run who runs a new mark"
