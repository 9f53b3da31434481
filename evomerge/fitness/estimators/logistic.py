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
    """Logistic regressions with the same features, under Gaussian priors.

    Each step climbs: the curvature ``p (1 - p)`` is replaced by its bound 1/4, which makes it the same
    for all problems and steps.

    Paper: Böhning & Lindsay, "Monotonicity of quadratic-approximation algorithms", 1988.
    """
    inverse = np.linalg.inv(features.T @ features / 4 + np.diag(precision))
    found = prior if start is None else start
    for _ in range(steps):
        error = y - sigmoid(found @ features.T + offset)
        step = (error @ features - (found - prior) * precision) @ inverse
        found = found + step
        if np.abs(step).max(initial=0.0) < TOLERANCE:
            break
    return found


def sigmoid(x: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """``1 / (1 + exp(-x))``."""
    result: Float[np.ndarray, "rows columns"] = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return result
