"""Small spaces to search."""

from hypothesis import strategies as st

SPACES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.lists(st.integers(), min_size=1, max_size=4, unique=True), min_size=1
)
"""Knobs by letters and their values by numbers."""
