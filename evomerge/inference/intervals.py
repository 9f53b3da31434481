"""Bootstrap intervals of scores, paired between candidates.

What is resampled are *sources*: an item and its siblings (translations, paraphrases) are drawn
together, over all tasks at once. The same draws serve every objective of every candidate and
reference, so that a combined score, or the difference of two candidates, keeps the pairing that
makes it precise.

    resamples = Resamples.of([*sources_th, *sources_id], 1000, seed, "report")
    th = resamples.share(correct_th, sources_th, "th")           # an Resampled: value and draws
    bits = resamples.ratio(nats, bytes_, sources_id)
    total = jointly(lambda a, b: 0.5 * a - 0.5 * b, th, bits)    # any function of estimates
    total.interval()                                             # 0.78 [0.74, 0.81]
    jointly(operator.sub, total, other).interval()               # the paired difference

Few sources vary less among themselves than the world does, and tell their own spread badly; so the
percentiles are those of Student's t (the expanded percentile interval). A share that all sources
agree on has no spread at all: its draws are shares that there may be, given so many that agree.

Papers: Hesterberg, "What Teachers Should Know about the Bootstrap", https://arxiv.org/abs/1411.5279
    (expanded percentiles); Clopper & Pearson 1934 (shares); Miller, "Adding Error Bars to Evals",
    https://arxiv.org/abs/2411.00640 (clusters).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evomerge import seeds

NORMAL = 1.959964  # standard errors that a 95 percent interval reaches to either side
LEAST = 5  # sources: fewer lie on one side of the truth too often, whatever is made of them
MOST_UNDEFINED = 0.04  # share of draws that may have no item to compute from


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its confidence interval; infinite ones if nothing is known: ``why``."""

    value: float
    low: float
    high: float
    why: str = ""

    @classmethod
    def unknown(cls, value: float, why: str) -> Interval:
        return cls(value, -math.inf, math.inf, why)

    @classmethod
    def around(cls, value: float, error: float | None) -> Interval:
        """The 95 percent interval of a value with a standard error; None: it is not known."""
        if error is None:
            return cls.unknown(value, "error unknown")
        return cls(value, value - NORMAL * error, value + NORMAL * error)

    def within(self, low: float, high: float) -> Interval:
        """For showing: cut to what is possible. Whether it is exact is to be asked before."""
        if self.why:
            return replace(self, value=min(max(self.value, low), high))
        value, below, above = (min(max(n, low), high) for n in (self.value, self.low, self.high))
        return Interval(value, below, above)

    @property
    def turned(self) -> Interval:
        """Of the negative value: what is lost becomes what is gained."""
        return Interval(-self.value, -self.high, -self.low, self.why)

    @property
    def plain(self) -> dict[str, Any]:
        """``value``, ``low`` and ``high`` for JSON; unknown bounds are None, and ``why`` says why."""
        if self.why:
            return {"value": self.value, "low": None, "high": None, "why": self.why}
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.why or f'{self.low:.2f}, {self.high:.2f}'}]"


@dataclass(frozen=True)
class Resampled:
    """A number computed from items, and the same number on every resample.

    Attributes:
        value: on the items themselves.
        draws: shape ``[draws]``; NaN where a resample holds no item to compute it from.
        sources: how many the resamples draw from.
        share: of a share of ones among zeros and ones, how many sources it has; else 0.
    """

    value: float
    draws: NDArray[np.float64]
    sources: int
    share: int = 0

    def interval(self, level: float = 0.95) -> Interval:
        """The interval that covers the truth with probability ``level``; it holds the value.

        Expanded percentiles: with n sources, those of ``Phi(-+ sqrt(n / (n - 1)) t)``, t the two-sided
        quantile of Student's t of n - 1 degrees. No share is known better than one that all sources
        agree on. Draws that are all alike say nothing.
        """
        defined = self.draws[~np.isnan(self.draws)]
        if self.sources < LEAST or len(defined) < (1 - MOST_UNDEFINED) * len(self.draws):
            return Interval.unknown(self.value, "too few sources")
        if np.ptp(defined) <= 1e-12 * max(1.0, abs(self.value)):  # rounding is no spread
            return Interval.unknown(self.value, "no spread")
        tail = NormalDist().cdf(-_reach(self.sources, level))
        low, high = (float(bound) for bound in np.quantile(defined, [tail, 1 - tail]))
        if self.share:
            agreed = ((1 - level) / 2) ** (1 / self.share)
            low, high = min(low, agreed), max(high, 1 - agreed)
        return Interval(self.value, min(low, self.value), max(high, self.value))


@cache
def _reach(sources: int, level: float) -> float:
    """Standard errors, as resamples show them, that an interval reaches to either side."""
    return math.sqrt(sources / (sources - 1)) * student(sources - 1, level)


def student(degrees: float, level: float) -> float:
    """Student's t with ``P(|T| <= t) = level``: T is sqrt(d) tan(A), A of density cos(A)^(d-1)."""
    ends = np.linspace(0, math.pi / 2, 100_001)
    below = np.cumsum(np.cos((ends[1:] + ends[:-1]) / 2) ** (degrees - 1))
    return math.sqrt(degrees) * math.tan(np.interp(level * below[-1], below, ends[1:]))


@cache
def _agreeing(sources: int, draws: int) -> NDArray[np.float64]:
    """Shares that there may be where all ``sources`` have a one, from the smallest.

        theta = U^(1/n),  U uniform:  theta ~ Beta(n, 1), whose quantiles are the Clopper-Pearson bounds

    U is drawn in by as much as an interval's percentiles are expanded.
    """
    law, narrower = NormalDist(), NORMAL / _reach(max(sources, LEAST), 0.95)
    uniform = [law.cdf(narrower * law.inv_cdf((n + 0.5) / draws)) for n in range(draws)]
    return np.array(uniform) ** (1 / sources)


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

    def mean(self, values: ArrayLike, sources: Sequence[str]) -> Resampled:
        """The mean of per-item ``values``; ``sources`` names each item's source."""
        return self.ratio(values, np.ones(len(sources)), sources)

    def share(self, values: ArrayLike, sources: Sequence[str], *key: seeds.Part) -> Resampled:
        """The mean of per-item zeros and ones.

        Where all sources agree no resample knows of others: the draws are those of ``_agreeing``, in an
        order that ``key`` gives.
        """
        found, count, draws = self.mean(values, sources), len(set(sources)), len(self.counts)
        if 0 < found.value < 1:
            return replace(found, share=count)
        shares = _agreeing(count, draws)[np.argsort(seeds.uniforms(draws, *key), kind="stable")]
        shares = shares if found.value else 1 - shares
        return Resampled(found.value, shares, max(count, LEAST), count)

    def ratio(self, over: ArrayLike, under: ArrayLike, sources: Sequence[str]) -> Resampled:
        """``sum(over) / sum(under)`` of per-item numbers: bits per byte, a micro average."""
        columns = self._columns(sources)
        size = len(self.column)
        over, under = np.asarray(over, np.float64), np.asarray(under, np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = np.sum(over) / np.sum(under)
            tops = self.counts @ np.bincount(columns, over, size)
            draws = tops / (self.counts @ np.bincount(columns, under, size))
        draws = np.where(np.isfinite(draws), draws, np.nan)
        return Resampled(float(value), draws, len(set(sources)))

    def function(
        self, function: Callable[[NDArray[np.int64]], float], sources: Sequence[str]
    ) -> Resampled:
        """Any ``function`` of an array of item indices, repeats included; called once a draw."""
        columns = self._columns(sources)
        items = np.arange(len(columns))
        draws = np.full(len(self.counts), np.nan)
        for draw, counts in enumerate(self.counts):
            if (repeats := counts[columns].astype(np.int64)).any():
                draws[draw] = function(np.repeat(items, repeats))
        return Resampled(float(function(items)), draws, len(set(sources)))

    def _columns(self, sources: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self.column[source] for source in sources], np.int64)


def jointly(function: Callable[..., float], *estimates: Resampled) -> Resampled:
    """``function`` of estimates over the same resamples, draw by draw.

    Undefined where any of them is. It counts as made from as few sources as any of them.
    """
    value = float(function(*(estimate.value for estimate in estimates)))
    table = np.stack([estimate.draws for estimate in estimates], axis=1)
    draws = np.full(len(table), np.nan)
    for draw in np.flatnonzero(~np.isnan(table).any(axis=1)):
        draws[draw] = function(*table[draw].tolist())
    return Resampled(value, draws, min(estimate.sources for estimate in estimates))
