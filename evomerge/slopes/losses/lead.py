"""By how much what is right leads what is not, squeezed into [0, 1].

    choice      sigmoid(m / tau)    m: nats by which the likeliest right choice leads the likeliest wrong one
    written     sigmoid(m / tau)    m: the smallest lead of a target token's logit over its best rival's
    text        -bits, which are their own smooth metric

A hopeless item has no slope, nor has one that is safe: only those that a step can turn count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.scorers.lessons import Choice, Lesson, Written
from evomerge.slopes.losses import BIT, Loss, nats, nats_of_choices, targets


class Lead(Loss):
    """See the module's text."""

    def merit(self, lesson: Lesson, logits: Sequence[Tensor]) -> Tensor:
        if isinstance(lesson, Choice):
            each = nats_of_choices(lesson, logits)
            right = torch.tensor([n in lesson.right for n in range(len(each))], device=each.device)
            return torch.sigmoid((each[right].max() - each[~right].max()) / self.tau)
        if isinstance(lesson, Written):
            return torch.sigmoid(_least_lead(logits[0], lesson) / self.tau)
        pairs = zip(logits, lesson.requests, strict=True)
        return torch.stack([nats(each, request) for each, request in pairs]).sum() / BIT


def _least_lead(logits: Tensor, lesson: Written) -> Tensor:
    """By how much the weakest target token leads its best rival; negative where it does not."""
    wanted = targets(logits, lesson.request)
    own = logits.gather(1, wanted)[:, 0]
    rivals = logits.scatter(1, wanted, -torch.inf).amax(-1)
    leads = own - rivals
    if lesson.ends:
        ends = torch.tensor(sorted(lesson.ends), device=logits.device)
        rest = logits[-1].index_fill(0, ends, -torch.inf).max()
        leads = torch.cat([leads[:-1], (logits[-1][ends].max() - rest)[None]])
    return leads.min()
