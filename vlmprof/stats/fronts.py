"""Which points no other point dominates, and the hypervolume that they dominate: exact, and fast for large tables.

Everything here takes costs: an array with a row a point and a column an objective, of which less is better. One point
dominates another when it is at least as good in every column and better in one; equal points do not dominate each
other. Two and three costs take O(n log n), whatever the points look like.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
Mask = NDArray[np.bool_]
_PAIRS_AT_A_TIME = 4_000_000
"""Comparisons of two points that are held at a time, to bound memory."""
_SCREENS = 16
"""Points that all others are compared with first."""


def non_dominated(costs: Costs) -> Mask:
    """Which points no other point dominates; equal points stay or go together.

    One and two costs: a sort and a running minimum. Three: divide and conquer over the order of the first cost (Kung,
    Luccio and Preparata 1975, J. ACM 22:469), level by level. More: each point against those that are kept, by rising
    sum, O(n m) for m points on the front.

    Raises:
        ValueError: a cost is not finite: NaN is neither better nor worse, and would evict good points.
    """
    bad = np.flatnonzero(~np.isfinite(costs).all(axis=1))
    if bad.size:
        raise ValueError(f"expected finite costs, rows {bad[:10].tolist()} of {bad.size} have others")
    if len(costs) == 0:
        return np.zeros(0, dtype=np.bool_)
    if costs.shape[1] == 1:
        return np.asarray(costs[:, 0] == costs[:, 0].min())
    if costs.shape[1] == 2:
        return _of_two(costs)
    stays = _screened(costs)
    candidates = np.flatnonzero(stays)
    order = candidates[_lexical_order(costs[candidates])]
    ordered = costs[order]
    first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    distinct = ordered[first]
    kept = _of_three(distinct) if costs.shape[1] == 3 else _of_many(distinct)
    stays[order] = kept[np.cumsum(first) - 1]
    return stays


def _screened(costs: Costs) -> Mask:
    """Without the points that a few good ones dominate, which is most of many tables: a cheap first pass."""
    stays = np.ones(len(costs), dtype=np.bool_)
    if len(costs) <= 10 * _SCREENS:
        return stays
    spread = costs.max(axis=0) - costs.min(axis=0)
    sums = (costs / np.where(spread > 0, spread, 1.0)).sum(axis=1)
    for i in np.argpartition(sums, _SCREENS)[:_SCREENS]:
        left = costs[stays]
        worse = np.logical_and.reduce([left[:, k] > costs[i, k] for k in range(costs.shape[1])])
        stays[stays] = ~worse
        if worse.mean() < 0.1:
            break  # the points lie along a front, and another pass would cost more than it saves
    return stays


def _lexical_order(costs: Costs) -> NDArray[np.int64]:
    """By the first cost, then the second and so on; a plain sort is three times as fast where no first costs tie."""
    order = np.argsort(costs[:, 0])
    ordered = costs[order, 0]
    return np.lexsort(costs.T[::-1]) if (ordered[1:] == ordered[:-1]).any() else order


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int32]:
    """Dense ranks from 0; equal values have equal ranks."""
    order = np.argsort(values)
    ordered = values[order]
    ranks = np.empty(len(values), dtype=np.int32)
    ranks[order] = np.concatenate([[0], np.cumsum(ordered[1:] != ordered[:-1])])
    return ranks


def _of_two(costs: Costs) -> Mask:
    stays = _screened(costs)
    candidates = np.flatnonzero(stays)
    order = candidates[_lexical_order(costs[candidates])]
    stays[order] = _staircase(costs[order, 0][None], costs[order, 1][None])[0]
    return stays


def _staircase(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> Mask:
    """Which points of each row stay: two costs in lexical order."""
    starts = np.ones(xs.shape, dtype=np.bool_)
    starts[:, 1:] = xs[:, 1:] != xs[:, :-1]
    # In a run of equal first costs the first place has the best second one; it has to beat all before the run.
    run = np.maximum.accumulate(np.where(starts, np.arange(xs.shape[1]), 0), axis=1)
    before = np.concatenate([np.full((len(xs), 1), np.inf), np.minimum.accumulate(ys, axis=1)[:, :-1]], axis=1)
    return np.asarray((ys == np.take_along_axis(ys, run, -1)) & (ys < np.take_along_axis(before, run, -1)))


def _of_three(costs: Costs) -> Mask:
    """For distinct points in lexical order: whoever dominates a point stands before it.

    At each level the points lie in segments, each half a block of the order of the first cost; within a segment they
    are in the order of the second cost. A point of the right half is dominated where the least third cost of the left
    half up to it is no larger. What is dominated goes at once: whoever dominates it dominates all that it does.
    """
    n = len(costs)
    alive = np.ones(n, dtype=np.bool_)
    # By the second cost, then by the order; the third as a rank, so that all that follows is in whole numbers.
    second = _ranks(costs[:, 1]).astype(np.int64) * n + np.arange(n)
    place = np.argsort(second)
    third = _ranks(costs[:, 2]).astype(np.int64)[place]
    for bit in range(max(1, (n - 1).bit_length()) - 1, -1, -1):
        half = place >> bit
        right = half & 1 == 1
        # Later segments lie lower as a whole, so that a running minimum starts again with each of them.
        level = third - (half >> 1) * (n + 1)
        beaten = right & (np.minimum.accumulate(np.where(right, n + 1, level)) <= level)
        if beaten.any():
            alive[place[beaten]] = False
            place, third, half = place[~beaten], third[~beaten], half[~beaten]
        # Sixteen bits have a sort in linear time.
        order = np.argsort(half.astype(np.uint16) if half.max() < 2**16 else half, kind="stable")
        place, third = place[order], third[order]
    return alive


def _of_many(costs: Costs) -> Mask:
    order = np.argsort(costs.sum(axis=1), kind="stable")
    stays = np.ones(len(costs), dtype=np.bool_)
    for i in order:
        if stays[i]:
            worse = (costs >= costs[i]).all(axis=1)
            worse[i] = False  # the points are distinct
            stays &= ~worse
    return stays


def members_of_draws(costs: NDArray[np.float64]) -> Mask:
    """Which points are on the front in each of many draws.

    Args:
        costs: (draws, points, objectives).

    Returns:
        (draws, points).
    """
    if costs.shape[2] == 1:
        return np.asarray(costs[:, :, 0] == costs[:, :, 0].min(axis=1, keepdims=True))
    if costs.shape[2] != 2:
        return np.stack([non_dominated(draw) for draw in costs])
    first, second = costs[:, :, 0], costs[:, :, 1]
    order = np.lexsort((second, first), axis=-1)
    kept = _staircase(np.take_along_axis(first, order, -1), np.take_along_axis(second, order, -1))
    stays = np.zeros(kept.shape, dtype=np.bool_)
    np.put_along_axis(stays, order, kept, -1)
    return stays


def domination_shares(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each point dominates each other one.

    Args:
        costs: (draws, points, objectives).

    Returns:
        (points, points): in which share of the draws the point of the row dominates that of the column.
    """
    points = costs.shape[1]
    counts = np.zeros((points, points), dtype=np.int64)
    size = max(1, _PAIRS_AT_A_TIME // points**2)
    for start in range(0, len(costs), size):
        part = costs[start : start + size]
        no_worse = np.ones((len(part), points, points), dtype=np.bool_)
        for column in np.moveaxis(part, 2, 0):
            no_worse &= column[:, :, None] <= column[:, None, :]
        equal = no_worse & no_worse.swapaxes(1, 2)
        counts += (no_worse & ~equal).sum(axis=0)
    return counts / len(costs)


def hypervolume(costs: Costs, reference: Costs) -> float:
    """The volume between the points and a reference point that none of them may exceed: what they dominate.

    Points beyond the reference in a cost add nothing. One and two costs: the sum of a staircase. Three: a sweep along
    the third cost over the staircase of the first two. More: slices along the last cost (While, Bradstreet and Barone
    2012, IEEE Trans. Evol. Comput. 16:86, describe it as HSO), exponential in the number of costs.
    """
    inside = costs[(costs < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if costs.shape[1] == 1:
        return float(reference[0] - inside.min())
    if costs.shape[1] == 2:
        return float(hypervolumes_of_draws(inside[None], reference)[0])
    inside = inside[non_dominated(inside)]
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    if costs.shape[1] == 3:
        return _volume_of_three(inside, reference)
    ends = np.append(inside[1:, -1], reference[-1])
    return float(
        sum(
            (end - point[-1]) * hypervolume(inside[: i + 1, :-1], reference[:-1])
            for i, (point, end) in enumerate(zip(inside, ends, strict=True))
            if end > point[-1]
        )
    )


def hypervolumes_of_draws(costs: NDArray[np.float64], reference: Costs) -> NDArray[np.float64]:
    """``hypervolume`` of each of many draws: (draws, points, objectives) -> (draws,)."""
    if costs.shape[2] != 2:
        return np.array([hypervolume(draw, reference) for draw in costs])
    clipped = np.minimum(costs, reference)
    order = np.argsort(clipped[:, :, 0], axis=1)
    xs = np.take_along_axis(clipped[:, :, 0], order, 1)
    best = np.minimum.accumulate(np.take_along_axis(clipped[:, :, 1], order, 1), axis=1)
    ends = np.concatenate([xs[:, 1:], np.full((len(xs), 1), reference[0])], axis=1)
    return np.asarray(((ends - xs) * (reference[1] - best)).sum(axis=1))


def _volume_of_three(costs: Costs, reference: Costs) -> float:
    """Of points by rising third cost: the area under the staircase of those so far, times how far it reaches."""
    xs, ys = [-np.inf, float(reference[0])], [float(reference[1]), -np.inf]
    volume = area = 0.0
    at = float(costs[0, 2])
    for x, y, z in costs.tolist():
        volume, at = volume + area * (z - at), z
        left = bisect_right(xs, x) - 1
        if ys[left] <= y:
            continue  # covered already
        right = bisect_left(xs, x)
        corner, above = x, ys[left]
        while ys[right] >= y:  # these are covered now
            area += (xs[right] - corner) * (above - y)
            corner, above = xs[right], ys[right]
            right += 1
        area += (xs[right] - corner) * (above - y)
        start = bisect_left(xs, x)
        xs[start:right], ys[start:right] = [x], [y]
    return volume + area * (float(reference[2]) - at)
