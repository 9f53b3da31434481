"""The confirmed front: whom of the shortlist nobody dominates, by paired resamples of the select items.

A front over search estimates is best-of-noise: of many candidates the luckiest are left. Here each
member is scored again on items that no search has seen, and kept if, over resamples of their sources
that all models share, it is more likely than not that none of the others dominates it:

    p_i = share of draws d in which no j has  v_j(d) >= v_i(d)  in all objectives, > in one

What answers alike dominates nobody: what is unknown of a share that is all right or all wrong is drawn
once for all models, not for each. Who misses a floor neither is on the front nor keeps another off it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evomerge.evolution.history import Member
from evomerge.judging.evidence import Bootstrap
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import Results

PROBABILITY = 0.5  # of being on the front, above which a member is kept


def confirm(
    bootstrap: Bootstrap,
    objectives: Sequence[Objective],
    answers: Mapping[int, Results],
    members: Sequence[int],
) -> tuple[Member, ...]:
    """Those of ``members`` that are on the front of all who answered, in their order.

    Args:
        bootstrap: over the items that were answered.
        objectives: those that count.
        answers: candidate -> responses, of all that miss no floor; base and parents are among them,
            as a merge that a parent dominates is on no front.
        members: candidates that may be on it.
    """
    drawn = {}
    for candidate, responses in answers.items():
        found = bootstrap.values(responses, "front")
        drawn[candidate] = np.stack([o.sign * found[o.name].draws for o in objectives], axis=1)
    confirmed = []
    for candidate in members:
        ours, beaten = drawn[candidate], np.zeros(len(drawn[candidate]), bool)
        for other, theirs in drawn.items():
            if other != candidate:
                beaten |= (theirs >= ours).all(1) & (theirs > ours).any(1)
        defined = ~np.isnan(ours).any(1)
        probability = float(1 - beaten[defined].mean()) if defined.any() else 0.0
        if probability > PROBABILITY:
            confirmed.append(Member(candidate, probability))
    return tuple(confirmed)
