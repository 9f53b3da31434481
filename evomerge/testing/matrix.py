"""Estimators compared on a matrix of responses.

    python -m evomerge.testing.matrix MATRIX [--draws 100] [--estimators mean,regression]

For several shares of the items and each estimator it prints, over the candidates (``all``), those that
beat both parents (``better``) and those that beat the whole archive (``beyond``):

* rank: Spearman's correlation of estimates with means over all items, candidates sharing a sample;
* RMSE: of the estimates;
* saves: how many times the items a plain random sample would need for that error;
* cover, width: how often 95 % intervals hold the truth, and their mean width;
* gaps: RMSE and cover of differences between two candidates that share a sample.

A matrix is an .npz file: ``labels`` of the models (those of the archive begin with ``archive``, base and
parents first), ``items``, their ``strata``, ``correct`` (packed bits ``[models, items]``) and
``margins`` (nats, NaN where an item has none). ``tests/benchmarks/matrix.py`` makes one.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evomerge import estimators
from evomerge.estimators import Fitted, Known, Sample
from evomerge.estimators.anchors import choose, represent
from evomerge.inference.intervals import NORMAL
from evomerge.suite.schedule import sample as draw_sample
from evomerge.testing.irt_variants import VARIANTS

SHARES = (0.01, 0.02, 0.05, 0.10)
COLUMNS = (
    *("items", "estimator", "candidates", "rank", "RMSE", "saves", "cover", "width"),
    *("gaps: RMSE", "cover"),
)
PARENTS = slice(1, 3)  # rows of the archive
SEEDS = 10  # of k-means

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Matrix:
    """Responses of an archive and of the candidates that are to be estimated from it."""

    known: Known
    responses: Array  # [candidates, items]
    margins: Array

    @property
    def truth(self) -> Array:
        """Means over all items, ``[candidates]``."""
        truth: Array = self.responses.mean(1)
        return truth

    @property
    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """Which candidates beat nothing in particular, both parents, the whole archive."""
        levels = self.known.responses.mean(1)
        return {
            "all": np.ones(len(self.truth), bool),
            "better": self.truth > levels[PARENTS].max(),
            "beyond": self.truth > levels.max(),
        }

    @classmethod
    def load(cls, path: Path) -> Matrix:
        with np.load(path) as file:
            correct = np.unpackbits(file["correct"], axis=1, count=len(file["items"]))
            responses, margins = correct.astype(float), file["margins"].astype(float)
            archive = np.char.startswith(file["labels"], "archive")
            strata = np.unique(file["strata"], return_inverse=True)[1]
        known = Known(responses[archive], strata, margins[archive])
        return cls(known, responses[~archive], margins[~archive])

    def sample(self, items: Indices) -> Sample:
        """What all candidates answered to ``items``."""
        return Sample(items, self.responses[:, items], self.margins[:, items])


@dataclass(frozen=True)
class Trial:
    """Estimates of one estimator on many samples.

    Attributes:
        values, errors: ``[draws, candidates]``.
        gaps, gap_errors: estimated differences between candidates and their standard errors.
        true_gaps: the differences, ``[candidates]``.
    """

    values: Array
    errors: Array
    gaps: Array
    gap_errors: Array
    true_gaps: Array

    def summary(self, truth: Array, which: NDArray[np.bool_]) -> dict[str, float]:
        """The figures for the candidates ``which``."""
        values, errors, truth = self.values[:, which], self.errors[:, which], truth[which]
        missed = np.abs(values - truth)
        gap_missed = np.abs(self.gaps - self.true_gaps)[:, which]
        return {
            "rank": float(np.mean([spearman(row, truth) for row in values])),
            "rmse": float(np.sqrt(np.mean(missed**2))),
            "coverage": float(np.mean(missed <= NORMAL * errors + 1e-12)),
            "width": float(2 * NORMAL * errors.mean()),
            "gap rmse": float(np.sqrt(np.mean(gap_missed**2))),
            "gap coverage": float(
                np.mean(gap_missed <= NORMAL * self.gap_errors[:, which] + 1e-12)
            ),
        }


def run(matrix: Matrix, fitted: Fitted, samples: Sequence[Indices]) -> Trial:
    """Estimate all candidates from each of the ``samples``; gaps are to the candidate before."""
    rows = []
    for items in samples:
        found = fitted.estimate_many(matrix.sample(items))
        gaps = [found.difference(at, at - 1) for at in range(len(found.values))]
        rows.append(
            (found.values, found.errors, [gap.value for gap in gaps], [gap.error for gap in gaps])
        )
    values, errors, gap_values, gap_errors = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return Trial(values, errors, gap_values, gap_errors, matrix.truth - np.roll(matrix.truth, 1))


def samples(matrix: Matrix, count: int, draws: int, *, stratified: bool) -> list[Indices]:
    """Random samples of ``count`` items."""
    ids = [str(number) for number in range(len(matrix.known.strata))]
    codes = matrix.known.strata if stratified else np.zeros_like(matrix.known.strata)
    strata = {"": {id: f"{code:06}" for id, code in zip(ids, codes, strict=True)}}
    drawn = (draw_sample({"": ids}, strata, count, "samples", draw)[""] for draw in range(draws))
    return [np.array([int(id) for id in sample]) for sample in drawn]


def anchor_sets(matrix: Matrix, count: int, draws: int) -> list[Indices]:
    """Anchors of the archive, by different seeds of k-means."""
    points = represent(matrix.known)
    return [choose(points, count, draw) for draw in range(draws)]


def needed(matrix: Matrix, rmse: float, which: NDArray[np.bool_]) -> float:
    """The size of the plain random sample whose mean has this error."""
    size, variance = matrix.responses.shape[1], matrix.responses[which].var(1).mean()
    return float(1 / (rmse**2 * (size - 1) / size / variance + 1 / size))


def spearman(a: Array, b: Array) -> float:
    """Correlation of ranks; ties share theirs. 0 if either side is all ties."""
    a, b = ranks(a) - ranks(a).mean(), ranks(b) - ranks(b).mean()
    return float(a @ b) / max(math.sqrt((a @ a) * (b @ b)), 1e-9)


def ranks(values: Array) -> Array:
    ordered = np.sort(values)
    low, high = np.searchsorted(ordered, values), np.searchsorted(ordered, values, "right")
    mean: Array = (low + high - 1) / 2
    return mean


def table(matrix: Matrix, names: Sequence[str], draws: int) -> Iterator[str]:
    """Markdown, row by row."""
    size = len(matrix.known.strata)
    sizes = ", ".join(f"{which.sum()} {group}" for group, which in matrix.groups.items())
    models = len(matrix.known.responses)
    yield f"candidates: {sizes}; {models} known models, {size} items, {draws} samples"
    yield f"\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"
    fitted = {name: _estimator(name).fit(matrix.known) for name in names}
    for share in SHARES:
        count = round(share * size)
        simple = samples(matrix, count, draws, stratified=False)
        stratified = samples(matrix, count, draws, stratified=True)
        anchors = anchor_sets(matrix, count, min(draws, SEEDS))
        for name in names:
            drawn = {"mean": simple, "anchors plain": anchors}.get(name, stratified)
            outcome = run(matrix, fitted[name], drawn)
            for group, which in matrix.groups.items():
                found = outcome.summary(matrix.truth, which)
                saves = needed(matrix, found["rmse"], which) / count
                yield (
                    f"| {count} ({share:.0%}) | {name} | {group} | {found['rank']:.3f} | "
                    f"{found['rmse']:.4f} | {saves:.1f}x | {found['coverage']:.1%} | "
                    f"{found['width']:.3f} | {found['gap rmse']:.4f} | {found['gap coverage']:.1%} |"
                )


def _estimator(name: str) -> estimators.Estimator:
    """One of the package's, or of the variants that are here for comparison."""
    variant = VARIANTS.get(name.partition(" ")[0])
    return estimators.of(name, variant) if variant else estimators.get(name)


def main() -> int:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("matrix", type=Path)
    parser.add_argument("--draws", type=int, default=100, help="samples per share")
    parser.add_argument("--estimators", help="comma-separated; 'NAME plain' for the plain form")
    options = parser.parse_args()
    names = options.estimators.split(",") if options.estimators else estimators.names()
    for line in table(Matrix.load(options.matrix), names, options.draws):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
