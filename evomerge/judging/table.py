"""The final table as types: what a search ends with, what the journal keeps, what reports are made of.

``Table.plain`` is JSON, ``Table.from_plain`` reads it back and refuses what is no table. A number
that is known exactly has equal bounds; where nothing is known of its error, the interval says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from evomerge.inference.intervals import Interval
from evomerge.rounding import Rounding
from evomerge.suite.objectives import CONFIDENCE
from evomerge.suite.spec import FLOORS_ON

VERSION = 3  # of the plain form


@dataclass(frozen=True)
class Count:
    """How many items a number is made from, and of how many sources these are."""

    items: int
    sources: int

    def __post_init__(self) -> None:
        _check(self, items=int, sources=int)


@dataclass(frozen=True)
class Gain:
    """By how much the winner's score is higher than another's, item by item.

    Attributes:
        difference: paired.
        p: two-sided; None where no test is known.
        test: its name, or why there is none.
    """

    difference: Interval
    p: float | None
    test: str

    def __post_init__(self) -> None:
        _check(self, test=str)
        _number(self.p if self.p is not None else 0)

    @property
    def plain(self) -> dict[str, Any]:
        return {**self.difference.plain, "p": self.p, "test": self.test}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Gain:
        return cls(interval_from(plain), plain["p"], plain["test"])


@dataclass(frozen=True)
class Held:
    """A floor, and how a model stands to it.

    Attributes:
        objective: that has it.
        floor: as the suite writes it: ``98% of chat``.
        bound: the number that it comes to.
        ceiling: whether less is better, so that it is an upper bound.
        margin: by how much it is held; below zero it is missed.
    """

    objective: str
    floor: str
    bound: float
    ceiling: bool
    margin: Interval

    def __post_init__(self) -> None:
        _check(self, objective=str, floor=str, ceiling=bool)
        _number(self.bound)

    @property
    def held(self) -> bool:
        return self.margin.value >= 0

    @property
    def plain(self) -> dict[str, Any]:
        return {
            "objective": self.objective,
            "floor": self.floor,
            "bound": self.bound,
            "ceiling": self.ceiling,
            "held": self.held,
            "margin": self.margin.plain,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Held:
        margin = interval_from(plain["margin"])
        found = cls(plain["objective"], plain["floor"], plain["bound"], plain["ceiling"], margin)
        if plain["held"] is not found.held:
            raise ValueError(f"a floor of {found.objective!r:.60} that is held and is not")
        return found


@dataclass(frozen=True)
class Row:
    """A model on the report split.

    Attributes:
        candidate: its id.
        label: what it is.
        score: combined; None if it failed there.
        objectives: by name.
        gain: None for the winner itself, and where there is nothing to compare.
        leads: objective -> by how much the winner's value is higher, paired; empty where there is no gain.
        invalid: why its scores cannot be compared.
        notes: what its answers suffer from.
        floors: and how it stands to each.
        front: how likely nobody of the shortlist dominates it; None if it is no confirmed member of a front.
    """

    candidate: int
    label: str
    score: Interval | None
    objectives: Mapping[str, Interval]
    gain: Gain | None = None
    invalid: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    floors: tuple[Held, ...] = ()
    front: float | None = None
    leads: Mapping[str, Interval] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self, candidate=int, label=str)
        _number(0 if self.front is None else self.front)
        _texts(self.invalid, self.notes)

    @property
    def plain(self) -> dict[str, Any]:
        return {
            "candidate": self.candidate,
            "label": self.label,
            "score": self.score and self.score.plain,
            "objectives": {name: each.plain for name, each in self.objectives.items()},
            "gain": self.gain and self.gain.plain,
            "invalid": list(self.invalid),
            "notes": list(self.notes),
            "floors": [each.plain for each in self.floors],
            "front": self.front,
            "leads": {name: each.plain for name, each in self.leads.items()},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Row:
        score, gain, leads = plain["score"], plain["gain"], plain.get("leads", {})
        return cls(
            candidate=plain["candidate"],
            label=plain["label"],
            score=None if score is None else interval_from(score),
            objectives={name: interval_from(each) for name, each in plain["objectives"].items()},
            gain=None if gain is None else Gain.from_plain(gain),
            invalid=tuple(plain["invalid"]),
            notes=tuple(plain["notes"]),
            floors=tuple(Held.from_plain(each) for each in plain["floors"]),
            front=plain["front"],
            leads={name: interval_from(each) for name, each in leads.items()},
        )


@dataclass(frozen=True)
class Beside:
    """What the sources do together on the report split without being merged: no candidate, and never a winner.

    Attributes:
        label: ``blend`` or ``mixture``.
        score: combined.
        objectives: by name.
        gain: of the winner over it; None without a winner.
    """

    label: str
    score: Interval
    objectives: Mapping[str, Interval]
    gain: Gain | None = None

    def __post_init__(self) -> None:
        _check(self, label=str)

    @property
    def plain(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "score": self.score.plain,
            "objectives": {name: each.plain for name, each in self.objectives.items()},
            "gain": self.gain and self.gain.plain,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Beside:
        gain = plain["gain"]
        return cls(
            label=plain["label"],
            score=interval_from(plain["score"]),
            objectives={name: interval_from(each) for name, each in plain["objectives"].items()},
            gain=None if gain is None else Gain.from_plain(gain),
        )


@dataclass(frozen=True)
class Trust:
    """How far the winner can be trusted: its score where it was found, chosen and reported.

    Attributes:
        search: on the search items; None if it was never scored there.
        select: on the select items, with how many these are.
        report: on the report items.
        gap: search less report.
        floors: how likely the winner holds all of them, by the select items; None if there are none.
        confidence: how likely that must be to count as confirmed.
        floors_on: ``all`` if the items of the search had a say in that.
        search_items: of the search split.
        anchored: whether search scores are of weighted anchors.
    """

    search: Interval | None
    select: Interval | None
    select_items: Count | None
    report: Interval | None
    gap: Interval | None
    search_items: Count
    anchored: bool
    floors: float | None = None
    confidence: float = CONFIDENCE
    floors_on: str = FLOORS_ON[0]

    def __post_init__(self) -> None:
        _check(self, anchored=bool)
        _number(self.confidence)
        if self.floors is not None:
            _number(self.floors)

    @property
    def plain(self) -> dict[str, Any]:
        select = self.select and {**self.select.plain, **asdict(self.select_items or Count(0, 0))}
        return {
            "search": self.search and self.search.plain,
            "select": select,
            "report": self.report and self.report.plain,
            "gap": self.gap and self.gap.plain,
            "search_items": asdict(self.search_items),
            "anchored": self.anchored,
            "floors": self.floors,
            "confidence": self.confidence,
            "floors_on": self.floors_on,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Trust:
        scores = {
            name: None if plain[name] is None else interval_from(plain[name])
            for name in ("search", "select", "report", "gap")
        }
        select = plain["select"]
        return cls(
            **scores,
            select_items=None if select is None else Count(select["items"], select["sources"]),
            search_items=Count(**plain["search_items"]),
            anchored=plain["anchored"],
            floors=plain["floors"],
            confidence=plain["confidence"],
            floors_on=plain["floors_on"],
        )


@dataclass(frozen=True)
class Effort:
    """What the search took.

    Attributes:
        candidates: merges that were tried.
        select_looks: scores taken on the select split.
        dropped: merges that left the race of the shortlist early.
        saved: item-evaluations that this spared.
        invalid: candidate -> why its scores on the select split cannot be compared.
    """

    candidates: int
    select_looks: int
    dropped: int
    saved: int
    invalid: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self, candidates=int, select_looks=int, dropped=int, saved=int)
        _texts(*self.invalid.values())

    @property
    def plain(self) -> dict[str, Any]:
        reasons = {str(id): list(why) for id, why in self.invalid.items()}  # JSON has no other keys
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "invalid": reasons}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Effort:
        reasons = {int(id): tuple(why) for id, why in plain["invalid"].items()}
        return cls(**{**plain, "invalid": reasons})


@dataclass(frozen=True)
class Table:
    """Every model of the report batch.

    Attributes:
        combine: how objectives combine into the score.
        items: behind each objective.
        yardsticks: the gains that count 1 in the score; empty where it is a mean of plain values.
        winner: a candidate; None if every merge of the shortlist failed.
        rows: the winner's last.
        trust: in the winner.
        effort: of the search.
        volume: hypervolumes over the base in yardsticks, of the ``front`` and of the ``parents``, as far
            as they hold the floors here; empty if no front was asked for.
        rounding: what the dtype takes of the winner's changes; None where that could not be told.
        beside: what the sources do together without being merged.
        version: of the plain form.
    """

    combine: str
    items: Mapping[str, Count]
    yardsticks: Mapping[str, float]
    winner: int | None
    rows: tuple[Row, ...]
    trust: Trust
    effort: Effort
    volume: Mapping[str, Interval] = field(default_factory=dict)
    rounding: Rounding | None = None
    beside: tuple[Beside, ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        _check(self, combine=str)
        if self.version != VERSION:
            raise ValueError(f"a table of version {self.version}; expected {VERSION}")
        if self.winner is not None and self.winner not in {row.candidate for row in self.rows}:
            raise ValueError(f"the winner {self.winner!r} has no row in the table")
        for row in self.rows:
            if row.score is not None and list(row.objectives) != list(self.items):
                raise ValueError(f"the row of {row.label!r} has other objectives than the table")
            if row.leads and list(row.leads) != list(self.items):
                raise ValueError(f"the row of {row.label!r} has other leads than objectives")
        for each in self.beside:
            if list(each.objectives) != list(self.items):
                raise ValueError(f"the row of {each.label!r} has other objectives than the table")
        for value in self.yardsticks.values():
            _number(value)

    @property
    def winner_row(self) -> Row | None:
        """The row of the winner, if there is one."""
        return next((row for row in self.rows if row.candidate == self.winner), None)

    @property
    def plain(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "combine": self.combine,
            "items": {name: asdict(count) for name, count in self.items.items()},
            "yardsticks": dict(self.yardsticks),
            "winner": self.winner,
            "rows": [row.plain for row in self.rows],
            "trust": self.trust.plain,
            "effort": self.effort.plain,
            "volume": {name: each.plain for name, each in self.volume.items()},
            **({"rounding": self.rounding.plain} if self.rounding else {}),
            **({"beside": [each.plain for each in self.beside]} if self.beside else {}),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Table:
        """The table that ``plain`` was made from.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it is none.
        """
        return cls(
            combine=plain["combine"],
            items={name: Count(**count) for name, count in plain["items"].items()},
            yardsticks=dict(plain["yardsticks"]),
            winner=plain["winner"],
            rows=tuple(Row.from_plain(row) for row in plain["rows"]),
            trust=Trust.from_plain(plain["trust"]),
            effort=Effort.from_plain(plain["effort"]),
            volume={name: interval_from(each) for name, each in plain["volume"].items()},
            rounding=Rounding.from_plain(plain["rounding"]) if "rounding" in plain else None,
            beside=tuple(Beside.from_plain(each) for each in plain.get("beside", ())),
            version=plain["version"],
        )


def interval_from(plain: Mapping[str, Any]) -> Interval:
    """The interval that ``Interval.plain`` was made from.

    Raises:
        ValueError: it is none.
    """
    value, low, high = plain["value"], plain["low"], plain["high"]
    _number(value)
    if low is None and high is None:
        _texts((plain["why"],))
        return Interval.unknown(value, plain["why"])
    _number(low)
    _number(high)
    if not low <= value <= high:
        raise ValueError(f"an interval from {low} to {high} that does not hold its value {value}")
    return Interval(value, low, high)


def _check(instance: object, **types: type) -> None:
    """Refuse attributes of another type; True and False are no numbers."""
    for name, expected in types.items():
        found = getattr(instance, name)
        if type(found) is not expected:
            raise ValueError(f"{name} is {found!r:.60}; expected {expected.__name__}")


def _number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r:.60} where a number was expected")


def _texts(*lists: Sequence[Any]) -> None:
    for text in (text for texts in lists for text in texts):
        if not isinstance(text, str):
            raise ValueError(f"{text!r:.60} where a text was expected")
