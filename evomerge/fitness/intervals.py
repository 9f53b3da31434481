"""Bootstrap intervals of scores, paired between candidates.

What is resampled are *sources*: an item and its siblings (translations, paraphrases) are drawn
together, over all tasks at once. The same draws serve every objective of every candidate and
reference, so that a combined score, or the difference of two candidates, keeps the pairing that
makes it precise.

    resamples = Resamples.of([*sources_th, *sources_id], 1000, seed, "report")
    th = resamples.mean(correct_th, sources_th)                  # an Estimate: value and draws
    bits = resamples.ratio(nats, bytes_, sources_id)
    total = combine(lambda a, b: 0.5 * a - 0.5 * b, th, bits)    # any function of estimates
    total.interval()                                             # 0.78 [0.74, 0.81]
    combine(operator.sub, total, other).interval()               # the paired difference

Papers: Efron & Tibshirani, "An Introduction to the Bootstrap", ch. 13 (percentile intervals);
    Miller, "Adding Error Bars to Evals", https://arxiv.org/abs/2411.00640 (clusters).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evomerge import seeds

# If more draws than this leave an estimate undefined (a task without items), it rests on three
# sources or fewer, and the bootstrap has nothing to say about it.
MOST_UNDEFINED = 0.04


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its confidence interval; infinite bounds: nothing is known."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.low) or math.isinf(self.high):
            return f"{self.value:.2f} [too few items]"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Estimate:
    """A number computed from items, and the same number on every resample.

    ``draws`` has shape ``[draws]``; NaN where a resample holds no item to compute it from.
    ``unanimous`` is the number of sources of a share that all of them agree on, 0 or 1: resamples of
    it know nothing of the others.
    """

    value: float
    draws: NDArray[np.float64]
    unanimous: int = 0

    def interval(self, level: float = 0.95) -> Interval:
        """The percentile interval that covers the truth with probability ``level``.

        Of a unanimous share it is the exact (Clopper-Pearson) one.
        """
        if self.unanimous:
            slack = 1 - ((1 - level) / 2) ** (1 / self.unanimous)
            return Interval(self.value, *((1 - slack, 1.0) if self.value else (0.0, slack)))
        defined = self.draws[~np.isnan(self.draws)]
        if len(defined) < (1 - MOST_UNDEFINED) * len(self.draws):
            return Interval(self.value, -math.inf, math.inf)
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
        return Interval(self.value, float(low), float(high))


@dataclass(frozen=True)
class Resamples:
    """Bootstrap draws of sources; ``counts[d, s]`` is how often draw ``d`` holds source ``s``."""

    column: Mapping[str, int]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, sources: Iterable[str], draws: int, *key: seeds.Part) -> Resamples:
        """``draws`` resamples of the distinct ``sources``, keyed by ``key``.

        Their order does not matter. A single source has no spread: its draws are all empty, and
        intervals infinite.
        """
        distinct = sorted(set(sources))
        column = {source: index for index, source in enumerate(distinct)}
        size = len(distinct)
        if size < 2:
            return cls(column, np.zeros((draws, size)))
        uniform = seeds.uniforms(draws * size, *key).reshape(draws, size).astype(np.float64)
        chosen = (uniform * size).astype(np.int64) + size * np.arange(draws)[:, None]
        counts = np.bincount(chosen.ravel(), minlength=draws * size).reshape(draws, size)
        return cls(column, counts.astype(np.float64))

    def mean(self, values: ArrayLike, sources: Sequence[str]) -> Estimate:
        """The mean of per-item ``values``; ``sources`` names each item's source."""
        return self.ratio(values, np.ones(len(sources)), sources)

    def ratio(self, over: ArrayLike, under: ArrayLike, sources: Sequence[str]) -> Estimate:
        """``sum(over) / sum(under)`` of per-item numbers: bits per byte, a micro average."""
        columns = self._columns(sources)
        size = len(self.column)
        over, under = np.asarray(over, np.float64), np.asarray(under, np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = np.sum(over) / np.sum(under)
            tops = self.counts @ np.bincount(columns, over, size)
            draws = tops / (self.counts @ np.bincount(columns, under, size))
        return Estimate(float(value), np.where(np.isfinite(draws), draws, np.nan))

    def statistic(
        self, function: Callable[[NDArray[np.int64]], float], sources: Sequence[str]
    ) -> Estimate:
        """Any ``function`` of an array of item indices, repeats included; called once a draw."""
        columns = self._columns(sources)
        items = np.arange(len(columns))
        draws = np.full(len(self.counts), np.nan)
        for draw, counts in enumerate(self.counts):
            if (repeats := counts[columns].astype(np.int64)).any():
                draws[draw] = function(np.repeat(items, repeats))
        return Estimate(float(function(items)), draws)

    def _columns(self, sources: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self.column[source] for source in sources], np.int64)


def combine(function: Callable[..., float], *estimates: Estimate) -> Estimate:
    """``function`` of estimates over the same resamples, draw by draw.

    Undefined where any of them is.
    """
    value = float(function(*(estimate.value for estimate in estimates)))
    table = np.stack([estimate.draws for estimate in estimates], axis=1)
    draws = np.full(len(table), np.nan)
    for draw in np.flatnonzero(~np.isnan(table).any(axis=1)):
        draws[draw] = function(*table[draw].tolist())
    return Estimate(value, draws)
