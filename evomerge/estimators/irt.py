"""The two-parameter logistic item-response model, fitted by maximum a posteriori."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from evomerge.errors import InputError
from evomerge.estimators.logistic import regress, sigmoid

DIMENSIONS = 3
STEPS, TOLERANCE = 400, 1e-3
SPREAD_A, SPREAD_B = 0.5, 2.0  # prior standard deviations of discrimination and difficulty


@dataclass(frozen=True)
class Items:
    """``P(model j answers item i) = sigma(a_i . theta_j - b_i)``.

    Attributes:
        a: discriminations ``[items, dimensions]``, prior N(e_1, SPREAD_A^2).
        b: difficulties ``[items]``, prior N(0, SPREAD_B^2).
        theta: abilities of the models that it was fitted to ``[models, dimensions]``, prior N(0, 1).
    """

    a: Float[np.ndarray, "items dimensions"]
    b: Float[np.ndarray, " items"]
    theta: Float[np.ndarray, "models dimensions"]

    def probability(
        self, theta: Float[np.ndarray, "models dimensions"]
    ) -> Float[np.ndarray, "models items"]:
        """Expected responses of models with abilities ``theta``."""
        return sigmoid(theta @ self.a.T - self.b)


def fit_items(responses: Float[np.ndarray, "models items"], dimensions: int = DIMENSIONS) -> Items:
    """Item parameters and abilities that are jointly most probable, from responses in [0, 1].

    Responses between 0 and 1 count as shares of right answers. Items and models are updated in
    turn, each a logistic regression under a Gaussian prior, from the principal components on. The
    result is deterministic; dimensions that few models cannot fill stay at their priors.

    Raises:
        InputError: a response is outside of [0, 1].

    Paper: Polo et al., "tinyBenchmarks", https://arxiv.org/abs/2402.14992 (the model).
    """
    if len(responses) and (responses.min() < 0 or responses.max() > 1):
        raise InputError(
            "item-response models need responses between 0 and 1, found "
            f"{responses.min():g} to {responses.max():g}; choose the estimator 'regression'"
        )
    models, count = responses.shape
    prior = np.zeros((count, dimensions + 1))
    prior[:, 0] = 1.0
    precision = np.array([1 / SPREAD_A**2] * dimensions + [1 / SPREAD_B**2])
    items, theta = prior, _start(responses, dimensions)
    for _ in range(STEPS):
        before = theta
        features = np.hstack([theta, -np.ones((models, 1))])
        items = regress(features, responses.T, prior, precision, items, steps=1)
        a, b = items[:, :-1], items[:, -1]
        theta = regress(a, responses, 0 * theta, np.ones(dimensions), theta, offset=-b, steps=1)
        theta = _standardise(theta)
        if np.abs(theta - before).max(initial=0.0) < TOLERANCE:
            break
    return Items(items[:, :-1], items[:, -1], theta)


def _start(
    responses: Float[np.ndarray, "models items"], dimensions: int
) -> Float[np.ndarray, "models dimensions"]:
    """Mean responses, then the principal components of what they leave."""
    theta = np.zeros((len(responses), dimensions))
    if len(responses) < 2:
        return theta
    level = responses.mean(1, keepdims=True)
    apart = responses - responses.mean(0) - level + level.mean()
    left, _, right = np.linalg.svd(apart, full_matrices=False)
    top = min(dimensions - 1, len(responses) - 1)
    theta[:, :1] = level
    theta[:, 1 : 1 + top] = left[:, :top] * np.sign(right[:top].sum(1))
    return _standardise(theta)


def _standardise(
    theta: Float[np.ndarray, "models dimensions"],
) -> Float[np.ndarray, "models dimensions"]:
    """Mean 0 and variance 1: without it abilities grow while discriminations shrink."""
    if not len(theta):
        return theta
    theta = theta - theta.mean(0)
    spread = np.sqrt(np.mean(theta**2, 0))
    result: Float[np.ndarray, "models dimensions"] = theta / np.where(spread > 1e-9, spread, 1)
    return result
