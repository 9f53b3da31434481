"""Greedy decoding of a batch whose rows leave as they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evomerge.engines.greedy import Ends
from evomerge.engines.huggingface.key_values import KeyValues

_LEAVING = 8  # rows that ended are dropped once they are this part of a batch

Step = Callable[[Tensor, Tensor, Tensor, KeyValues], Tensor]
"""(token ids, positions, mask, cache) -> next-token logits, shape (rows, vocabulary)."""


def decode(
    step: Step,
    logits: Tensor,
    cache: KeyValues,
    prompts: Sequence[Sequence[int]],
    *,
    ends: Ends,
    limit: int,
    penalty: float = 1.0,
) -> list[tuple[list[int], bool]]:
    """The greedy answer to each prompt, and whether only ``limit`` ended it.

    Args:
        logits: that follow the prompts, shape (rows, vocabulary).
        cache: of the prompts; rows are filled up on the left to one width.
        penalty: of tokens that stand in the prompt or answer already (Keskar et al. 2019, CTRL,
            https://arxiv.org/abs/1909.05858, section 4.1).

    Raises:
        FloatingPointError: the logits are NaN.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=logits.device)
    mask = _padding_mask(cache.get_seq_length() - lengths, cache.get_seq_length() + limit, logits)
    seen = _seen(prompts, logits) if penalty != 1.0 else None
    rows = list(range(len(prompts)))  # whose answer each row of the batch writes
    running = set(rows)
    for written in range(1, limit + 1):
        scores = logits.float()
        if seen is not None:
            penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
            scores = torch.where(seen, penalised, scores)
        best, chosen = scores.max(dim=-1)
        # The likeliest of NaNs is a token like any other, and its text may even score.
        if bool(best.isnan().any()):
            raise FloatingPointError("NaN logits")
        if seen is not None:
            seen.scatter_(1, chosen[:, None], True)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if row in running:
                answers[row].append(token)
        asked = sorted(running)
        ended = ends.ended([answers[row] for row in asked])
        running -= {row for row, done in zip(asked, ended, strict=True) if done}
        if not running or written == limit:
            break
        if len(rows) - len(running) >= max(1, len(rows) // _LEAVING):
            stay = [at for at, row in enumerate(rows) if row in running]
            rows = [rows[at] for at in stay]
            kept = torch.tensor(stay, device=logits.device)
            chosen, lengths, mask = chosen[kept], lengths[kept], mask[kept]
            seen = None if seen is None else seen[kept]
            idle = cache.get_seq_length() - written + 1 - int(lengths.max())
            cache, mask = cache.kept(kept, idle), mask[..., idle:]
        columns = cache.get_seq_length() + 1
        positions = (lengths + written - 1)[:, None]
        logits = step(chosen[:, None], positions, mask[..., :columns], cache)
    return [(answer, row in running) for row, answer in enumerate(answers)]


def _padding_mask(padding: Tensor, columns: int, like: Tensor) -> Tensor:
    """Additive, shape (rows, 1, 1, columns): hides the first ``padding`` columns of each row."""
    hidden = torch.arange(columns, device=like.device) < padding[:, None]
    mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(hidden, torch.finfo(like.dtype).min)[:, None, None]


def _seen(prompts: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    """Which tokens each prompt holds, shape (rows, vocabulary)."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(list(prompt), device=logits.device)] = True
    return seen
