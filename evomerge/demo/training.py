"""A step of training, which the embedded family and the adapters of the small real model share."""

from __future__ import annotations

from typing import Any

import torch

IGNORED = -100  # the label that cross entropy skips
_NORM = 1.0  # of a gradient, at most


def step(
    model: Any,
    ids: torch.Tensor,
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
) -> float:
    """One step towards the next token; the loss before it.

    Args:
        model: of transformers.
        ids: token ids ``[lines, tokens]``, padded on the right.
        labels: what is learned of them, ``[lines, tokens]``; ``IGNORED`` where nothing is.
        optimizer, schedule: of what is trained.
    """
    # Right padding: a causal model's real tokens never see it, so no attention mask.
    logits = model(input_ids=ids[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    taught = [each for group in optimizer.param_groups for each in group["params"]]
    torch.nn.utils.clip_grad_norm_(taught, _NORM)
    optimizer.step()
    schedule.step()
    return float(loss.detach())
