"""By how much one candidate leads another on the same items, and how well that is known."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from evomerge.suite.scorer import Results, column
from evomerge.suite.suite import Suite


def lead(
    suite: Suite,
    shares: Mapping[str, float],
    ours: Results,
    theirs: Results,
    floors: Mapping[str, float] | None = None,
) -> tuple[float, float] | None:
    """The difference of two scores to first order, paired item by item, and its standard error.

        D = sum_o share_o (our mean_o - their mean_o) = sum_s c_s,   var D = S / (S - 1) sum_s (c_s - D / S)^2

    with c_s what the items of source s add to it: all that was made from one source errs together. What
    floors add is taken as far as it is more than its own error, and then with that error. Their price is many
    times what it costs to mend a floor on the way to the model that it names, so their noise would drown all else.

    Args:
        suite: measures.
        shares: objective -> derivative of the score by its value.
        ours, theirs: responses to the same items in the same order.
        floors: objective -> the derivative of what floors add to the score, which is at most 0.

    Returns:
        None where an objective is neither a mean nor a ratio of sums, or there is one source only.
    """
    floors = floors or {}
    if not any(floors.values()):
        return _difference(suite, shares, ours, theirs)
    found = _difference(suite, shares, ours, theirs) if any(shares.values()) else (0.0, 0.0)
    mended = _difference(suite, floors, ours, theirs)
    if found is None or mended is None:
        return None
    beyond = abs(mended[0]) - mended[1]
    if beyond <= 0:
        return found
    return found[0] + math.copysign(beyond, mended[0]), math.hypot(found[1], mended[1])


def _difference(
    suite: Suite, shares: Mapping[str, float], ours: Results, theirs: Results
) -> tuple[float, float] | None:
    """D and its standard error."""
    added: dict[str, float] = defaultdict(float)
    for objective in suite.measured:
        share = shares.get(objective.name, 0.0)
        if not share:
            continue
        name, items = objective.scorer, ours[objective.scorer]["items"]
        columns = [column(results[name], objective.metric) for results in (ours, theirs)]
        sums = [suite.sums(name, objective.metric, values) for values in columns]
        if not sums[0] or not sums[1] or (sums[0].under != sums[1].under).any():
            return None
        whole = sums[0].under.sum()
        for at, item in enumerate(items):
            difference = sums[0].scale * sums[0].over[at] - sums[1].scale * sums[1].over[at]
            added[suite.source_of[name][item]] += share * float(difference) / whole
    count, total = len(added), math.fsum(added.values())
    if count < 2:
        return None
    spread = math.fsum((each - total / count) ** 2 for each in added.values())
    return total, math.sqrt(spread * count / (count - 1))
