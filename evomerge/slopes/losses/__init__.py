"""Losses: what slopes are derivatives of, one a file, chosen by name (``slopes: {loss: NAME}`` in a suite).

A loss is written as a *merit*, which is maximised: of an item in [0, 1], the unit of the metric that it stands
for; of running text in bits. So an item that nothing turns has no slope. Unbounded losses (cross-entropy,
logistic) spend everything on hopeless items; descending on them made merges worse than what they started from.
A plugin is such a class under group ``evomerge.losses``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from evomerge.engines import Request
from evomerge.registry import LOSSES
from evomerge.scorers.lessons import Choice, Lesson, Text
from evomerge.suite.slopes import TAU

BIT = math.log(2)  # nats


class Loss(ABC):
    """Made anew for every slope.

    Attributes:
        FOLLOWS: whether it compares with another model, which is heard before.
        tau: nats; the width of what a step can turn.
    """

    FOLLOWS: ClassVar[bool] = False

    def __init__(self, tau: float = TAU) -> None:
        self.tau = tau

    @abstractmethod
    def merit(self, lesson: Lesson, logits: Sequence[Tensor]) -> Tensor:
        """How well one lesson is answered.

        Args:
            lesson: with its requests.
            logits: of each request's continuation, ``[tokens, vocabulary]``, float32.

        Returns:
            A scalar: in [0, 1]; of a text in bits.
        """

    def hear(self, lesson: Lesson, logits: Sequence[Tensor]) -> None:
        """What the model that is followed says of a lesson; its logits come without derivatives."""
        raise NotImplementedError(f"{type(self).__name__} follows no model")


def make(name: str, tau: float = TAU) -> Loss:
    """The loss called ``name``.

    Raises:
        InputError: there is none, or its plugin cannot be imported.
    """
    made: Loss = LOSSES.get(name)(tau)
    return made


def scale(lessons: Sequence[Lesson]) -> float:
    """What the sum of the merits of ``lessons`` is divided by: their number, or the bytes of texts."""
    return float(sum(each.size if isinstance(each, Text) else 1 for each in lessons))


def nats_of_choices(lesson: Choice, logits: Sequence[Tensor]) -> Tensor:
    """The log-likelihood of every choice, ``[choices]``."""
    pairs = zip(logits, lesson.requests, strict=True)
    return torch.stack([nats(each, request) for each, request in pairs])


def nats(logits: Tensor, request: Request) -> Tensor:
    """The log-likelihood of a continuation."""
    return logits.log_softmax(-1).gather(1, targets(logits, request)).sum()


def targets(logits: Tensor, request: Request) -> Tensor:
    """The tokens of a continuation, ``[tokens, 1]``."""
    return torch.tensor(request.continuation, device=logits.device)[:, None]
