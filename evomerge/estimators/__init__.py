"""Estimators: the mean response over all items, from the responses to a sample of them.

A *predictor* guesses a candidate's response to every item, from the archive (models that answered
all items) and the candidate's own responses to the sample. It enters the estimate in one of three
forms:

* ``NAME``, unbiased: what was asked is counted, the rest is predicted, and the prediction is
  corrected by its mean error on items that were asked but held out from it. Without bias whatever
  the predictor, with a standard error from the sampling design.
* ``NAME plain``: what was asked is counted, the rest is predicted. Less variance, an unknown bias,
  and worst for what a search looks for, a child that is better than the whole archive.
* ``NAME composite``: between the two, by what either is known to err.

    fitted = get("regression").fit(Known(responses, strata))
    fitted.estimate(Sample(items, responses)).interval()

``python -m evomerge.testing.matrix MATRIX`` compares them.

Papers: Särndal, Swensson & Wretman, "Model Assisted Survey Sampling", ch. 6 (difference estimator);
    Wager et al., "High-dimensional regression adjustments in randomized experiments", PNAS 2016
    (cross-fitting); Zhang, Dorner & Hardt, https://arxiv.org/abs/2506.07673 (extrapolation).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from evomerge.errors import InputError
from evomerge.registry import PREDICTORS, unknown

WITHOUT_MODEL = ("mean", "stratified")  # predict nothing, so have one form only
FORMS = {
    "unbiased": "evomerge.estimators.unbiased:Unbiased",
    "plain": "evomerge.estimators.plain:Plain",
    "composite": "evomerge.estimators.composite:Composite",
}
DEFAULT = "margins composite"
FALLBACK = "regression"  # where an estimator has no model of the numbers
RECENT = (
    64  # samples of which is remembered what no response enters: those of a batch are mostly one
)


@dataclass(frozen=True)
class Known:
    """The archive: models that answered every item.

    Attributes:
        responses: any numbers; models may be none.
        strata: a code per item; samples are spread over strata in proportion to their sizes.
        margins: nats by which the right choice leads the best wrong one, NaN where an item has
            none; None if there are none at all.
    """

    responses: Float[np.ndarray, "models items"]
    strata: Int[np.ndarray, " items"]
    margins: Float[np.ndarray, "models items"] | None = None

    def without(self, models: Int[np.ndarray, " fewer"]) -> Known:
        """The archive less some of its models."""
        margins = None if self.margins is None else np.delete(self.margins, models, 0)
        return Known(np.delete(self.responses, models, 0), self.strata, margins)


@dataclass(frozen=True)
class Sample:
    """Responses of one candidate, or of several (a leading axis), to the same distinct items.

    The items are a stratified random sample without replacement: in a stratum each has the same
    chance. ``margins`` as in ``Known``.
    """

    items: Int[np.ndarray, " sampled"]
    responses: Float[np.ndarray, "*candidates sampled"]
    margins: Float[np.ndarray, "*candidates sampled"] | None = None

    @property
    def one(self) -> Sample:
        """A single candidate, with the leading axis."""
        margins = None if self.margins is None else self.margins[None]
        return Sample(self.items, self.responses[None], margins)

    def take(self, chosen: np.ndarray) -> Sample:
        """Only the ``chosen`` positions."""
        margins = None if self.margins is None else self.margins[..., chosen]
        return Sample(self.items[chosen], self.responses[..., chosen], margins)


@dataclass(frozen=True)
class Estimate:
    """The mean over all items, and its standard error."""

    value: float
    error: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Normal bounds that hold the truth with probability ``level``."""
        reach = NormalDist().inv_cdf((1 + level) / 2) * self.error
        return self.value - reach, self.value + reach


@dataclass(frozen=True)
class JointEstimate:
    """JointEstimate of several candidates from one sample.

    They err together, so a difference is known better than either of its sides.

    Attributes:
        values: the means over all items.
        covariance: of the values.
        least: the variance of a difference is no less: that of two that answered alike is not 0.
    """

    values: Float[np.ndarray, " candidates"]
    covariance: Float[np.ndarray, "candidates candidates"]
    least: Float[np.ndarray, "candidates candidates"]

    @property
    def errors(self) -> Float[np.ndarray, " candidates"]:
        errors: Float[np.ndarray, " candidates"] = np.sqrt(np.diagonal(self.covariance))
        return errors

    def difference(self, first: int, second: int) -> Estimate:
        """How much better ``first`` is than ``second``."""
        pair = self.covariance[np.ix_([first, second], [first, second])]
        variance = max(
            pair[0, 0] + pair[1, 1] - 2 * pair[0, 1], float(self.least[first, second]), 0.0
        )
        return Estimate(float(self.values[first] - self.values[second]), float(variance) ** 0.5)


class Predictor(Protocol):
    """Guesses responses. Made once per archive; every call is a pure function."""

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        """The response of each of the sample's candidates to every item; the sample may be empty."""
        ...


@runtime_checkable
class Folding(Protocol):
    """A predictor that predicts from many parts of one sample at once, which takes less time."""

    def predict_folds(
        self, sample: Sample, kept: Bool[np.ndarray, "folds sampled"]
    ) -> Float[np.ndarray, "folds candidates items"] | None:
        """What ``predict`` tells from each of the parts, none of which is empty, within rounding; None if
        this cannot be told at once."""
        ...


class Together(Protocol):
    """Several predictors of one kind, each with an archive of its own, at once, which takes less time."""

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"] | None:
        """What the first of them tells of the sample's first candidate, and so on, within rounding; None if this
        cannot be told at once. The sample is not empty."""
        ...


class Fitted(Protocol):
    """An estimator that knows the archive."""

    def estimate(self, sample: Sample) -> Estimate:
        """Of one candidate."""
        ...

    def estimate_many(self, sample: Sample) -> JointEstimate:
        """Of several candidates at once."""
        ...


@dataclass(frozen=True)
class Estimator:
    """A predictor in one of the forms; unless ``stratified`` a sample counts as simply random."""

    name: str
    predictor: Callable[[Known], Predictor]
    form: Callable[[Callable[[Known], Predictor], Known], Fitted]
    stratified: bool = True

    def fit(self, known: Known) -> Fitted:
        """Once per archive; may take seconds."""
        if not self.stratified:
            known = replace(known, strata=np.zeros_like(known.strata))
        return self.form(self.predictor, known)


def names() -> list[str]:
    """Every estimator in every form, plugins included."""
    return [
        name if form == "unbiased" else f"{name} {form}"
        for form in FORMS
        for name in PREDICTORS.names()
        if form == "unbiased" or name not in WITHOUT_MODEL
    ]


def get(name: str) -> Estimator:
    """The estimator called ``name``.

    Raises:
        InputError: there is none, or its plugin cannot be imported.
    """
    if name not in (known := names()):
        raise InputError(unknown("estimator", name, known))
    return of(name, PREDICTORS.get(name.partition(" ")[0]))


def of(name: str, predictor: Callable[[Known], Predictor]) -> Estimator:
    """``predictor`` in the form that ``name`` ends in."""
    word, _, form = name.partition(" ")
    module, _, attribute = FORMS[form or "unbiased"].partition(":")
    made = getattr(importlib.import_module(module), attribute)
    return Estimator(name, predictor, made, stratified=word != "mean")
