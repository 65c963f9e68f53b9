"""How well a predictor tells samples of two kinds apart: the area under its ROC curve, and two simple predictors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from vlmprof.stats.adaptive_choice import folds_of
from vlmprof.stats.distributions import student_quantile
from vlmprof.stats.intervals import MeanInterval

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]
Mask = NDArray[np.bool_]
PRIOR = 5.0
"""Samples of the overall rate that are added to each group."""
RIDGE = 1.0
_STEPS = 50


def auc(scores: Numbers, positive: Mask, clusters: Places) -> MeanInterval | None:
    """The area under the ROC curve, and its 95 % interval where samples of one cluster may depend on each other.

    The area is the share of pairs of a positive and another sample in which the positive one has the higher score, ties
    counting half. Its variance is that of sums over clusters of what each sample adds (Obuchowski 1997, Biometrics
    53:567, after DeLong, DeLong and Clarke-Pearson 1988), on the scale of its logit, where the interval stays within 0
    to 1 (Pepe 2003, The Statistical Evaluation of Medical Tests, 5.2).

    Returns:
        None where all samples are of one kind, or of one cluster.
    """
    positives, others = int(positive.sum()), int((~positive).sum())
    names, members = np.unique(clusters, return_inverse=True)
    if not positives or not others or len(names) < 2:
        return None
    ranks = rankdata(scores)
    area = (float(ranks[positive].sum()) - positives * (positives + 1) / 2) / (positives * others)
    added = np.empty(len(scores))
    added[positive] = (ranks[positive] - rankdata(scores[positive])) / others - area
    added[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / positives - area
    sums = np.bincount(members, weights=added / np.where(positive, positives, others))
    variance = len(names) / (len(names) - 1) * float(sums @ sums)
    inside = min(max(area, 0.5 / (positives * others + 1)), 1 - 0.5 / (positives * others + 1))
    # A perfect separation has no variance: at least that of one sample on the wrong side.
    error = max(variance**0.5, 1 / (2 * min(positives, others) * len(names))) / (inside * (1 - inside))
    half = student_quantile(0.95, len(names) - 1) * error
    low, high = (float(expit(np.log(inside / (1 - inside)) + sign * half)) for sign in (-1, 1))
    return MeanInterval(mean=area, low=min(low, area), high=max(high, area))


def crossed_predictions(
    positive: Mask, clusters: Places, fit: Callable[[Places, Places], Numbers], folds: int = 5
) -> Numbers:
    """(samples,): predictions for each fold of clusters, learned on the others.

    Args:
        positive: What is predicted.
        clusters: Whole ones lie in one fold.
        fit: (samples to learn from, samples to predict) -> predictions of the latter.
        folds: How many.
    """
    of_fold = folds_of(clusters, folds)
    found = np.zeros(len(positive))
    for fold in np.unique(of_fold):
        ask = np.flatnonzero(of_fold == fold)
        found[ask] = fit(np.flatnonzero(of_fold != fold), ask)
    return found


def group_rates(groups: Sequence[str], positive: Mask, learn: Places, ask: Places) -> Numbers:
    """The share of positives of each sample's group, drawn to the share of all as by ``PRIOR`` more samples of it."""
    labels = np.array(list(groups), dtype=object)
    overall = float(positive[learn].mean())
    rates: dict[str, float] = {}
    for name in set(labels[learn]):
        of_group = positive[learn][labels[learn] == name]
        rates[name] = (float(of_group.sum()) + PRIOR * overall) / (len(of_group) + PRIOR)
    return np.array([rates.get(name, overall) for name in labels[ask]])


def logistic(features: Numbers, positive: Mask, learn: Places, ask: Places) -> Numbers:
    """Predictions of a logistic regression on standardised features with a ridge penalty, by Newton's method.

    Args:
        features: (samples, features), finite.
        positive: (samples,)
        learn: Samples that it is fitted to.
        ask: Samples whose probability is returned.
    """
    centre, spread = features[learn].mean(axis=0), features[learn].std(axis=0)
    scaled = (features - centre) / np.where(spread > 0, spread, 1.0)
    design = np.column_stack([np.ones(len(scaled)), scaled])
    penalty = RIDGE * np.eye(design.shape[1])
    penalty[0, 0] = 1e-3  # keeps the intercept finite where all are of one kind
    weights = np.zeros(design.shape[1])
    part, target = design[learn], positive[learn].astype(np.float64)
    for _ in range(_STEPS):
        chance = expit(part @ weights)
        slope = part.T @ (chance - target) + penalty @ weights
        curvature = (part * (chance * (1 - chance))[:, None]).T @ part + penalty
        step = np.linalg.solve(curvature, slope)
        weights = weights - step * min(1.0, 5.0 / max(1e-9, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(expit(design[ask] @ weights))
