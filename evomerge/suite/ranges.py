"""What values a metric can have, where that is known by its name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import SIGNALS, UNBOUNDED

Range = tuple[float, float]

ANY: Range = (-math.inf, math.inf)
UNIT: Range = (0.0, 1.0)
POSITIVE: Range = (0.0, math.inf)

_SHARES = {name for name in SIGNALS if name not in UNBOUNDED}
_SHARES |= {
    "acc",
    "acc_norm",
    "acc_norm_bytes",
    "acc_bytes",
    "acc_mutual_info",
    "exact_match",
    "f1",
    "em",
}
_SHARES |= {"pass_at_1", "pass@1", "accuracy", "ndcg", "recall", "mrr", "preference"}
_SHARES |= {
    f"{level}_level_{how}_acc" for level in ("prompt", "inst") for how in ("strict", "loose")
}
_POSITIVE = {
    "perplexity",
    "word_perplexity",
    "byte_perplexity",
    "bits_per_byte",
    "target_nats",
    "length",
}


def range_of(metric: str) -> Range:
    """The least and the greatest value that ``metric`` can have; a product has the range of its factors."""
    # lm-eval's names carry a filter behind a comma; ndcg and recall a depth behind an @
    factors = [factor.split(",")[0] for factor in metric.split("*")]
    if all(factor in _SHARES or factor.split("@")[0] in _SHARES for factor in factors):
        return UNIT
    if all(factor in _SHARES | _POSITIVE for factor in factors):
        return POSITIVE
    return ANY


def ranges(objectives: Sequence[Objective]) -> dict[str, Range]:
    """Of every objective: of one that is made of others, what holds them all."""
    own = {o.name: range_of(o.metric) for o in objectives if not o.of}
    derived = {
        o.name: (min(own[name][0] for name in o.of), max(own[name][1] for name in o.of))
        for o in objectives
        if o.of
    }
    return own | derived
