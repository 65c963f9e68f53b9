"""The x axis of a panel about one knob: where its values stand, how they are written, whether a line may join them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import pandas as pd
from matplotlib.axes import Axes

from vlmprof.plots import _style

Tick = tuple[float, str]
"""Position and label of a value."""
LETTER_INCHES = 0.07
"""Width of a letter of a tick label."""
HAS_NUMBER = re.compile(r"(?:^|[ ,])\d")
"""Matches labels of values on a scale, but not names of kernels or dtypes that contain digits."""
LOGARITHMIC_FROM = 16.0
"""A knob whose values span this factor is drawn on a logarithmic axis."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KnobAxis:
    """The values of one knob in a panel."""

    at: Mapping[str, float]
    """Label of a value, as in the tables -> its position."""
    logarithmic: bool
    ordered: bool
    """Whether the values are on a scale; words and lists of equal length are not, and no line joins them."""

    @classmethod
    def of(cls, values: pd.DataFrame) -> KnobAxis:
        """The axis of values with their number in ``axis`` and their ``label``, each once, by number."""
        ordered = values["axis"].is_unique and all(HAS_NUMBER.search(label) for label in values["label"])
        labels = list(values["label"]) if ordered else sorted(values["label"], key=_numbers)
        positions = [float(x) for x in values["axis"]] if ordered else [float(i) for i in range(len(labels))]
        return cls(
            at=dict(zip(labels, positions, strict=True)),
            logarithmic=positions[0] > 0 and positions[-1] >= LOGARITHMIC_FROM * positions[0],
            ordered=ordered,
        )

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """Position and label of each value."""
        return tuple((x, _style.short(label)) for label, x in self.at.items())


def write_axis(axes: Axes, ticks: Sequence[Tick], *, logarithmic: bool, upright: bool, name: str) -> None:
    """Write the ticks, and below them the name of the knob; without a name the labels are left out too."""
    if logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks([x for x, _ in ticks], [label for _, label in ticks], rotation=90 if upright else 0)
    if name:
        axes.set_xlabel(name)
    else:
        axes.tick_params(labelbottom=False)


def tick_inches(panels: Iterable[Sequence[Tick]], columns: int) -> float:
    """Height in inches of vertical tick labels; 0 if the labels of all panels fit horizontally, in so many columns."""
    available_inches = (_style.WIDTH_INCHES - 0.7) / columns
    labels = [[label for _, label in ticks] for ticks in panels]
    widths = [sum(len(label) + 1.5 for label in of_panel) * LETTER_INCHES for of_panel in labels]
    longest = max(len(label) for of_panel in labels for label in of_panel)
    return longest * LETTER_INCHES if max(widths) > available_inches else 0.0


def _numbers(label: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", label)))
