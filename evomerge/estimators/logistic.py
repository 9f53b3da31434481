"""Logistic regression under Gaussian priors, many problems at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

TOLERANCE = 1e-4


def regress(
    features: Float[np.ndarray, "observations parameters"],
    y: Float[np.ndarray, "problems observations"],
    prior: Float[np.ndarray, "problems parameters"],
    precision: Float[np.ndarray, " parameters"],
    start: Float[np.ndarray, "problems parameters"] | None = None,
    *,
    offset: Float[np.ndarray, " observations"] | float = 0.0,
    steps: int = 100,
) -> Float[np.ndarray, "problems parameters"]:
    """Most probable coefficients of logistic regressions with the same features, priors N(prior, 1/precision).

    Each step climbs: the curvature ``p (1 - p)`` is replaced by its bound 1/4, which makes it the same
    for all problems and steps.

    Paper: Böhning & Lindsay, "Monotonicity of quadratic-approximation algorithms", 1988.
    """
    inverse = np.linalg.inv(features.T @ features / 4 + np.diag(precision))
    found = prior if start is None else start
    moving = np.ones((len(y), 1), bool)  # a problem's result does not depend on the others'
    for _ in range(steps):
        error = y - sigmoid(found @ features.T + offset)
        step = moving * ((error @ features - (found - prior) * precision) @ inverse)
        found = found + step
        moving &= np.abs(step).max(1, keepdims=True, initial=0.0) >= TOLERANCE
        if not moving.any():
            break
    return found


def sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """``1 / (1 + exp(-x))``."""
    result: Float[np.ndarray, "*shape"] = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return result
