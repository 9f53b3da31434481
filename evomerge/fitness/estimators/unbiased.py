"""The unbiased form of a predictor: augmented by its mean error on held-out items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from evomerge.fitness.estimators import Estimate, Estimates, Known, Predictor, Sample
from evomerge.fitness.estimators.design import Design


class Unbiased:
    """Cross-fitted difference estimator under stratified sampling without replacement.

        1/N sum_g [ sum_{S_g} y + sum_{U_g} m + |U_g| mean_{S_g}(y - m) ]

    S_g and U_g are the items of stratum g that were asked and that were not. The prediction m of a
    sampled item is made without its own fold, that of the others is the mean over folds. Given the
    other folds, a fold is a random sample of what is left, so each correction is unbiased whatever
    the predictor. When every item is asked the value is exact.

    Paper: Wager et al., PNAS 2016, "High-dimensional regression adjustments in randomized
        experiments" (cross-estimation), for sampling from a finite population.
    """

    def __init__(self, predictor: Callable[[Known], Predictor], known: Known) -> None:
        self._predictor, self._strata = predictor(known), known.strata
        self._ends = known.responses.min(initial=0.0), known.responses.max(initial=1.0)

    def estimate(self, sample: Sample) -> Estimate:
        many = self.estimate_many(sample.one)
        return Estimate(float(many.values[0]), float(many.errors[0]))

    def estimate_many(self, sample: Sample) -> Estimates:
        design = Design(self._strata, sample.items)
        asked = design.group[sample.items]
        predicted, held = self._cross_fit(sample, design, asked)
        residuals = sample.responses - held
        correction = np.array(
            [residuals[:, asked == group].mean(1) for group in range(len(design.size))]
        )  # [groups, candidates]
        rest = np.ones(len(design.group), bool)
        rest[sample.items] = False
        total = sample.responses.sum(1) + predicted[:, rest].sum(1)
        total += (design.size - design.taken) @ correction
        covariance = design.covariance(residuals)
        alike, constant = _alike(sample.responses)
        least = design.share * self._least_variance(sample.responses)
        lacking = np.maximum(constant * least - np.diagonal(covariance), 0.0)
        return Estimates(total / len(design.group), covariance + np.diag(lacking), alike * least)

    def _cross_fit(
        self, sample: Sample, design: Design, asked: np.ndarray
    ) -> tuple[Float[np.ndarray, "candidates items"], Float[np.ndarray, "candidates sampled"]]:
        """Predictions for all items (mean over folds), and for sampled ones without their fold."""
        predicted = np.zeros((len(sample.responses), len(design.group)))
        held = np.zeros_like(sample.responses)
        for fold in np.unique(design.fold):
            out = design.fold == fold
            guess = self._predictor.predict(sample.take(~out))
            held[:, out] = guess[:, sample.items[out]]
            share = np.bincount(asked[out], minlength=len(design.size)) / design.taken
            predicted += share[design.group] * guess
        return predicted, held

    def _least_variance(self, responses: Float[np.ndarray, "candidates sampled"]) -> float:
        """Of the mean of equal responses: one more might have been at the other end of the range.

        Twenty right answers of twenty do not say that every item is answered.
        """
        count = responses.shape[1]
        ends = [*self._ends, responses.min(), responses.max()]
        other = 1 / (count + 2)
        return float((max(ends) - min(ends)) ** 2 * other * (1 - other) / count)


def _alike(
    responses: Float[np.ndarray, "candidates sampled"],
) -> tuple[Bool[np.ndarray, "candidates candidates"], Bool[np.ndarray, " candidates"]]:
    """Which pairs gave the same answers, and which candidates the same answer to all."""
    pairs = np.all(responses[:, None] == responses, axis=2)
    return pairs, np.ptp(responses, axis=1) == 0
