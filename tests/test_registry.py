import pytest

from vlmprof import registry
from vlmprof.errors import UnknownNameError


def test_a_leaf_is_found_by_the_name_of_its_file() -> None:
    assert registry.load("knobs", "moe_top_k") is registry.load("knobs", "moe_top_k")
    assert {"max_crops", "moe_top_k", "active_blocks", "output_tokens"} <= set(registry.names("knobs"))


def test_the_frame_and_private_files_are_no_leaves() -> None:
    assert "knob" not in registry.names("knobs")
    assert all(not name.startswith("_") for name in registry.names("tasks"))


def test_an_installed_package_brings_a_leaf_by_entry_point() -> None:
    assert "trouble" in registry.names("knobs")
    assert type(registry.load("knobs", "trouble")).__name__ == "Trouble"


def test_an_unknown_name_names_the_nearest_and_all() -> None:
    with pytest.raises(UnknownNameError, match=r"no knob named 'moe_topk'; did you mean 'moe_top_k'\?") as caught:
        registry.load("knobs", "moe_topk")
    assert "max_crops" in str(caught.value)
