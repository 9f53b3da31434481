"""The plain form of a predictor: seen responses and predicted ones, added up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from evomerge.estimators import (
    RECENT,
    Estimate,
    JointEstimate,
    Known,
    Predictor,
    Sample,
    Together,
)
from evomerge.estimators.unbiased import Unbiased

ROUNDS = 20


class Plain:
    """``1/N [ sum_S y + sum_U m ]`` over the asked items S and the others U.

    Its error is measured on the archive: the root mean square of what the same estimate from the
    same items misses of each known model, left out in turn (of more than ``ROUNDS``, groups). It says
    nothing about candidates that are better than the archive. With fewer than two known models it is
    the unbiased form's.
    """

    def __init__(self, predictor: Callable[[Known], Predictor], known: Known) -> None:
        self._predictor, self._known = predictor(known), known
        count = len(known.responses)
        groups = np.arange(count) % ROUNDS
        self._left_out = [np.flatnonzero(groups == g) for g in range(min(count, ROUNDS))]
        self._others = [predictor(known.without(out)) for out in self._left_out if count > 1]
        together = getattr(self._others[0], "together", None) if 1 < count <= ROUNDS else None
        self._together: Together | None = together(self._others) if together else None
        self._unbiased = None if self._others else Unbiased(predictor, known)
        self._variance = lru_cache(RECENT)(self._variance_of)

    def estimate(self, sample: Sample) -> Estimate:
        many = self.estimate_many(sample.one)
        return Estimate(float(many.values[0]), float(many.errors[0]))

    def estimate_many(self, sample: Sample) -> JointEstimate:
        return self.estimate_from(self._predictor.predict(sample), sample)

    def estimate_from(
        self, predicted: Float[np.ndarray, "candidates items"], sample: Sample
    ) -> JointEstimate:
        """The same, from what the predictor tells from the sample."""
        values = _mean(predicted, sample)
        if self._unbiased:
            return replace(self._unbiased.estimate_many(sample), values=values)
        variance = self._variance(np.asarray(sample.items, np.int64).tobytes())
        unknown = np.zeros((len(values), len(values)))
        return JointEstimate(values, variance * np.eye(len(values)), unknown)

    def _variance_of(self, items: bytes) -> float:
        """The mean square of what is missed of known models; it depends on the ``items`` alone."""
        asked, truth = np.frombuffer(items, np.int64), self._known.responses.mean(1)
        if self._together is not None and len(asked):
            everyone = self._answers(np.arange(len(truth)), asked)
            if (guess := self._together.predict(everyone)) is not None:
                return float(np.mean((_mean(guess, everyone) - truth) ** 2))
        missed = []
        for other, out in zip(self._others, self._left_out, strict=True):
            own = self._answers(out, asked)
            missed.append(_mean(other.predict(own), own) - truth[out])
        return float(np.mean(np.concatenate(missed) ** 2))

    def _answers(self, models: np.ndarray, items: np.ndarray) -> Sample:
        """What known models answered to ``items``."""
        at, known = np.ix_(models, items), self._known
        return Sample(
            items, known.responses[at], None if known.margins is None else known.margins[at]
        )


def _mean(
    everything: Float[np.ndarray, "candidates items"], sample: Sample
) -> Float[np.ndarray, " candidates"]:
    """Over all items, of predictions that the sample's responses take the place of, where there are any."""
    everything[:, sample.items] = sample.responses
    mean: Float[np.ndarray, " candidates"] = everything.mean(1)
    return mean
