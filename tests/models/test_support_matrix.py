"""The table of families: found by building each, equal to what tiny checkpoints showed, and to what the page says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.models._hf.families import Family
from tests.models._hf.recipes import RECIPES
from vlmprof import registry
from vlmprof.models._knob_names import knob_names
from vlmprof.models._support_matrix import NATIVE, FamilyRow, family_table
from vlmprof.surfaces import SURFACES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
TESTED = {recipe.name for recipe in RECIPES}
ORDER = ("max_crops", "max_pixels", "vision_tokens", "tiling", "moe_top_k", "active_blocks", "output_tokens")
ORDER += ("dtype", "attention", "experts_kernel")


@pytest.fixture(scope="module")
def rows() -> Sequence[FamilyRow]:
    return family_table()


def table(rows: Sequence[FamilyRow]) -> str:
    """The rows as the page shows them."""
    head = ["name", "architecture", "vision unit", "image processor", *(f"`{knob}`" for knob in ORDER), "here"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        here = "tested" if row.name in TESTED else "native" if row.name in NATIVE else "found"
        here = "needs torchvision" if row.needs_torchvision else here
        turned = ["yes" if knob in row.knobs else "no" for knob in ORDER]
        lines.append([row.name, row.architecture, row.vision_unit or "not known", row.image_processor, *turned, here])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def reasons(rows: Sequence[FamilyRow]) -> str:
    """Why a knob does not apply, each reason once, with the rows it is about."""
    said: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for knob, why in row.why_not.items():
            said.setdefault((knob, why), []).append(row.name)
    ordered = sorted(said, key=lambda pair: (ORDER.index(pair[0]), said[pair]))
    return "".join(f"- `{knob}`, {', '.join(said[knob, why])}: {why}.\n" for knob, why in ordered)


def between(name: str) -> str:
    (found,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)
    return str(found)


def test_the_page_shows_the_table_as_it_is_found(rows: Sequence[FamilyRow]) -> None:
    assert between("table") == table(rows)
    assert between("reasons") == reasons(rows)


def test_each_knob_of_the_table_needs_the_surface_it_stands_for() -> None:
    assert set(knob_names()) == set(SURFACES)
    for surface, knob in knob_names().items():
        assert registry.load("knobs", knob).needs is surface


def test_the_table_says_what_a_tiny_checkpoint_shows(family: Family, rows: Sequence[FamilyRow]) -> None:
    (row,) = [row for row in rows if row.name == family.recipe.name]
    anatomy = family.anatomy
    assert set(row.knobs) == {knob_names()[surface] for surface in anatomy.provides}
    assert row.vision_unit == anatomy.vision_unit
    assert row.architecture == anatomy.architecture
    assert bool(row.routers) == (anatomy.experts is not None)
    assert set(row.why_not) == {knob_names()[surface] for surface in anatomy.lacks}


def test_every_tested_family_is_in_the_table(rows: Sequence[FamilyRow]) -> None:
    assert {row.name for row in rows} >= TESTED


def test_dense_compute_is_told_from_routing(rows: Sequence[FamilyRow]) -> None:
    (llama4,) = [row for row in rows if row.name == "llama4"]
    assert "save nothing" in llama4.why_not["moe_top_k"]


def test_molmo2_is_shown_with_what_it_needs(rows: Sequence[FamilyRow]) -> None:
    (molmo2,) = [row for row in rows if row.name == "molmo2"]
    assert molmo2.needs_torchvision
    assert "moe_top_k" in molmo2.why_not
