"""What sums and ranks say of models and their pairs: of all weights, of a layer, of a role.

    cosine    <tau_a, tau_b> / (|tau_a| |tau_b|)           model kinship, with its sign
    pearson   the same of tau less its mean entry
    euclid    |tau_a - tau_b|
    ratio     |tau| / |base|
    zeros     share of the entries that a model leaves alone
    density   |tau|_1^2 / (n |tau|_2^2): 1 where all entries are equally large, 1 / n where all is in one
    conflict  of the entries that both models change, the share in which they go opposite ways; of models that
              have nothing to do with each other a half
    rounding  rms(rounded - exact) / rms(exact - base), see ``evomerge.rounding``

Shares of masks: an entry that no model needs is *catastrophic*, one that a single model needs *selfish*, one that more
do *shared*; what no model changes at all is counted apart, as *untouched*.

Papers: Hu et al. 2024, Exploring Model Kinship for Merging Large Language Models, https://arxiv.org/abs/2410.12613;
    Wang et al. 2024, https://arxiv.org/abs/2405.07813; Lai et al. 2025, https://arxiv.org/abs/2502.04411.
Deviations: the authors' code of kinship reports the cosine without its sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from evomerge.checkpoint import DTYPES
from evomerge.parents.comparison.spectra import Ranks
from evomerge.parents.comparison.sums import Sums

DIGITS = 6  # of a number, in JSON: sums round by machine
MEAN = "mean"  # of the models, among what rounding takes
MASKS = ("untouched", "catastrophic", "selfish", "shared")


@dataclass(frozen=True)
class Measured:
    """One model beside the base; None where there is nothing to divide by.

    Attributes:
        norm: of its task vector.
        ratio, zeros, density: see the module's text.
        needed: share of the entries that it needs.
        alone: and that no other does.
        stable: mean stable rank of the matrices that it changes.
        effective: mean effective rank, of those of which it is known.
        full: mean of the largest ranks that these could have.
        rounding: dtype -> share; none that cannot hold all values.
    """

    norm: float
    ratio: float | None
    zeros: float
    density: float | None
    needed: float
    alone: float
    stable: float | None
    effective: float | None
    full: float | None
    rounding: Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """Two models; None where one of them changes nothing."""

    cosine: float | None
    pearson: float | None
    euclid: float
    conflict: float | None


@dataclass(frozen=True)
class Facts:
    """Of some weights.

    Attributes:
        entries: how many.
        models: by name.
        pairs: by their names.
        conflict: of all pairs together.
        masks: one of ``MASKS`` -> share of the entries; they sum to 1.
        rounding: of the mean of the models, dtype -> share.
    """

    entries: int
    models: Mapping[str, Measured]
    pairs: Mapping[tuple[str, str], Pair]
    conflict: float | None
    masks: Mapping[str, float]
    rounding: Mapping[str, float]

    @classmethod
    def of(cls, names: Sequence[str], sums: Sums, ranks: Iterable[Sequence[Ranks | None]]) -> Facts:
        """From the sums of some tensors, and the ranks of each [matrices, models]."""
        n, count = sums.entries or 1.0, len(names)
        by_model = list(zip(*ranks, strict=True)) or [()] * count
        squares = [float(sums.products[i, i]) for i in range(count)]
        models = {
            name: Measured(
                norm=math.sqrt(squares[i]),
                ratio=_over(math.sqrt(squares[i]), math.sqrt(sums.base)),
                zeros=float(sums.zeros[i]) / n,
                density=_over(float(sums.magnitudes[i]) ** 2, n * squares[i]),
                needed=float(sums.needed[i]) / n,
                alone=float(sums.alone[i]) / n,
                stable=_mean(each.stable for each in by_model[i] if each),
                effective=_mean(each.effective for each in by_model[i] if each),
                full=_mean(float(each.full) for each in by_model[i] if each),
                rounding=_rounding(sums, i, squares[i]),
            )
            for i, name in enumerate(names)
        }
        # the mean's own change: its square is the sum of all products over m^2
        change = float(sums.products.sum()) / count**2
        together = list(combinations(range(count), 2))
        none, one = float(sums.votes[0]), float(sums.votes[1])
        shares = (sums.untouched, none - sums.untouched, one, sums.entries - none - one)
        return cls(
            entries=round(sums.entries),
            models=models,
            pairs={(names[i], names[j]): _pair(sums, i, j) for i, j in together},
            conflict=_over(
                sum(float(sums.opposed[pair]) for pair in together),
                sum(float(sums.both[pair]) for pair in together),
            ),
            masks={name: share / n for name, share in zip(MASKS, shares, strict=True)},
            rounding=_rounding(sums, count, change),
        )

    @property
    def plain(self) -> dict[str, Any]:
        return {
            "entries": self.entries,
            "models": {name: _rounded(vars(each)) for name, each in self.models.items()},
            "pairs": [
                {"models": list(names), **_rounded(vars(pair))}
                for names, pair in self.pairs.items()
            ],
            "conflict": _rounded(self.conflict),
            "masks": _rounded(self.masks),
            "rounding": _rounded(self.rounding),
        }


def _pair(sums: Sums, i: int, j: int) -> Pair:
    n, products = sums.entries or 1.0, sums.products
    inner, first, second = (float(products[at]) for at in ((i, j), (i, i), (j, j)))
    a, b = float(sums.totals[i]), float(sums.totals[j])
    return Pair(
        cosine=_correlation(inner, first, second),
        pearson=_correlation(inner - a * b / n, first - a * a / n, second - b * b / n),
        euclid=math.sqrt(max(0.0, first + second - 2 * inner)),
        conflict=_over(float(sums.opposed[i, j]), float(sums.both[i, j])),
    )


def _correlation(inner: float, first: float, second: float) -> float | None:
    if first <= 0 or second <= 0:
        return None
    return max(-1.0, min(1.0, inner / math.sqrt(first) / math.sqrt(second)))


def _rounding(sums: Sums, number: int, change: float) -> dict[str, float]:
    """Of a model, or of the mean that follows them."""
    shares = {
        name: _over(math.sqrt(float(lost[number])), math.sqrt(max(0.0, change)))
        for name, lost in zip(DTYPES, sums.rounding, strict=True)
        if math.isfinite(lost[number])
    }
    return {name: share for name, share in shares.items() if share is not None}


def _over(top: float, under: float) -> float | None:
    return top / under if under > 0 else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
