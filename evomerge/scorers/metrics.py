"""Metrics of scorers that have a few of their own, by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evomerge.errors import InputError
from evomerge.suite.scorer import NonFinite, unknown_metric


class Named:
    """A scorer's metrics.

    Attributes:
        name: of the scorer.
        metrics: name -> whether more is better.
    """

    name: str
    metrics: dict[str, bool]

    def resolve_metric(self, metric: str) -> str:
        """``metric`` if it is one of ``metrics``.

        Raises:
            InputError: it is none.
        """
        if metric not in self.metrics:
            raise InputError(unknown_metric(self.name, metric, list(self.metrics)))
        return metric


class Means(Named):
    """The same, each the mean of what items have of it."""

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """The mean; None is skipped."""
        self.resolve_metric(metric)
        applying = [value for value in values if value is not None]
        if not applying:
            raise NonFinite(self.name)
        return math.fsum(applying) / len(applying)
