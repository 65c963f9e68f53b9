"""The columns of a further timed setting: their names go both ways, and they know what their first ones know."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprof.store import schema
from vlmprof.store.descriptions import column_attributes, describe
from vlmprof.store.schema import AT_A_SETTING, at_setting, setting_name, settings_of, split_setting, trials_schema

SETTINGS = st.builds(setting_name, st.integers(1, 10**6), st.none() | st.integers(1, 10**6))


@given(st.sampled_from(AT_A_SETTING), SETTINGS)
def test_a_name_says_its_column_and_its_setting(name: str, setting: str) -> None:
    assert split_setting(at_setting(name, setting)) == (name, setting)
    assert split_setting(name) == (name, "")


@given(st.sets(SETTINGS, max_size=5))
def test_a_schema_is_found_again_from_the_names_of_its_columns(settings: set[str]) -> None:
    kind = trials_schema(["max_crops"], sorted(settings))
    assert set(settings_of(kind.names)) == settings
    assert set(schema.schema_of_row(kind.names).names) == set(kind.names)
    assert len(set(kind.names)) == len(kind.names)


@pytest.mark.parametrize("name", ["accuracy_at_b8_o16", "knob_x_at_b8", "latency_ms_p50_at_b0", "latency_ms_p50_at_8"])
def test_other_names_have_no_setting(name: str) -> None:
    assert split_setting(name) == (name, "")


def test_an_objective_keeps_unit_direction_and_interval_at_a_setting() -> None:
    kind = trials_schema([], ["b8_o16"])
    field = kind.field("timing_samples_per_s_at_b8_o16")
    ends = "timing_samples_per_s_at_b8_o16_low,timing_samples_per_s_at_b8_o16_high"
    assert field.type == pa.float64()
    assert field.metadata == {b"unit": b"samples/s", b"better": b"higher", b"interval": ends.encode()}
    assert set(ends.split(",")) < set(kind.names)
    assert schema.trials_schema([]).field("timing_samples_per_s").metadata[b"better"] == b"higher"


def test_settings_are_in_the_order_of_their_sizes() -> None:
    names = trials_schema([], ["b16_o4", "b2_o64", "b2_o4", "b2"]).names
    assert settings_of(names) == ["b2", "b2_o4", "b2_o64", "b16_o4"]
    assert [schema.setting_words(one) for one in ("b2", "b2_o1", "b16_o4")] == [
        "batch 2",
        "batch 2, 1 token",
        "batch 16, 4 tokens",
    ]


def test_every_column_of_a_setting_is_described() -> None:
    described = column_attributes("trials", trials_schema([], ["b8_o16"]))["descriptions"]
    assert all(described[at_setting(name, "b8_o16")] for name in AT_A_SETTING)
    assert describe("trials", "tpot_ms_p50_at_b8_o16").startswith("At batch 8, 16 tokens: Time per output token")
