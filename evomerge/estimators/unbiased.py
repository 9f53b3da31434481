"""The unbiased form of a predictor: augmented by its mean error on held-out items."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

from evomerge.estimators import RECENT, Estimate, Folding, JointEstimate, Known, Predictor, Sample
from evomerge.estimators.design import Design

DOUBT = 20  # makes intervals hold on easy tasks, where a sample often has no surprise


class Unbiased:
    """Cross-fitted difference estimator under stratified sampling without replacement.

        1/N sum_g [ sum_{S_g} y + sum_{U_g} m + |U_g| mean_{S_g}(y - m) ]

    S_g and U_g are the items of stratum g that were asked and that were not. The prediction m of a
    sampled item is made without its own fold, that of the others is the mean over folds. Given the
    other folds, a fold is a random sample of what is left, so each correction is unbiased whatever
    the predictor. When every item is asked the value is exact.

    The standard error is that of the residuals ``y - m``, widened since few residuals tell their variance
    badly: normal bounds then cover like Student's t. Few may also all be small by luck: where
    responses are right or wrong, the doubt of the predictions themselves, ``m (1 - m)``, counts like
    ``DOUBT`` residuals more if it is larger.

    Paper: Wager et al., PNAS 2016, "High-dimensional regression adjustments in randomized
        experiments" (cross-estimation), for sampling from a finite population.
    """

    def __init__(self, predictor: Callable[[Known], Predictor], known: Known) -> None:
        self._predictor, self._strata = predictor(known), known.strata
        self._folding = self._predictor if isinstance(self._predictor, Folding) else None
        self._ends = known.responses.min(initial=0.0), known.responses.max(initial=1.0)
        self._binary = bool(np.isin(known.responses, (0, 1)).all())
        self._design = lru_cache(RECENT)(
            lambda items: Design(self._strata, np.frombuffer(items, np.int64))
        )

    def estimate(self, sample: Sample) -> Estimate:
        many = self.estimate_many(sample.one)
        return Estimate(float(many.values[0]), float(many.errors[0]))

    def estimate_many(self, sample: Sample) -> JointEstimate:
        design = self._design_of(sample)
        return self._estimate(sample, design, *self._cross_fit(sample, design))

    def estimate_and_predict(
        self, sample: Sample
    ) -> tuple[JointEstimate, Float[np.ndarray, "candidates items"]]:
        """The estimates, and what the predictor tells from the whole sample: together they take less time."""
        design = self._design_of(sample)
        guesses = self._predict_folds(sample, design, design.kept_and_all)
        if guesses is None:
            return self.estimate_many(sample), self._predictor.predict(sample)
        return self._estimate(sample, design, *_held(guesses[:-1], sample, design)), guesses[-1]

    def _design_of(self, sample: Sample) -> Design:
        return self._design(np.asarray(sample.items, np.int64).tobytes())

    def _estimate(
        self,
        sample: Sample,
        design: Design,
        predicted: Float[np.ndarray, "candidates items"],
        held: Float[np.ndarray, "candidates sampled"],
    ) -> JointEstimate:
        residuals = sample.responses - held
        correction = design.means(residuals)
        total = sample.responses.sum(1) + predicted @ design.rest
        total += (design.size - design.taken) @ correction
        covariance, least = self._covariance(sample.responses, residuals, predicted, design)
        return JointEstimate(total / len(design.group), covariance, least)

    def _covariance(
        self,
        responses: Float[np.ndarray, "candidates sampled"],
        residuals: Float[np.ndarray, "candidates sampled"],
        predicted: Float[np.ndarray, "candidates items"],
        design: Design,
    ) -> tuple[
        Float[np.ndarray, "candidates candidates"], Float[np.ndarray, "candidates candidates"]
    ]:
        """Of the estimates, and the least variance of their differences."""
        covariance, degrees = design.covariance(residuals), design.degrees
        found = np.diagonal(covariance)
        least = design.share * self._least_variance(responses)
        wanted = np.maximum(found * _student(degrees), least * (np.ptp(responses, axis=1) == 0))
        if self._binary and ((responses == 0) | (responses == 1)).all():
            likely = np.clip(predicted, 0, 1)
            doubt = design.variance(likely * (1 - likely))
            pooled = (degrees * found + DOUBT * doubt) / (degrees + DOUBT)
            wanted = np.maximum(wanted, pooled * _student(degrees + DOUBT))
        scale = np.sqrt(wanted / np.maximum(found, 1e-30))
        covariance = covariance * np.outer(scale, scale)
        np.fill_diagonal(covariance, wanted)
        alike = np.all(responses[:, None] == responses, axis=2)
        return covariance, alike * least[:, None]

    def _cross_fit(
        self, sample: Sample, design: Design
    ) -> tuple[Float[np.ndarray, "candidates items"], Float[np.ndarray, "candidates sampled"]]:
        """Predictions for all items (mean over folds), and for sampled ones without their fold."""
        guesses = self._predict_folds(sample, design, design.kept)
        if guesses is not None:
            return _held(guesses, sample, design)
        predicted = np.zeros((len(sample.responses), len(design.group)))
        held = np.zeros_like(sample.responses)
        for kept, out, share in design.folds:
            guess = self._predictor.predict(sample.take(kept))
            held[:, out] = guess[:, sample.items[out]]
            predicted += share * guess
        return predicted, held

    def _predict_folds(
        self, sample: Sample, design: Design, kept: Bool[np.ndarray, "parts sampled"]
    ) -> Float[np.ndarray, "parts candidates items"] | None:
        """Predictions from parts of the sample, if they can be made at once."""
        if self._folding is None or not design.kept.any(1).all():
            return None
        return self._folding.predict_folds(sample, kept)

    def _least_variance(
        self, responses: Float[np.ndarray, "candidates sampled"]
    ) -> Float[np.ndarray, " candidates"]:
        """Of the mean of equal responses: one more might have been at the other end of the range.

        Twenty right answers of twenty do not say that every item is answered.
        """
        low, high = self._ends
        count, other = responses.shape[1], 1 / (responses.shape[1] + 2)
        reach = np.maximum(high, responses.max(1)) - np.minimum(low, responses.min(1))
        least: Float[np.ndarray, " candidates"] = reach**2 * other * (1 - other) / count
        return least


def _held(
    guesses: Float[np.ndarray, "folds candidates items"], sample: Sample, design: Design
) -> tuple[Float[np.ndarray, "candidates items"], Float[np.ndarray, "candidates sampled"]]:
    """Of predictions without each fold: their mean, and those of the fold's own items."""
    mean = (design.shares[:, None] * guesses).sum(0)
    return mean, guesses[design.fold, :, sample.items].T


def _student(degrees: int) -> float:
    """The variance of Student's t; of 3 degrees where fewer leave it none."""
    degrees = max(degrees, 3)
    return degrees / (degrees - 2)
