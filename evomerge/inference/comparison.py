"""Is one model better than another? The paired test of two models' combined scores.

Under the hypothesis that they are equally good, who gave which answer to an item is a coin toss.
Sources are tossed whole, like in ``intervals``: all items made from one source change hands
together.

* One objective that is right or wrong, one item a source: McNemar's exact test.
* Else the labels of the sources are swapped, in all ways or at random 10,000 times; where the score
  is a sum, that is the sign-flip test on the sources' differences.

It needs values that are means or ratios of sums; of others (F1 over a corpus, ...) nothing is said.

Papers: McNemar 1947; Dwass, "Modified randomization tests for nonparametric hypotheses", 1957;
    Dror et al., "The Hitchhiker's Guide to Testing Statistical Significance in NLP", ACL 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge import seeds

FLIPS = 10_000
_CHUNK = 500  # draws at a time: memory

Array = NDArray[np.float64]
Aggregate = Callable[[Sequence[Any]], float]


@dataclass(frozen=True)
class Sums:
    """A value that is a ratio of sums: ``scale * sum(over) / sum(under)``, of items or of sources."""

    over: Array
    under: Array
    scale: float = 1.0

    @classmethod
    @np.errstate(divide="ignore", invalid="ignore")
    def of(cls, aggregate: Aggregate, values: Sequence[Any]) -> Sums | None:
        """Of the mean of numbers, or of pairs like nats and bytes; None if the metric is neither.

        Args:
            aggregate: the metric of some of the values.
            values: per item; None (no value) counts nowhere.
        """
        known = [value for value in values if value is not None]
        try:
            table = np.array(known)
        except ValueError:  # of several shapes
            return None
        if table.dtype.kind not in "biuf":
            return None
        table, scale = table.astype(np.float64), 1.0
        if table.ndim == 1 and known:
            over, under = table, np.ones(len(table))
        elif table.ndim == 2 and table.shape[1] == 2 and len(table) > 1:
            over, under = table.T
            if ratio := over.sum() / under.sum():
                scale = float(aggregate(known) / ratio)
        else:
            return None
        # what holds for all and for a part of them is no accident
        for part in (len(known), (len(known) + 1) // 2):
            ratio = scale * over[:part].sum() / under[:part].sum()
            if not math.isclose(aggregate(known[:part]), ratio, abs_tol=1e-12):
                return None
        found = np.zeros((2, len(values)))
        found[:, [value is not None for value in values]] = over, under
        return cls(found[0], found[1], scale)

    def by(self, sources: NDArray[np.int64], count: int) -> Sums:
        """Sums over the items of each source; ``sources`` are numbers below ``count``, per item."""
        over, under = (
            np.bincount(sources, part, count).astype(np.float64) for part in (self.over, self.under)
        )
        return Sums(over, under, self.scale)


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p value of ``wins`` against ``losses`` among items that two models differ in."""
    tail = sum(math.comb(wins + losses, k) for k in range(min(wins, losses) + 1))
    return float(min(1.0, 2 * tail / 2 ** (wins + losses)))


def swap_labels(
    ours: Sequence[Sums],
    theirs: Sequence[Sums],
    difference: Callable[[Array, Array], Array],
    *key: seeds.Part,
    draws: int = FLIPS,
) -> float:
    """Two-sided p value of a difference of two scores, by swaps of the sources' labels.

    By all of them if there are no more than ``draws``, else by so many random ones, the one that was
    observed besides.

    Args:
        ours, theirs: one entry an objective, over the same sources.
        difference: of our score and theirs, from the objectives' values ``[draws, objectives]``.
        key: names the draws.
        draws: number of random swaps; the smallest p value is 1 / (draws + 1).
    """
    sources = len(ours[0].over)
    every = 2**sources if sources < draws.bit_length() else 0
    observed = abs(difference(_values(ours), _values(theirs))[0])
    atleast = 0
    for chunk in range(0, every or draws, _CHUNK):
        count = min(_CHUNK, (every or draws) - chunk)
        if every:
            toss = (np.arange(chunk, chunk + count)[:, None] >> np.arange(sources) & 1).astype(bool)
        else:
            toss = seeds.uniforms(count * sources, *key, chunk).reshape(count, sources) < 0.5
        swapped = np.abs(difference(_values(ours, theirs, toss), _values(theirs, ours, toss)))
        atleast += int((swapped >= observed * (1 - 1e-9) - 1e-12).sum())
    return atleast / every if every else (1 + atleast) / (1 + draws)


def _values(
    own: Sequence[Sums], other: Sequence[Sums] = (), toss: NDArray[np.bool_] | None = None
) -> Array:
    """``[draws, objectives]``: values where the sources that ``toss`` says have other answers."""
    if toss is None:
        return np.array([[a.scale * a.over.sum() / a.under.sum() for a in own]])
    swapped = toss.astype(np.float64)
    return np.stack(
        [
            mine.scale
            * (mine.over.sum() + swapped @ (theirs.over - mine.over))
            / (mine.under.sum() + swapped @ (theirs.under - mine.under))
            for mine, theirs in zip(own, other, strict=True)
        ],
        axis=1,
    )
