"""Which built-in knob acts on a surface, read off the knobs themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from vlmprof import registry


@cache
def knob_names() -> Mapping[type, str]:
    """Surface -> the built-in knob that needs it."""
    return MappingProxyType({registry.load("knobs", name).needs: name for name in registry.builtin("knobs")})
