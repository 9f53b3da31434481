"""Racing: is one merge better than another, by a test that may be looked at after every item.

The evidence against "x is no better than zero on average" is the wealth of a gambler who bets a
share of it on each paired difference x_i in [-1, 1], averaged over shares:

    E = integral of prod_i (1 + b x_i) dpi(b),  pi the arcsine law on (0, 1)

Under that hypothesis E is a supermartingale that starts at 1, so it ever reaches 1/alpha with
probability at most alpha, however often it is looked at (Ville). If every x_i is -1, 0 or 1 this is
the test on discordant pairs: averaged over both directions, with w wins and l losses,

    E = 2^(w+l) B(w + 1/2, l + 1/2) / B(1/2, 1/2)

Papers: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting",
    https://arxiv.org/abs/2010.09686; Krichevsky & Trofimov 1981 (the arcsine mixture).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evomerge.suite.objectives import Objective, Values, why_no_sum
from evomerge.suite.scorer import Results, column
from evomerge.suite.splits import Split
from evomerge.suite.suite import Suite

ALPHA = 0.05  # chance that the best of a shortlist is ever dropped
_BETS = np.cos(np.pi * (np.arange(256) + 0.5) / 512)  # positive Chebyshev nodes: equal weights


def e_value(x: ArrayLike) -> float:
    """Evidence that the mean of ``x``, differences in [-1, 1], is above zero."""
    values, counts = np.unique(np.asarray(x, np.float64), return_counts=True)
    with np.errstate(divide="ignore"):
        wealth = np.log1p(np.outer(_BETS, values)) @ counts
    top = wealth.max()
    return float(np.exp(min(top + np.log(np.mean(np.exp(wealth - top))), 700.0)))


@dataclass(frozen=True)
class Race:
    """How two models are compared on the select split, source by source.

    ``units`` holds, per objective, what one item adds to the score, in units of the most that one
    source can add. Items weigh the same however many of them were asked: that, and that items of one
    source stay together, makes the evidence a fair game.
    """

    suite: Suite
    units: Values

    @classmethod
    def of(cls, suite: Suite, gains: Values, known: Sequence[Results]) -> Race | str:
        """The race of a suite whose score is a weighted sum of means of numbers in [0, 1].

        A text that says why there is none, if there is none.

        Args:
            suite: measures and combines.
            gains: the yardsticks.
            known: responses of some models, which show what values look like.
        """
        if suite.spec.front:
            return "members of a front are compared in every objective"
        if why := why_no_sum(suite.objectives, suite.spec.combination):
            return why
        shares = _shares(suite, gains)
        for objective in suite.measured:
            if objective.name in shares and not all(_bounded(suite, objective, r) for r in known):
                return f"{objective.name} ({objective.metric}) is no mean of numbers from 0 to 1"
        split, most = suite.splits[Split.SELECT], defaultdict[str, float](float)
        units = {}
        for objective in suite.measured:
            if objective.name in shares:
                items = split[objective.scorer]
                units[objective.name] = shares[objective.name] / len(items)
                for item in items:
                    most[suite.source_of[objective.scorer][item]] += abs(units[objective.name])
        scale = max(most.values())
        return cls(suite, {name: unit / scale for name, unit in units.items()})

    def leads(self, ours: Results, theirs: Results) -> NDArray[np.float64]:
        """``[sources]``: by how much we lead on each source, at most 1 in size.

        Args:
            ours, theirs: responses to the same items of the select split.
        """
        found = defaultdict[str, float](float)
        for objective in self.suite.measured:
            name, unit = objective.scorer, self.units.get(objective.name)
            if unit is None:
                continue
            columns = (column(responses[name], objective.metric) for responses in (ours, theirs))
            for item, a, b in zip(ours[name]["items"], *columns, strict=True):
                if a is not None and b is not None:
                    found[self.suite.source_of[name][item]] += unit * (a - b)
        return np.array(list(found.values()))


def _shares(suite: Suite, gains: Values) -> dict[str, float]:
    """What one unit of each measured objective adds to a score that is a sum."""
    found = dict.fromkeys((objective.name for objective in suite.measured), 0.0)
    retained = suite.spec.combination == "retention"
    counted = [o for o in suite.objectives if not retained or o.name in gains]
    total = sum(objective.weight for objective in counted)
    for objective in counted:
        share = objective.sign * objective.weight / total
        if retained:
            share /= gains[objective.name]
        parts = objective.of or (objective.name,)
        for name in parts:
            found[name] += share / len(parts)
    return {name: share for name, share in found.items() if share}


def _bounded(suite: Suite, objective: Objective, results: Results) -> bool:
    """True if the objective is, on these results, a mean of numbers in [0, 1]."""
    values = [v for v in column(results[objective.scorer], objective.metric) if v is not None]
    if not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in values):
        return False
    mean = suite.scorers[objective.scorer].aggregate(objective.metric, values)
    return math.isclose(mean, sum(values) / len(values), abs_tol=1e-9)
