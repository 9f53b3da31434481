"""Which items are asked when: the samples of the search, and the rounds of the shortlist's race.

A sample is never a prefix: tasks are often ordered by topic. It is drawn without replacement,
stratum by stratum, each item with the same probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from evomerge import seeds
from evomerge.suite.splits import Subset

ROUNDS = (0.25, 0.5, 1.0)  # of the select split's sources, round by round

Labels = Mapping[str, Mapping[str, str]]  # scorer -> item id -> its stratum, or its source


def size(first: int, last: int, progress: float) -> int:
    """Items per scorer when ``progress`` of the search is over: geometric from first to last."""
    return round(first * math.pow(last / first, progress))


def sample(split: Subset, strata: Labels, count: int, *key: seeds.Part) -> Subset:
    """``count`` items per scorer, or all it has, drawn under ``key``; in the order of ``split``.

    Strata get their shares, rounded up or down by one draw (systematic sampling). One scorer's
    draw does not depend on the other scorers.
    """
    drawn = {}
    for scorer, ids in split.items():
        if count >= len(ids):
            drawn[scorer] = list(ids)
            continue
        by_stratum: dict[str, list[str]] = {}
        rank = dict(zip(ids, seeds.keys((*key, scorer), ids), strict=True))
        for id in sorted(ids, key=rank.__getitem__):
            by_stratum.setdefault(strata[scorer][id], []).append(id)
        chosen: set[str] = set()
        start, before = seeds.unit(*key, scorer), 0
        for stratum in sorted(by_stratum):
            after = before + len(by_stratum[stratum])
            ends = (math.floor(start + count * n / len(ids)) for n in (before, after))
            taken = -next(ends) + next(ends)
            chosen.update(by_stratum[stratum][:taken])
            before = after
        drawn[scorer] = [id for id in ids if id in chosen]
    return drawn


def part(split: Subset, sources: Labels, strata: Labels, share: float) -> Subset:
    """The items of the first ``share`` of all sources, in hash order, and one of each stratum.

    A larger share holds every smaller one. Items of one source are never parted.
    """
    rank = {
        source: number
        for number, source in enumerate(
            sorted(
                {sources[scorer][id] for scorer, ids in split.items() for id in ids},
                key=lambda source: seeds.key("round", source),
            )
        )
    }
    taken = {source for source, number in rank.items() if number < math.ceil(share * len(rank))}
    for scorer, ids in split.items():
        firsts: dict[str, str] = {}
        for source, stratum in sorted(
            ((sources[scorer][id], strata[scorer][id]) for id in ids),
            key=lambda pair: rank[pair[0]],
        ):
            firsts.setdefault(stratum, source)
        taken.update(firsts.values())
    return {
        scorer: [id for id in ids if sources[scorer][id] in taken] for scorer, ids in split.items()
    }
