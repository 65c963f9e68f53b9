"""What a reader of a group of trials must be told beside its numbers. Every report and figure says these sentences."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd


def cautions(part: pd.DataFrame) -> Iterator[str]:
    """A sentence for each thing that makes these trials' numbers mean less, or something else, than they seem to.

    Args:
        part: Trials that are compared, as rows of the ``trials`` table.
    """
    flipping = int((part["flip_rate"] > part["flip_rate_allowed"]).sum())
    if flipping:
        yield f"in {flipping} of {len(part)} the batch size changed more answers than allowed (see flip_rate)"
    for left_out in sorted(part["decoding_left_out"].dropna().unique()) if "decoding_left_out" in part else ():
        yield f"decoded greedily, without the checkpoint's own {left_out}"
