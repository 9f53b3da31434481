"""Who finds the best of given candidates with the fewest answers: policies on the frozen matrix (tier T3).

No model runs: every candidate's answer to every item is known. A policy gets candidates and a budget of answers, and names
one of them; the truth is its mean over all items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from evomerge import estimators, seeds
from evomerge.estimators import Sample
from evomerge.testing.matrix import Indices, Matrix

FROZEN = Path(__file__).parents[2] / "golden" / "matrix.npz"
CANDIDATES = 48  # of a draw
SHORTLIST = 6
ESTIMATOR = "regression"

Chosen = tuple[int, float]  # candidate, claimed score
Policy = Callable[[Matrix, Indices, int, int], Chosen]


@cache
def frozen(path: Path = FROZEN) -> Matrix:
    return Matrix.load(path)


def draw(matrix: Matrix, seed: int) -> Indices:
    """The candidates of a seed."""
    order = seeds.generator("replay", seed).permutation(len(matrix.truth))
    found: Indices = order[:CANDIDATES]
    return found


def _items(matrix: Matrix, seed: int) -> Indices:
    """All items in an order of the seed's: a sample is its beginning."""
    found: Indices = seeds.generator("replay", seed, "items").permutation(matrix.responses.shape[1])
    return found


def observed(matrix: Matrix, rows: Indices, seed: int, budget: int) -> Chosen:
    """The same items for all, the best mean."""
    items = _items(matrix, seed)[: max(1, budget // len(rows))]
    means = matrix.responses[np.ix_(rows, items)].mean(1)
    return int(rows[means.argmax()]), float(means.max())


def halving(matrix: Matrix, rows: Indices, seed: int, budget: int) -> Chosen:
    """The better half gets as many answers again as it all got before, until one is left; nested items."""
    order, rounds = _items(matrix, seed), int(np.ceil(np.log2(len(rows))))
    count, means = 0, np.zeros(len(rows))
    while True:
        count = min(count + max(1, budget // rounds // len(rows)), len(order))
        means = matrix.responses[np.ix_(rows, order[:count])].mean(1)
        if len(rows) == 1:
            return int(rows[0]), float(means[0])
        kept = np.argsort(-means, kind="stable")[: len(rows) // 2]
        if len(kept) == 1:
            return int(rows[kept[0]]), float(means[kept[0]])
        rows = rows[kept]


def shortlist(matrix: Matrix, rows: Indices, seed: int, budget: int) -> Chosen:
    """As evomerge: half of the budget on all by the estimator, half on the best few on fresh items by their mean."""
    items = _items(matrix, seed)
    first = items[: max(2, budget // 2 // len(rows))]
    sample = Sample(
        first, matrix.responses[np.ix_(rows, first)], matrix.margins[np.ix_(rows, first)]
    )
    values = _fitted().estimate_many(sample).values
    best = rows[np.argsort(-np.asarray(values), kind="stable")[:SHORTLIST]]
    fresh = items[len(first) :][: max(1, budget // 2 // len(best))]
    means = matrix.responses[np.ix_(best, fresh)].mean(1)
    return int(best[means.argmax()]), float(means.max())


@cache
def _fitted() -> estimators.Fitted:
    return estimators.get(ESTIMATOR).fit(frozen().known)


POLICIES: Mapping[str, Policy] = {
    "best observed": observed,
    "halving": halving,
    "estimator, shortlist": shortlist,
}
