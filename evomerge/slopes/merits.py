"""How well lessons are answered: bounded, differentiable, in the units of the metric they stand for.

    choice      sigmoid(m / tau)    m: nats by which the likeliest right choice leads the likeliest wrong one
    written     sigmoid(m / tau)    m: the smallest lead of a target token's logit over its best rival's
    text        -bits per byte, which are their own smooth metric, maximised

A hopeless item has no slope, nor has one that is safe: only those that a step can turn count. Unbounded
losses (cross-entropy, logistic) spend everything on hopeless items; descending on them made merges worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.engines import Request
from evomerge.scorers.lessons import Choice, Lesson, Text, Written

TAU = 2.0  # nats
SHARES = (Choice, Written)  # kinds whose merits are shares of 1


def merit(lesson: Lesson, logits: Sequence[Tensor], tau: float = TAU) -> Tensor:
    """How well one lesson is answered.

    Args:
        lesson: with its requests.
        logits: of each request's continuation, ``[tokens, vocabulary]``, float32.
        tau: nats; the width of what a step can turn.

    Returns:
        A scalar: in (0, 1) for a choice or a written answer; of a text its log-likelihood in bits.
    """
    if isinstance(lesson, Choice):
        nats = torch.stack(
            [_nats(each, request) for each, request in zip(logits, lesson.requests, strict=True)]
        )
        right = torch.tensor([n in lesson.right for n in range(len(nats))], device=nats.device)
        lead = nats[right].max() - nats[~right].max()
        return torch.sigmoid(lead / tau)
    if isinstance(lesson, Written):
        return torch.sigmoid(_least_lead(logits[0], lesson) / tau)
    parts = [_nats(each, request) for each, request in zip(logits, lesson.requests, strict=True)]
    return torch.stack(parts).sum() / math.log(2)


def scale(lessons: Sequence[Lesson]) -> float:
    """What the sum of the merits of ``lessons`` is divided by: their number, or the bytes of texts."""
    return float(sum(each.size if isinstance(each, Text) else 1 for each in lessons))


def _targets(logits: Tensor, request: Request) -> Tensor:
    return torch.tensor(request.continuation, device=logits.device)


def _nats(logits: Tensor, request: Request) -> Tensor:
    """The log-likelihood of a continuation."""
    targets = _targets(logits, request)
    return logits.log_softmax(-1).gather(1, targets[:, None]).sum()


def _least_lead(logits: Tensor, lesson: Written) -> Tensor:
    """By how much the weakest target token leads its best rival; negative where it does not."""
    targets = _targets(logits, lesson.request)[:, None]
    own = logits.gather(1, targets)[:, 0]
    rivals = logits.scatter(1, targets, -torch.inf).amax(-1)
    leads = own - rivals
    if lesson.ends:
        ends = torch.tensor(sorted(lesson.ends), device=logits.device)
        rest = logits[-1].index_fill(0, ends, -torch.inf).max()
        leads = torch.cat([leads[:-1], (logits[-1][ends].max() - rest)[None]])
    return leads.min()
