"""How sure a model is, whether it is right or not: for prompts without right answers.

    choice      1 - H(p) / log n        p: softmax of the log-likelihoods of n choices
    written     1 - H(p) / log V        p: of the first token of the answer, out of V
    text        -sum_t H(p_t) in bits   p_t: of every token

It rewards confident wrongness, and may collapse to one parent: alone a merge, being unsure where its parents
disagree, looks worse than either. Keep what it finds only where the exact metric agrees, as ``auto`` does.

Paper: Yang et al. 2024, AdaMerging, https://arxiv.org/abs/2310.02575 (the Shannon entropy of predictions on
    unlabelled test inputs, descended on by Adam).
Deviations: normalised by its maximum; language models have no classes, so predictions are those above. ``tau``
    is not read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.scorers.lessons import Choice, Lesson, Written
from evomerge.slopes.losses import BIT, Loss, nats_of_choices


class Entropy(Loss):
    """See the module's text. Which answers are right is not looked at."""

    def merit(self, lesson: Lesson, logits: Sequence[Tensor]) -> Tensor:
        if isinstance(lesson, Choice):
            return _sureness(nats_of_choices(lesson, logits))
        if isinstance(lesson, Written):
            return _sureness(logits[0][0])
        return -torch.stack([_entropy(each).sum() for each in logits]).sum() / BIT


def _sureness(logits: Tensor) -> Tensor:
    return 1 - _entropy(logits) / math.log(logits.shape[-1])


def _entropy(logits: Tensor) -> Tensor:
    """In nats, over the last axis."""
    log = logits.log_softmax(-1)
    return -(log.exp() * log).sum(-1)
