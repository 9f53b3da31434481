"""Which genes mattered: what a fit of scores on genes loses when one gene is shuffled.

    y = a + sum_i (b_i x_i + c_i x_i^2) + e,   (b, c) by ridge regression

(of a gene that has few values, as a choice of methods, a level of its own for each) is fitted to bootstrap
resamples of the candidates, and judged on the candidates that a resample left out:

    importance_i = (error with gene i shuffled - error) / (2 variance of the scores)

which is the share of the variance that the gene explains, where it acts by itself.

A gene that moves nothing has an importance around zero, below it as often as above: there is no bias towards
mattering. How much the fit explains of unseen candidates says whether any of it means something. Genes that
went together in a search, as the later ones of an evolution do, share what they did in a way no fit can part.

Papers: Breiman, "Random Forests", 2001 (permutation importance); Fisher, Rudin & Dominici, "All Models are
    Wrong, but Many are Useful", https://arxiv.org/abs/1801.01489.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge import seeds
from evomerge.inference.intervals import Interval

LEAST = 20  # candidates from which something may be learned
DRAWS, FEWER = 200, 50  # resamples; of what takes long, fewer
_LARGE = 100_000  # candidates times genes, from where on it does
_LEVELS = 6  # values of a gene, up to which each has a level of its own
_PENALTIES = np.logspace(-3, 4, 15)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """See the module's text.

    Attributes:
        genes: an interval each; the value is the mean over resamples.
        explained: of the variance of scores of candidates left out; at most 1, below 0 if the fit is worse
            than their mean.
        count: candidates.
    """

    genes: tuple[Interval, ...]
    explained: Interval
    count: int


def importance(
    genomes: Sequence[Sequence[float]], scores: Sequence[float], *key: seeds.Part
) -> Importance | None:
    """How much each gene mattered for ``scores``.

    Args:
        genomes: ``[candidates, genes]``, in [0, 1].
        scores: ``[candidates]``.
        key: names the draws.

    Returns:
        None of fewer than ``LEAST`` candidates, or where all scores are alike.
    """
    x, y = np.array(genomes, np.float64), np.array(scores, np.float64)
    count = len(y)
    if count < LEAST or x.ndim != 2 or np.ptp(y) <= 1e-12:
        return None
    genes, draws = x.shape[1], DRAWS if x.size < _LARGE else FEWER
    features, first = _features(x)
    penalty = _penalty(features, y)
    losses, explained = np.full((draws, genes), np.nan), np.full(draws, np.nan)
    uniform = seeds.uniforms(2 * draws * count, *key, "importance").reshape(2, draws, count)
    for draw in range(draws):
        chosen = np.minimum((uniform[0, draw] * count).astype(np.int64), count - 1)
        left = np.setdiff1d(np.arange(count), chosen)
        spread = y[left].var() if len(left) > 2 else 0.0
        if spread <= 1e-18:
            continue
        middle = y[chosen].mean()
        weights = _ridge(features[chosen], y[chosen] - middle, penalty)
        off = y[left] - middle - features[left] @ weights
        explained[draw] = 1 - (off**2).mean() / spread
        order = left[np.argsort(uniform[1, draw, left], kind="stable")]
        own = np.add.reduceat(features * weights, first, axis=1)  # what each gene adds
        moved = off[:, None] + own[left] - own[order]
        losses[draw] = ((moved**2).mean(axis=0) - (off**2).mean()) / (2 * spread)
    if np.isnan(explained).all():
        return None
    return Importance(
        tuple(_interval(losses[:, gene]) for gene in range(genes)), _interval(explained), count
    )


def _features(x: Array) -> tuple[Array, NDArray[np.int64]]:
    """Standardised features ``[candidates, features]``, and the first of each gene."""
    columns, first = list[Array](), list[int]()
    for own in x.T:
        first.append(len(columns))
        values = np.unique(own)
        if len(values) <= _LEVELS:
            columns += [(own == value).astype(np.float64) for value in values]
        else:
            columns += [own, (own - own.mean()) ** 2]
    table = np.stack(columns, axis=1)
    spread = table.std(axis=0)
    return (table - table.mean(axis=0)) / np.where(spread > 1e-9, spread, 1), np.array(first)


def _interval(draws: Array) -> Interval:
    known = draws[~np.isnan(draws)]
    value = float(known.mean())
    low, high = (float(bound) for bound in np.quantile(known, [0.025, 0.975]))
    return Interval(value, min(low, value), max(high, value))


def _ridge(features: Array, y: Array, penalty: float) -> Array:
    """``[features]``; by the dual where there are fewer candidates than features."""
    count, width = features.shape
    if count < width:
        inner = features @ features.T + penalty * np.eye(count)
        return np.asarray(features.T @ np.linalg.solve(inner, y))
    inner = features.T @ features + penalty * np.eye(width)
    return np.asarray(np.linalg.solve(inner, features.T @ y))


def _penalty(features: Array, y: Array) -> float:
    """The penalty of the least error where each candidate is left out (in closed form)."""
    centred = y - y.mean()
    left, sizes, _ = np.linalg.svd(features, full_matrices=False)
    best, least = float(_PENALTIES[-1]), np.inf
    for penalty in _PENALTIES:
        kept = sizes**2 / (sizes**2 + penalty)
        fitted = (left * kept) @ (left.T @ centred)
        hat = (left**2) @ kept + 1 / len(y)
        error = float((((centred - fitted) / np.maximum(1 - hat, 1e-6)) ** 2).mean())
        if error < least:
            best, least = float(penalty), error
    return best
