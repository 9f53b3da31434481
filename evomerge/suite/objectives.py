"""Objectives: what is wanted of a model, and how wants combine into one score.

Everything here is a pure function of plain numbers. Values are kept in the metric's own direction;
``Objective.sign`` is the one place where minimised metrics are turned.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

Values = Mapping[str, float]  # objective name -> value, in the metric's own direction

BASE = "base"
SMALL_GAIN = 0.05  # parents that gain less than this share of the value set no yardstick ...
YARDSTICK = 0.25  # ... this share of the value does
CONFIDENCE = 0.9  # how likely all floors must hold on the select items for them to be confirmed
PRICE = 3.0  # of missing a floor by its own size, in the score that a slope climbs
SOFT = 0.01  # of a floor's size: how softly that sets in
BENT = {  # how an objective is made of others, where that is no sum of them
    "worst": "is the worst of others",
    "distance": "is a distance from a target",
}


@dataclass(frozen=True)
class Floor:
    """A constraint: at least ``value``, or at least ``share`` of what model ``of`` scores.

    For minimised metrics it is a ceiling: at most that. Shares are of a value's size:

        bound = reference + (share - 1) |reference|

    so a share below 1 is looser than the model for a maximised metric, one above 1 for a minimised one,
    below zero, too.
    """

    value: float | None = None
    share: float | None = None
    of: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.share is None or self.of is None):
            raise ValueError("a floor is a value, or a share of a model's")

    def bound(self, objective: Objective, references: Mapping[str, Values]) -> float:
        """The bound as a value of the objective."""
        if self.value is not None:
            return self.value
        assert self.of is not None and self.share is not None
        reference = references[self.of][objective.name]
        return reference + (self.share - 1) * abs(reference)

    def __str__(self) -> str:
        return (
            f"{self.value:g}"
            if self.value is not None
            else f"{100 * (self.share or 0):g}% of {self.of}"
        )


@dataclass(frozen=True)
class Objective:
    """A named quantity.

    Attributes:
        name: as the suite calls it.
        scorer: the scorer that measures it.
        metric: which of the scorer's metrics.
        maximize: direction of the metric.
        weight: share in the combined score.
        floor: constraint, or None.
        scale: a gain of this much counts 1 in the combined score; None: what the best parent gains
            over the base.
        of: other objectives that this one is made of, by ``how``; it has no scorer of its own.
        how: ``worst`` or ``mean`` of their values; ``distance``: how far they are from ``target``, on average.
        target: of a distance, in their own units.
    """

    name: str
    scorer: str
    metric: str
    maximize: bool = True
    weight: float = 1.0
    floor: Floor | None = None
    scale: float | None = None
    of: tuple[str, ...] = ()
    how: str = ""
    target: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf or not (self.scale is None or 0 < self.scale < math.inf):
            raise ValueError(f"objective {self.name!r:.60}: weight is 0 or more, scale above 0")

    @property
    def sign(self) -> float:
        return 1.0 if self.maximize else -1.0

    def derive(self, values: Values) -> float:
        """The value of an objective that is made of others."""
        found = [values[name] for name in self.of]
        if self.target is not None:
            return sum(abs(value - self.target) for value in found) / len(found)
        if self.how == "mean":
            return sum(found) / len(found)
        return min(found) if self.maximize else max(found)


@dataclass(frozen=True, slots=True)
class Score:
    """A combined score. ``violation`` sums the relative amounts by which floors are missed."""

    value: float
    violation: float = 0.0

    @property
    def feasible(self) -> bool:
        return self.violation <= 0.0

    @property
    def rank(self) -> tuple[bool, float]:
        """Sort key, larger is better: feasible candidates by value, then the others by violation."""
        return (self.feasible, self.value if self.feasible else -self.violation)


def with_derived(objectives: Sequence[Objective], values: Values) -> dict[str, float]:
    """Values of all objectives, in their order, from those of the measured ones."""
    return {
        objective.name: objective.derive(values) if objective.of else values[objective.name]
        for objective in objectives
    }


def counting(objectives: Sequence[Objective]) -> list[Objective]:
    """The objectives that count: those with a weight, whether measured or made of others.

    The one rule for optimizers, fronts, knees and exports.
    """
    return [objective for objective in objectives if objective.weight]


def entering(objectives: Sequence[Objective]) -> list[Objective]:
    """The measured objectives that enter the combined score: those that count, and parts of these."""
    parts = {name for o in objectives if o.weight for name in (*o.of, o.name)}
    return [objective for objective in objectives if not objective.of and objective.name in parts]


def aimed(objectives: Sequence[Objective]) -> set[str]:
    """Measured objectives without a weight that a distance is of: neither more nor less of them is better."""
    parts = {name for o in objectives if o.target is not None for name in o.of}
    return {o.name for o in objectives if o.name in parts and not o.weight}


def derived(objective: Objective, values: Values, share: float = 1.0) -> dict[str, float]:
    """The derivative of ``share`` times an objective by the measured ones that it is made of."""
    if not objective.of:
        return {objective.name: share}
    share_of_each = share / len(objective.of)
    if objective.target is not None:
        return {
            name: math.copysign(share_of_each, values[name] - objective.target)
            if values[name] != objective.target
            else 0.0
            for name in objective.of
        }
    if objective.how == "mean":
        return dict.fromkeys(objective.of, share_of_each)
    worst = (min if objective.maximize else max)(objective.of, key=lambda name: values[name])
    return {worst: share}


def weightless(objectives: Sequence[Objective], names: Collection[str]) -> list[Objective]:
    """The same objectives, those called ``names`` without a weight."""
    return [replace(o, weight=0.0) if o.name in names else o for o in objectives]


def why_no_sum(objectives: Sequence[Objective], how: str) -> str | None:
    """Why a combined score is no weighted sum of measured objectives; None if it is one."""
    if floors := [objective.name for objective in objectives if objective.floor]:
        return f"there are floors ({', '.join(floors)})"
    return why_bent(objectives, how)


def why_bent(objectives: Sequence[Objective], how: str) -> str | None:
    """Why the value of a combined score, floors aside, is no weighted sum of measured objectives; None if it is."""
    if how == "worst":
        return "the score is the worst of its objectives"
    for objective in counting(objectives):
        if objective.how in BENT:
            return f"{objective.name} {BENT[objective.how]}"
    return None


def yardsticks(
    objectives: Sequence[Objective], references: Mapping[str, Values]
) -> dict[str, float]:
    """Per objective, the gain that counts 1: best parent less base, unless ``scale`` says it.

    Where the parents gain next to nothing their difference is noise and no yardstick; a quarter of
    the value is taken instead.
    """
    found = {}
    for objective in objectives:
        values = {
            name: objective.sign * values[objective.name] for name, values in references.items()
        }
        low = values[BASE]
        high = max(value for name, value in values.items() if name != BASE)
        size = max(abs(low), abs(high), 1e-9)
        gain = high - low
        default = gain if gain > SMALL_GAIN * size else YARDSTICK * size
        found[objective.name] = objective.scale or default
    return found


def steering(objectives: Sequence[Objective]) -> list[Objective]:
    """The measured objectives that a slope is wanted of: those that enter the score, or have a floor."""
    floored = {name for o in objectives if o.floor for name in (*o.of, o.name)}
    entered = {objective.name for objective in entering(objectives)}
    return [o for o in objectives if not o.of and o.name in entered | floored]


def shares(
    objectives: Sequence[Objective],
    how: str,
    values: Values,
    references: Mapping[str, Values],
    gains: Values,
    *,
    floors: bool = True,
) -> dict[str, float]:
    """The derivative of the combined score by the value of each measured objective; see ``combine``.

    Of a worst, by that which is the worst now. Each floor, unless ``floors`` is false, takes away, smoothly
    around it,

        PRICE w softplus(u / w),    u = sign (bound - value) / |bound|,  w = SOFT

    so that who descends is turned back where a floor begins to be missed, and not before.
    """

    def merit(measured: Values) -> float:
        whole = with_derived(objectives, measured)
        score = combine(objectives, how, whole, references, gains).value
        for objective in objectives:
            if floors and objective.floor:
                bound = objective.floor.bound(objective, references)
                missed = objective.sign * (bound - whole[objective.name]) / max(abs(bound), 1e-9)
                score -= PRICE * SOFT * _softplus(missed / SOFT)
        return score

    plain = merit(values)
    found = {}
    for objective in objectives:
        if not objective.of:
            step = 1e-6 * gains.get(objective.name, 1.0)
            moved = {**values, objective.name: values[objective.name] + step}
            found[objective.name] = (merit(moved) - plain) / step
    return found


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def combine(
    objectives: Sequence[Objective],
    how: str,
    values: Values,
    references: Mapping[str, Values],
    gains: Values,
) -> Score:
    """One score from all objectives.

    ``retention``: the weighted mean of (value - base) / yardstick, so that 0 is the base and 1 as
    good as the best parent at everything. ``worst``: the least of these. ``mean``: the weighted mean
    of the plain values. Objectives of weight 0 do not count, nor in the first two those without a
    yardstick: they cannot rank these models (see ``judging.ranking``).

    Args:
        objectives: what counts.
        how: ``retention``, ``worst`` or ``mean``.
        values: the candidate's.
        references: base and parents, on the same items.
        gains: from ``yardsticks``, fixed for a run.
    """
    counted = {o.name: o.weight for o in objectives if how == "mean" or o.name in gains}
    total = sum(counted.values())
    score = math.inf if how == "worst" else 0.0
    violation = 0.0
    for objective in objectives:
        name, weight = objective.name, counted.get(objective.name)
        if weight is not None:
            value = objective.sign * values[name]
            if how != "mean":
                value = (value - objective.sign * references[BASE][name]) / gains[name]
            if how != "worst":
                score += weight * value / total
            elif weight:
                score = min(score, value)
        if objective.floor:
            bound = objective.floor.bound(objective, references)
            missed = objective.sign * (bound - values[objective.name])
            violation += max(0.0, missed) / max(abs(bound), 1e-9)
    return Score(score, violation)
