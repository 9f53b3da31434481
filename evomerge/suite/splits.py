"""Four disjoint item sets: probe, search, select, report.

Where an item falls depends on the hash of its source: not on the run's seed or the order of tasks.
So an item of the report split is one in every run, and the translations of an item stay together.
Near-duplicates go where one of their sources goes; another ``partition`` is another hash.

A source falls at a point in [0, 1), uniformly; each split is an interval, and ``report`` is the
last one, so that a smaller report share keeps within a larger one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

from evomerge import seeds
from evomerge.errors import InputError, did_you_mean, one_of
from evomerge.suite.duplicates import find_duplicates
from evomerge.suite.scorer import Item


class Split(StrEnum):
    """One of the item sets, in the order of the intervals that they are."""

    PROBE = "probe"  # a few items that catch a collapsed merge
    SEARCH = "search"  # candidates answer samples of it
    SELECT = "select"  # the shortlist alone
    REPORT = "report"  # touched once, at the end


SPLITS = tuple(Split)
SHARES: Mapping[str, float] = {"probe": 0.05, "search": 0.40, "select": 0.15, "report": 0.40}

# Per scorer, the ids of one split; and that for each split.
Subset = dict[str, list[str]]
Assignment = dict[str, Subset]

_SALT = "evomerge split of a source, 1"  # changing it moves items between splits


def split_of(source: str, shares: Mapping[str, float] = SHARES) -> str:
    """The split of everything made from ``source``.

    Raises:
        InputError: ``shares`` names no split, is negative, or does not sum to 1.
    """
    _check(shares)
    return _at(_point(source), shares)


def assign(
    items: Mapping[str, Sequence[Item]],
    shares: Mapping[str, float] = SHARES,
    limits: Mapping[str, int] | None = None,
    partition: int = 0,
) -> Assignment:
    """The ids of each split, per scorer, in hash order.

    ``limits`` caps the items per scorer in a split: those whose sources come first in hash order,
    so a lower limit keeps a subset, and parallel tasks keep the same sources. No split holds a
    near-duplicate of another's item. Each ``partition`` cuts the sources in another way.

    Raises:
        InputError: a share or limit is wrong, or a scorer has no item in a split that has a share.
    """
    _check(shares)
    limits = limits or {}
    _known(limits, "limits")
    leader = {source: group.leader for group in find_duplicates(items) for source in group.sources}
    result: Assignment = {split: {} for split in SPLITS}
    for scorer, listed in items.items():
        placed: dict[str, list[tuple[float, str, str]]] = {split: [] for split in SPLITS}
        for item in listed:
            point = _point(leader.get(item.source, item.source), partition)
            order = (point, item.source, item.id)
            placed[item.split or _at(point, shares)].append(order)
        for split in SPLITS:
            # no probe only means that a collapsed merge is found out later
            if split != Split.PROBE and not placed[split] and shares.get(split, 0.0) > 0:
                raise InputError(
                    f"{scorer}: {len({item.source for item in listed})} different sources are too "
                    f"few: none falls into the {split.value!r} split, a share of {shares[split]:g}; add "
                    f"items, raise that share, or set it to 0"
                )
            ids = [id for _, _, id in sorted(placed[split])]
            result[split][scorer] = ids[: limits.get(split, len(ids))]
    return result


def digest(assignment: Assignment) -> str:
    """32 hexadecimal digits that name an assignment, whatever the order of its scorers."""
    text = json.dumps(assignment, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def subset(split: Subset, count: int, *key: seeds.Part) -> Subset:
    """``count`` items per scorer, or all it has, drawn without replacement under ``key``.

    One scorer's draw does not depend on the other scorers; ids keep the order of ``split``.
    """
    drawn = {}
    for scorer, ids in split.items():
        first = sorted(ids, key=lambda id: seeds.key(*key, scorer, id))[:count]
        chosen = set(first)
        drawn[scorer] = [id for id in ids if id in chosen]
    return drawn


def _point(source: str, partition: int = 0) -> float:
    return seeds.unit(_SALT, source, *([partition] if partition else []))


def _at(point: float, shares: Mapping[str, float]) -> str:
    """The split whose interval holds ``point``."""
    end = 0.0
    for split in SPLITS[:-1]:
        end += shares.get(split, 0.0)
        if point < end:
            return split
    # Rounding of the sum must not put an item into a report split that has no share.
    return next(split for split in reversed(SPLITS) if shares.get(split, 0.0) > 0)


def _check(shares: Mapping[str, float]) -> None:
    _known(shares, "shares")
    if any(share < 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1):
        raise InputError(f"shares of the splits must be 0 or more and sum to 1, found {shares}")


def _known(names: Mapping[str, object], what: str) -> None:
    for name in names:
        if name not in SPLITS:
            hint = did_you_mean(name, SPLITS)
            raise InputError(f"{what}: unknown split {name!r}{hint}; expected {one_of(SPLITS)}")
