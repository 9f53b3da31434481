"""Rows of the frontier, and what is read off them: tables and a picture.

How much of sea's words is kept (``plain_sea``, as a share of sea's), and how well the combination does (the mean of
``chat_sea`` and ``write_sea``), while at least a share of chat's English (``chat_en``) is: of known recipes the best
that hold a floor in truth, of searches the winner of each seed that was asked for that floor.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.search.results import interval

ROWS = Path(__file__).with_name("frontier.jsonl")
FLOORS = (90.0, 92.0, 94.0, 96.0, 97.0, 98.0, 99.0, 99.5)  # percent of chat's chat_en
NAMES = {
    "task_arithmetic": "task arithmetic",
    "widen": "WIDEN",
    "ties": "TIES",
    "dare_ties": "DARE-TIES",
}
SEARCHES = {False: "search, a weight a tensor", True: "search, row weights"}
VALUES = ("chat_en", "plain_sea", "chat_sea", "write_sea")
EXACT = 1e-6  # values are written to so much


@dataclass(frozen=True)
class Reached:
    """The true values of a recipe, over all items.

    Attributes:
        source: a method, ``parent``, or ``search``.
        settings: of the method; the parent's ``model``; a search's ``seed``, ``floor`` and ``rows``.
        items: item-forwards that the search spent.
    """

    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    chat_en: float = 0.0
    plain_sea: float = 0.0
    chat_sea: float = 0.0
    write_sea: float = 0.0
    items: int = 0

    @property
    def key(self) -> str:
        return f"{self.source} {json.dumps(self.settings, sort_keys=True)}"

    @staticmethod
    def values_of(values: Mapping[str, float]) -> dict[str, float]:
        """Those that count here; 0 of what failed."""
        return {name: round(values.get(name, 0.0), 6) for name in VALUES}


@dataclass(frozen=True)
class Scale:
    """What shares are of: chat's ``chat_en`` and sea's ``plain_sea``."""

    chat_en: float
    plain_sea: float

    @classmethod
    def of(cls, rows: Iterable[Reached]) -> Scale:
        parents = {row.settings["model"]: row for row in rows if row.source == "parent"}
        return cls(parents["chat"].chat_en, parents["sea"].plain_sea)

    def floor(self, row: Reached) -> float:
        """Percent of chat's English that is kept."""
        return 100 * row.chat_en / self.chat_en

    def kept(self, row: Reached) -> float:
        """Percent of sea's words that is kept."""
        return 100 * row.plain_sea / self.plain_sea

    @staticmethod
    def combined(row: Reached) -> float:
        """The mean of what neither parent can do."""
        return (row.chat_sea + row.write_sea) / 2

    def holds(self, row: Reached, floor: float) -> bool:
        return self.floor(row) >= floor - 100 * EXACT


def best(
    rows: Iterable[Reached], scale: Scale, floor: float, value: Callable[[Reached], float]
) -> Reached | None:
    """The row with most of ``value`` that holds the floor; the first of equals."""
    held = [row for row in rows if scale.holds(row, floor)]
    return max(held, key=value, default=None)


def save(rows: Iterable[Reached], path: Path) -> None:
    """A row a line, in an order of its own; a later row replaces one of the same key."""
    found = {row.key: row for row in rows}
    text = "".join(json.dumps(asdict(row)) + "\n" for _, row in sorted(found.items()))
    path.write_text(text, encoding="utf-8")


def load(*paths: Path) -> list[Reached]:
    """The rows of those files that there are."""
    found = [
        Reached(**json.loads(line))
        for path in paths
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return list({row.key: row for row in found}.values())


# -- what is read off ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Winners:
    """The winners of searches for one floor, a seed each."""

    floor: float
    by_row: bool
    rows: tuple[Reached, ...]

    @classmethod
    def of(cls, rows: Iterable[Reached]) -> list[Winners]:
        found: dict[tuple[bool, float], list[Reached]] = {}
        for row in rows:
            if row.source == "search":
                key = (bool(row.settings["rows"]), float(row.settings["floor"]))
                found.setdefault(key, []).append(row)
        return [cls(key[1], key[0], tuple(found[key])) for key in sorted(found)]

    def mean(self, value: Callable[[Reached], float]) -> tuple[float, float]:
        """With the half width of its interval over seeds."""
        return interval([value(row) for row in self.rows])

    def held(self, scale: Scale) -> int:
        """In how many seeds the floor holds in truth."""
        return sum(scale.holds(row, self.floor) for row in self.rows)

    def lead(
        self, known: Sequence[Reached], scale: Scale, value: Callable[[Reached], float]
    ) -> tuple[float, float]:
        """On the best known recipe that keeps, in truth, as much of chat's English as the winner does."""
        leads = []
        for row in self.rows:
            rival = best(known, scale, scale.floor(row), value)
            assert rival is not None, "chat itself holds what is held"
            leads.append(value(row) - value(rival))
        return interval(leads)


def tables(rows: Sequence[Reached]) -> str:
    """Markdown: what is kept at each floor, and what the winners lead by."""
    scale, winners = Scale.of(rows), Winners.of(rows)
    head = ["", "recipes", *(f"{floor:g} %" for floor in FLOORS)]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for method, name in NAMES.items():
        own = [row for row in rows if row.source == method]
        cells = [name, str(len(own))]
        for floor in FLOORS:
            kept, combined = (best(own, scale, floor, v) for v in (scale.kept, scale.combined))
            if kept is None or combined is None:
                cells.append("-")
            else:
                cells.append(f"{scale.kept(kept):.1f} / {scale.combined(combined):.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    for by_row, name in SEARCHES.items():
        at = {each.floor: each for each in winners if each.by_row == by_row}
        if not at:
            continue
        cells = [name, str(sum(len(each.rows) for each in at.values()))]
        for floor in FLOORS:
            if floor in at:
                kept, combined = at[floor].mean(scale.kept)[0], at[floor].mean(scale.combined)[0]
                cells.append(f"{kept:.1f} / {combined:.3f}")
            else:
                cells.append("")
        lines.append(f"| {' | '.join(cells)} |")
    if not winners:
        return "\n".join(lines)
    head = ["", "asked", "held", "chat_en kept", "plain_sea kept", "combined", "items"]
    head += [f"lead on {name}" for name in NAMES.values()]
    lines += ["", f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for each in winners:
        cells = [SEARCHES[each.by_row], f"{each.floor:g} %"]
        cells += [f"{each.held(scale)} of {len(each.rows)}", _spread(*each.mean(scale.floor), 1)]
        cells += [_spread(*each.mean(scale.kept), 1), _spread(*each.mean(scale.combined), 3)]
        cells.append(f"{statistics.fmean(row.items for row in each.rows):,.0f}")
        for method in NAMES:
            known = [row for row in rows if row.source in (method, "parent")]
            leads = ((scale.kept, 1), (scale.combined, 3))
            cells.append(" / ".join(_lead(*each.lead(known, scale, v), d) for v, d in leads))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(mean: float, half: float, digits: int) -> str:
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if math.isfinite(half) else "")


def _lead(mean: float, half: float, digits: int) -> str:
    """Bold where the interval excludes zero."""
    sure = "**" if abs(mean) > half else ""
    spread = f" ± {half:.{digits}f}" if math.isfinite(half) else ""
    return f"{sure}{mean:+.{digits}f}{spread}{sure}"
