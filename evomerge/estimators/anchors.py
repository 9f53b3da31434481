"""Anchor points: every item is answered like the asked items nearest to it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from evomerge import seeds
from evomerge.estimators import Known, Sample

ROUNDS = 30  # of Lloyd's algorithm
SOFT = 1.0  # nats


class Anchors:
    """``m(i)``: the mean response to the asked items that are nearest to item i in what is known of them.

    So the plain form is ``sum_k w_k y_k`` with w_k the share of items around anchor k. Its items
    should be chosen (``choose``), not drawn.

    Paper: Polo et al., "tinyBenchmarks", https://arxiv.org/abs/2402.14992;
        Vivek et al., "Anchor Points", https://arxiv.org/abs/2309.08638.
    """

    def __init__(self, known: Known) -> None:
        self._points = represent(known)

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        guess = np.zeros((len(sample.responses), len(self._points)))
        if len(sample.items):
            guess += sample.responses @ influence(self._points, sample.items).T
        return guess


def represent(known: Known) -> Float[np.ndarray, "items features"]:
    """What is known of each item: responses, or how sure they are where there are margins; its stratum.

    Responses are scaled like right and wrong, so that another stratum is as far as another answer.
    """
    responses = known.responses
    if len(responses):
        responses = responses / max(2 * float(responses.std()), 1e-9)
    if known.margins is not None:
        sure = 1 / (1 + np.exp(-np.clip(known.margins / SOFT, -30, 30)))
        responses = np.where(np.isfinite(sure), sure, responses)
    strata = np.unique(known.strata, return_inverse=True)[1]
    return np.hstack([responses.T, np.eye(strata.max() + 1)[strata]])


def choose(
    points: Float[np.ndarray, "items features"], count: int, *key: seeds.Part
) -> Int[np.ndarray, " anchors"]:
    """The items nearest to the centres of ``count`` clusters, in order; all items if there are fewer.

    Clusters by k-means++ under ``key`` and Lloyd's algorithm.
    """
    if count >= len(points):
        return np.arange(len(points))
    centres = _seed(points, count, *key)
    for _ in range(ROUNDS):
        member = np.argmin(distances(points, centres), 1)
        size = np.bincount(member, minlength=count)[:, None]
        sums = np.stack(
            [np.bincount(member, feature, minlength=count) for feature in points.T], axis=1
        )
        moved = np.where(size > 0, sums / np.maximum(size, 1), centres)
        if np.allclose(moved, centres):
            break
        centres = moved
    chosen: list[int] = []
    for row in distances(centres, points):
        row[chosen] = np.inf
        chosen.append(int(np.argmin(row)))
    return np.sort(chosen)


def influence(
    points: Float[np.ndarray, "items features"], anchors: Int[np.ndarray, " anchors"]
) -> Float[np.ndarray, "items anchors"]:
    """The share of each anchor in what is assumed of each item: the nearest has all, equals share it."""
    distance = distances(points, points[anchors])
    nearest = distance <= distance.min(1, keepdims=True) + 1e-9
    shares: Float[np.ndarray, "items anchors"] = nearest / nearest.sum(1, keepdims=True)
    return shares


def distances(
    points: Float[np.ndarray, "points features"], others: Float[np.ndarray, "others features"]
) -> Float[np.ndarray, "points others"]:
    """Squared Euclidean distances."""
    squares = np.sum(points**2, 1)[:, None] + np.sum(others**2, 1)
    found: Float[np.ndarray, "points others"] = np.maximum(squares - 2 * points @ others.T, 0.0)
    return found


def _seed(
    points: Float[np.ndarray, "items features"], count: int, *key: seeds.Part
) -> Float[np.ndarray, "count features"]:
    """k-means++: each centre is drawn with the squared distance to those before it."""
    draws = seeds.uniforms(count, "anchors", *key)
    drawn: list[int] = []
    distance = np.ones(len(points))
    for draw in draws:
        odds = np.cumsum(distance if distance.any() else np.ones(len(points)))
        drawn.append(int(np.searchsorted(odds, draw * odds[-1], side="right")))
        nearest = distances(points, points[drawn[-1:]])[:, 0]
        distance = nearest if len(drawn) == 1 else np.minimum(distance, nearest)
    return points[drawn]
