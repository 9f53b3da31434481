"""How closely a merge follows, on each task, the model that does best at it.

    choice      exp(-KL(q || p) / tau)              q, p: softmax of the log-likelihoods of the choices
    written     exp(-mean_t KL(q_t || p_t) / tau)   of the tokens of the answer
    text        -sum_t KL(q_t || p_t) in bits

with q of the model that is followed, p of the merge. No right answer is looked at; nor is one found that no
parent gives, so that skills of several parents at once are out of its sight.

Paper: Gauthier-Caron et al. 2024, Differentiable Adaptive Merging (DAM), https://arxiv.org/abs/2410.08371 (KL to
    the logits of each expert on its own data).
Deviations: each expert's own data are the tasks that it does best at, among base and parents; bounded by the
    exponential; weights are those of the search space (the paper's are ``rows: {by: columns}``), without penalties
    on them. Of a distribution over more than ``KEPT`` tokens the
    likeliest are kept and the others counted as one, which makes KL a little smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from evomerge.engines import Request
from evomerge.scorers.lessons import Choice, Lesson, Written
from evomerge.slopes.losses import BIT, Loss, nats_of_choices
from evomerge.suite.slopes import TAU

KEPT = 256  # tokens of a distribution: 3 kB a position


@dataclass(frozen=True)
class _Belief:
    """Distributions over tokens: ``tokens`` ``[positions, kept]``, ``logs`` of these and of all others."""

    tokens: Tensor
    logs: Tensor


class KL(Loss):
    """See the module's text."""

    FOLLOWS: ClassVar[bool] = True

    def __init__(self, tau: float = TAU) -> None:
        super().__init__(tau)
        self._choices: dict[Request, Tensor] = {}  # by the first of them
        self._beliefs: dict[Request, _Belief] = {}

    def hear(self, lesson: Lesson, logits: Sequence[Tensor]) -> None:
        if isinstance(lesson, Choice):
            self._choices[lesson.requests[0]] = nats_of_choices(lesson, logits).log_softmax(-1)
            return
        for each, request in zip(logits, lesson.requests, strict=True):
            tokens = each.topk(min(KEPT, each.shape[-1])).indices
            logs = _kept(each, tokens)
            self._beliefs[request] = _Belief(tokens.to("cpu", torch.int32), logs.cpu())

    def merit(self, lesson: Lesson, logits: Sequence[Tensor]) -> Tensor:
        if isinstance(lesson, Choice):
            theirs = self._choices[lesson.requests[0]]
            ours = nats_of_choices(lesson, logits).log_softmax(-1)
            return torch.exp(-_divergence(theirs, ours) / self.tau)
        pairs = zip(logits, lesson.requests, strict=True)
        found = [self._divergences(each, request) for each, request in pairs]
        if isinstance(lesson, Written):
            return torch.exp(-found[0].mean() / self.tau)
        return -torch.stack([each.sum() for each in found]).sum() / BIT

    def _divergences(self, logits: Tensor, request: Request) -> Tensor:
        """KL at every position, nats."""
        belief = self._beliefs[request]
        ours = _kept(logits, belief.tokens.to(logits.device, torch.int64))
        return _divergence(belief.logs.to(logits.device), ours)


def _kept(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of ``tokens``, and of all others together where there are some."""
    logs = logits.log_softmax(-1)
    kept = logs.gather(1, tokens)
    if tokens.shape[-1] == logits.shape[-1]:
        return kept
    others = logs.scatter(1, tokens, -torch.inf).logsumexp(-1)
    return torch.cat([kept, others[:, None]], -1)


def _divergence(theirs: Tensor, ours: Tensor) -> Tensor:
    """KL(theirs || ours) of log-probabilities, over the last axis."""
    return (theirs.exp() * (theirs - ours)).sum(-1)
