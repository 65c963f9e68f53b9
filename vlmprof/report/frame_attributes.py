"""What the frames of the Python API carry in ``attrs``: units, directions, intervals and descriptions of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def with_attributes(frame: pd.DataFrame, attrs: Mapping[str, Any]) -> pd.DataFrame:
    """Set the frame's ``attrs``, without the Arrow schema: pandas could not write that to a file with the frame."""
    frame.attrs = {name: value for name, value in attrs.items()}
    return frame


def attributes_of_front(frame: pd.DataFrame) -> dict[str, Any]:
    """The ``attrs`` of a front as plain values, in place of the objects that ``analyze`` keeps there."""
    from vlmprof.analyze.caveats import cautions
    from vlmprof.analyze.comparability import groups
    from vlmprof.analyze.front_doubt import MEANINGS, said_of_doubt
    from vlmprof.store.descriptions import column_attributes
    from vlmprof.store.tables import schema_of

    attrs = column_attributes("trials", schema_of(frame))
    attrs["descriptions"]["group"] = "Name of the group of comparable trials: equal in model, data, device and timing."
    attrs["descriptions"]["on_front"] = (
        "Whether no other trial of the group is at least as good in all objectives and better in one."
    )
    attrs["objectives"] = [objective.column for objective in frame.attrs["objectives"]]
    attrs["left_out"] = dict(frame.attrs["left_out"])
    attrs["beware"] = [f"{name}: {sentence}" for name, part in groups(frame) for sentence in cautions(part)]
    attrs["beware"] += list(frame.attrs["mixed"])
    rests_on, caveats = said_of_doubt(frame)
    attrs |= {"doubt": rests_on} if rests_on else {}
    attrs["beware"] += caveats
    attrs["descriptions"] |= {name: meaning for name, meaning in MEANINGS.items() if name in frame}
    return attrs


def attributes_of_list(columns: Sequence[str]) -> dict[str, Any]:
    """The ``attrs`` of a list of trials, which has these columns of ``trials``."""
    from vlmprof.store.descriptions import column_attributes
    from vlmprof.store.schema import schema_of_row

    attrs = column_attributes("trials", schema_of_row(columns))
    attrs = {key: {name: by_column[name] for name in columns if name in by_column} for key, by_column in attrs.items()}
    attrs["units"]["vision_tokens_predicted"] = "tokens"
    attrs["descriptions"]["vision_tokens_predicted"] = "Mean vision tokens per sample, from image sizes alone."
    attrs["descriptions"]["state"] = "The last state in the ledger; missing if the ledger has none."
    return attrs
