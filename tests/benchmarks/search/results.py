"""Rows of the benchmark, and what is read off many: means, paired intervals, tables."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evomerge.inference.intervals import student

SHARES = ("10%", "25%", "50%", "100%")
HEROES = (
    "auto",
    "cma, sigma0 .1",
)  # whose differences to the others are shown, unless told otherwise
TITLES = {
    "t0": "T0, analytic functions",
    "t1": "T1, simulated landscapes",
    "t2": "T2, real models",
    "t3": "T3, replay of the frozen matrix",
}


@dataclass(frozen=True)
class Row:
    """One contestant's search of one seed at one budget.

    Attributes:
        tier, ground: what was searched.
        contestant: who.
        seed: of all that is drawn.
        evaluations: the budget's name: so many candidates scored on one evaluation's items.
        items: item-forwards spent.
        shares: share of the budget -> true score of the answer then; None before there was one.
        true: at the end.
        claimed: score that it saw for its answer; None if it saw none.
        held_out: true on items that the search could not see, where the truth has others.
        hypervolume: of true values of what it offers, above the base; None with one objective.
        curve: true scores at 5, 10, ... 100 percent, where that is cheap.
    """

    tier: str
    ground: str
    contestant: str
    seed: int
    evaluations: int
    items: int
    shares: Mapping[str, float | None]
    true: float
    claimed: float | None = None
    held_out: float | None = None
    hypervolume: float | None = None
    curve: Sequence[float | None] = ()

    @property
    def area(self) -> float | None:
        """Mean height of the shares' polygon, from 10 percent on."""
        found = [self.shares[share] for share in SHARES]
        if None in found:
            return None
        at = [float(share.rstrip("%")) / 100 for share in SHARES]
        pairs = zip(zip(at, found, strict=True), zip(at[1:], found[1:], strict=True), strict=False)
        total = sum(
            (x1 - x0) * (float(y0 or 0) + float(y1 or 0)) / 2 for (x0, y0), (x1, y1) in pairs
        )
        return total / (at[-1] - at[0])

    @property
    def gap(self) -> float | None:
        """Apparent minus true."""
        return None if self.claimed is None else self.claimed - self.true

    @property
    def plain(self) -> dict[str, object]:
        return {key: _rounded(value) for key, value in asdict(self).items()}


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return value


def save(rows: Iterable[Row], path: Path) -> None:
    """A row a line, in an order of its own."""
    ordered = sorted(rows, key=lambda r: (r.tier, r.ground, r.evaluations, r.contestant, r.seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row.plain) + "\n" for row in ordered), encoding="utf-8")


def load(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95% interval (Student's t over seeds)."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.inf
    reach = student(len(values) - 1, 0.95) / math.sqrt(len(values))
    return statistics.fmean(values), reach * statistics.stdev(values)


def paired(rows: Sequence[Row], hero: str, other: str) -> tuple[float, float, int]:
    """Hero's true score minus the other's, seed by seed: mean, half width, seeds."""
    ours = {row.seed: row.true for row in rows if row.contestant == hero}
    theirs = {row.seed: row.true for row in rows if row.contestant == other}
    seeds = sorted(ours.keys() & theirs.keys())
    return *interval([ours[seed] - theirs[seed] for seed in seeds]), len(seeds)


def reached(rows: Sequence[Row], hero: str, other: str) -> float | None:
    """Share of the budget at which hero's mean curve passes the other's mean end; None if never."""
    end = [row.true for row in rows if row.contestant == other]
    curves = [row.curve for row in rows if row.contestant == hero and row.curve]
    if not end or not curves:
        return None
    for number, column in enumerate(zip(*curves, strict=True), start=1):
        known = [value for value in column if value is not None]
        if len(known) == len(column) and statistics.fmean(known) >= statistics.fmean(end):
            return number / len(curves[0])
    return None


def tables(rows: Sequence[Row], hero: str | None = None) -> str:
    """Markdown: a table for each ground and budget; differences are ``hero``'s minus the row's."""
    parts = []
    keys = dict.fromkeys((row.tier, row.ground, row.evaluations) for row in rows)
    for tier, ground, evaluations in keys:
        chosen = [
            r for r in rows if (r.tier, r.ground, r.evaluations) == (tier, ground, evaluations)
        ]
        parts.append(_table(TITLES.get(tier, tier), ground, evaluations, chosen, hero))
    return "\n\n".join(parts)


def _table(title: str, ground: str, evaluations: int, rows: Sequence[Row], hero: str | None) -> str:
    ends: dict[str, list[float]] = {}
    for row in rows:
        ends.setdefault(row.contestant, []).append(row.true)
    names = sorted(ends, key=lambda name: -statistics.fmean(ends[name]))
    hero = hero if hero in names else next((n for n in HEROES if n in names), names[0])
    count = len({row.seed for row in rows})
    held = any(row.held_out is not None for row in rows)
    volumes = any(row.hypervolume is not None for row in rows)
    head = ["", "items", *SHARES, "area", "claimed - true"]
    head += ["held-out"] * held + ["hypervolume"] * volumes
    head += [f"{hero} - this", f"{hero} passes it at"]
    lines = [
        f"**{title}: {ground}, {evaluations:,} evaluations** ({count} seeds)",
        "",
        f"| {' | '.join(head)} |",
        f"| --- |{' ---: |' * (len(head) - 1)}",
    ]
    for name in names:
        own = [row for row in rows if row.contestant == name]
        cells = [name, f"{statistics.fmean(row.items for row in own):,.0f}"]
        cells += [_mean([row.shares[share] for row in own]) for share in SHARES[:-1]]
        cells.append(_mean([row.true for row in own], spread=True))
        cells.append(_mean([row.area for row in own]))
        cells.append(_mean([row.gap for row in own]))
        cells += [_mean([row.held_out for row in own], spread=True)] * held
        cells += [_mean([row.hypervolume for row in own])] * volumes
        if name == hero:
            cells += ["", ""]
        else:
            mean, half, _ = paired(rows, hero, name)
            share = reached(rows, hero, name)
            sure = "**" if abs(mean) > half else ""
            cells += [f"{sure}{mean:+.3f} ± {half:.3f}{sure}", f"{share:.0%}" if share else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: Sequence[float | None], *, spread: bool = False) -> str:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    mean, half = interval(known)
    return f"{mean:.3f} ± {half:.3f}" if spread and math.isfinite(half) else f"{mean:.3f}"
