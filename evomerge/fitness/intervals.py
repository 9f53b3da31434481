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

Few sources vary less among themselves than the world does, and tell their own spread badly; so the
percentiles are those of Student's t (the expanded percentile interval). A share that every source
agrees on has no spread at all: its draws are those of the share that there may be, given so many
that agree.

Papers: Hesterberg, "What Teachers Should Know about the Bootstrap", https://arxiv.org/abs/1411.5279
    (expanded percentiles); Clopper & Pearson 1934 (shares); Miller, "Adding Error Bars to Evals",
    https://arxiv.org/abs/2411.00640 (clusters).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evomerge import seeds

NORMAL = 1.959964  # standard errors that a 95 percent interval reaches to either side
LEAST = 5  # sources: fewer lie on one side of the truth too often, whatever is made of them
MOST_UNDEFINED = 0.04  # share of draws that may have no item to compute from


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

    Attributes:
        value: on the items themselves.
        draws: shape ``[draws]``; NaN where a resample holds no item to compute it from.
        sources: how many the resamples draw from; infinite if the draws are no resamples.
    """

    value: float
    draws: NDArray[np.float64]
    sources: float

    @classmethod
    def unanimous(cls, value: float, sources: int, draws: int, *key: seeds.Part) -> Estimate:
        """A share, 0 or 1, on which all ``sources`` agree.

            theta = U^(1/n) or 1 - U^(1/n),  U uniform:  theta ~ Beta(n, 1) or Beta(1, n)

        The quantiles of theta are the exact (Clopper-Pearson) bounds.
        """
        # evenly spaced, in random order: the bounds are exact however few the draws
        order = np.argsort(seeds.uniforms(draws, *key), kind="stable")
        slack = 1 - ((order + 0.5) / draws) ** (1 / sources)
        return cls(value, 1 - slack if value else slack, math.inf)

    def interval(self, level: float = 0.95) -> Interval:
        """The interval that covers the truth with probability ``level``; it holds the value.

        Expanded percentiles: with n sources, those of ``Phi(-+ sqrt(n / (n - 1)) t)``, t the two-sided
        quantile of Student's t of n - 1 degrees.
        """
        defined = self.draws[~np.isnan(self.draws)]
        if self.sources < LEAST or len(defined) < (1 - MOST_UNDEFINED) * len(self.draws):
            return Interval(self.value, -math.inf, math.inf)
        tail = _tail(self.sources, level)
        low, high = np.quantile(defined, [tail, 1 - tail])
        return Interval(self.value, min(float(low), self.value), max(float(high), self.value))


@cache
def _tail(sources: float, level: float) -> float:
    """The part of the draws to cut off at either end."""
    if math.isinf(sources):
        return (1 - level) / 2
    reach = math.sqrt(sources / (sources - 1)) * student(sources - 1, level)
    return NormalDist().cdf(-reach)


def student(degrees: float, level: float) -> float:
    """Student's t with ``P(|T| <= t) = level``: T is sqrt(d) tan(A), A of density cos(A)^(d-1)."""
    ends = np.linspace(0, math.pi / 2, 100_001)
    below = np.cumsum(np.cos((ends[1:] + ends[:-1]) / 2) ** (degrees - 1))
    return math.sqrt(degrees) * math.tan(np.interp(level * below[-1], below, ends[1:]))


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
        draws = np.where(np.isfinite(draws), draws, np.nan)
        return Estimate(float(value), draws, len(set(sources)))

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
        return Estimate(float(function(items)), draws, len(set(sources)))

    def _columns(self, sources: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self.column[source] for source in sources], np.int64)


def combine(function: Callable[..., float], *estimates: Estimate) -> Estimate:
    """``function`` of estimates over the same resamples, draw by draw.

    Undefined where any of them is. It counts as made from as few sources as any of them.
    """
    value = float(function(*(estimate.value for estimate in estimates)))
    table = np.stack([estimate.draws for estimate in estimates], axis=1)
    draws = np.full(len(table), np.nan)
    for draw in np.flatnonzero(~np.isnan(table).any(axis=1)):
        draws[draw] = function(*table[draw].tolist())
    return Estimate(value, draws, min(estimate.sources for estimate in estimates))
