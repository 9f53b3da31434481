"""The course of the search: every merge that was scored, in the order they came, and the best so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from evomerge.evolution.history import MERGED, Phase
from evomerge.inference.intervals import Interval
from evomerge.judging.evidence import search_interval
from evomerge.record.record import Record
from evomerge.report.page import chart
from evomerge.report.page.material import Material
from evomerge.report.page.parts import (
    MOST,
    Block,
    Figure,
    Grid,
    Notes,
    Row,
    Section,
    number,
    short,
)
from evomerge.report.terminal import PHASES
from evomerge.report.text import interval_text

_DRAWN = 1500  # candidates in the picture; of more, who was the best so far, and some others
_WHISKERS = 250  # candidates with intervals there; of more, who was the best so far
_BELOW = 1.0  # of the spread of the better half: how far below it the picture reaches


@dataclass(frozen=True)
class _Point:
    """A scored merge.

    Attributes:
        spent: item-forwards of the search up to it, in the order its batch asked.
        value: its score.
        leads: whether no merge before it had a higher score.
    """

    record: Record
    candidate: int
    batch: int
    phase: Phase
    spent: int
    value: float
    feasible: bool
    leads: bool

    @cached_property
    def interval(self) -> Interval:
        """Of the score; it takes longer than all else here, and most of many points are not shown."""
        record = self.record
        return search_interval(record.history, record.objectives, self.batch, self.candidate)


def course(material: Material) -> Section:
    """The section."""
    history = material.history
    points = _points(material)
    lead = (
        "Each mark is a merge with its search score: an estimate on search items, relative to base and parents. "
        "Of many noisy scores the best is too good; what was chosen is scored anew on other items."
    )
    blocks: list[Block] = []
    if points:
        svg, is_cut = _picture(material, points)
        best = max(points, key=lambda p: (p.feasible, p.value))
        words = (
            f"Search scores of {len(points)} merges against item-forwards spent. The best so far ends at "
            f"{number(best.value)} with {material.name(best.candidate)}."
        )
        blocks.append(
            Figure("Search score by item-forwards spent", words, svg, _grid(material, points))
        )
        if is_cut:
            blocks.append(
                Notes(
                    ["Scores far below the others lie outside of the picture; the table has them."]
                )
            )
    failed = [
        (batch, evaluation)
        for batch in history.batches
        for evaluation in history.evaluations(batch.number).values()
        if evaluation.values is None
    ]
    if failed:
        rows = [
            (f"#{e.candidate}", str(e.batch), PHASES[b.phase], e.error or "") for b, e in failed
        ]
        columns = ("candidate", "batch", "phase", "why")
        blocks.append(Grid.of("Candidates that failed", columns, rows, texts=(2, 3), folded=True))
    if not blocks:
        blocks.append(Notes(["No merge was scored yet."]))
    return Section("course", "The course of the search", lead, blocks)


def course_picture(material: Material) -> str | None:
    """The picture alone; None where no merge was scored."""
    points = _points(material)
    return _picture(material, points)[0] if points else None


def _points(material: Material) -> list[_Point]:
    history, found, best = material.history, list[_Point](), None
    spent = 0
    for batch in history.batches:
        if not batch.phase.searched:
            continue
        evaluations, scores = history.evaluations(batch.number), history.scores(batch.number)
        for candidate in batch.candidates:
            spent += evaluations[candidate.id].items if candidate.id in evaluations else 0
            score = scores.get(candidate.id)
            if score is None or batch.phase not in MERGED:
                continue
            leads = best is None or score.rank > best
            best = score.rank if leads else best
            where = (material.record, candidate.id, batch.number, batch.phase, spent)
            found.append(_Point(*where, score.value, feasible=score.feasible, leads=leads))
    return found


def _picture(material: Material, points: list[_Point]) -> tuple[str, bool]:
    """The picture, and whether scores lie below it."""
    few, every = len(points) <= _WHISKERS, -(-len(points) // _DRAWN)
    drawn = [p for at, p in enumerate(points) if p.leads or at % every == 0]
    low, high, is_cut = _span(material, points, drawn)
    marks = [
        {
            "x": p.spent,
            "y": p.value,
            "low": None if p.interval.why else max(low, p.interval.low),
            "high": None if p.interval.why else min(high, p.interval.high),
            "phase": _name(p),
            "says": f"{material.name(p.candidate)}, batch {p.batch}: {interval_text(p.interval)}",
        }
        for p in drawn
        if low <= p.value
    ]
    whiskers = [
        mark
        for mark, p in zip(marks, [p for p in drawn if low <= p.value], strict=True)
        if (few or p.leads) and mark["low"] is not None
    ]
    leading = [p for p in drawn if p.leads]
    steps = [{"x": p.spent, "y": max(low, p.value)} for p in leading]
    steps.append({"x": drawn[-1].spent, "y": max(low, leading[-1].value)})
    levels = [
        {"y": value, "name": ", ".join(names)}
        for value, names in _levels(material).items()
        if low <= value <= high
    ]
    apart = chart.apart("phase", list(dict.fromkeys(_name(p) for p in drawn)))
    bands = _bands(material)
    y = {"field": "y", "type": "quantitative", "title": "search score"}
    scale = {"domain": [low, high], "zero": False, "nice": False}
    x = {
        "field": "x",
        "type": "quantitative",
        "title": "item-forwards",
        "axis": {"grid": False, "format": "~s"},
        "scale": {"nice": False},
    }
    spec: chart.Spec = {
        "width": chart.WIDTH,
        "height": 280,
        "layer": [
            {
                "data": chart.rows([band for band in bands if band["odd"]]),
                "mark": {"type": "rect", "color": chart.colour("grid"), "opacity": 0.35},
                "encoding": {"x": {**x, "field": "from"}, "x2": {"field": "to"}},
            },
            {
                "data": chart.rows(bands),
                "mark": {"type": "text", "align": "left", "dx": 5, "y": 8, "fontSize": 11, "color": chart.colour("soft")},
                "encoding": {"x": {**x, "field": "from"}, "text": {"field": "name"}},
            },
            {
                "data": chart.rows(levels),
                "mark": {"type": "rule", "strokeDash": [3, 4], "color": chart.colour("line")},
                "encoding": {"y": {**y, "scale": scale}},
            },
            {
                "data": chart.rows(levels),
                "mark": {"type": "text", "align": "left", "dy": -6, "x": 5, "fontSize": 11,
                         "color": chart.colour("soft")},
                "encoding": {"y": y, "text": {"field": "name"}},
            },
            {
                "data": chart.rows(whiskers),
                "mark": {"type": "rule", "strokeWidth": 1.2, "opacity": 0.38},
                "encoding": {"x": x, "y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"},
                             "color": apart["color"]},
            },
            {
                "data": chart.rows(steps),
                "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "color": chart.colour("ink"),
                         "opacity": 0.75},
                "encoding": {"x": x, "y": y},
            },
            {
                "data": chart.rows(marks),
                "mark": {"type": "point", "filled": True, "size": 52},
                "encoding": {
                    "x": x,
                    "y": y,
                    **apart,
                    "description": {"field": "says"},
                },
            },
        ],
    }  # fmt: skip
    return chart.draw(spec), is_cut


def _bands(material: Material) -> list[dict[str, object]]:
    """Phases of the search, from where to where; those that are wide enough have a name."""
    found: list[dict[str, object]] = []
    spent, last, total = 0, None, max(1, material.history.spent.items)
    for batch in material.history.batches:
        if not batch.phase.searched:
            continue
        evaluations = material.history.evaluations(batch.number).values()
        end = spent + sum(each.items for each in evaluations)
        if batch.phase == last and found:
            found[-1]["to"] = end
        else:
            found.append(
                {"from": spent, "to": end, "odd": len(found) % 2, "phase": PHASES[batch.phase]}
            )
        spent, last = end, batch.phase
    for band in found:
        wide = (int(str(band["to"])) - int(str(band["from"]))) / total
        band["name"] = band["phase"] if wide * 90 > len(str(band["phase"])) else ""
    return found


def _name(point: _Point) -> str:
    phase = PHASES[point.phase]
    return phase if point.feasible else f"{phase}, a floor missed"


def _levels(material: Material) -> dict[float, list[str]]:
    """Scores of base and parents, and who has them."""
    found: dict[float, list[str]] = {}
    for id, score in material.history.scores(0).items():
        if score:
            found.setdefault(round(score.value, 3), []).append(material.references[id])
    return found


def _span(
    material: Material, points: list[_Point], drawn: list[_Point]
) -> tuple[float, float, bool]:
    """Lowest and highest score of the picture, and whether some lie below."""
    values = np.array([p.value for p in points])
    levels = list(_levels(material))
    top = [p.interval.high for p in drawn if p.leads and not p.interval.why]
    high = max([float(values.max()), *top, *levels])
    middle = float(np.median(values))
    floor = min([middle - _BELOW * (float(values.max()) - middle), *levels])
    low = max(float(values.min()), floor) if values.min() < floor else min([*values, *levels])
    bottoms = [p.interval.low for p in drawn if not p.interval.why and p.value >= low]
    low = max(min([low, *bottoms]), low - 0.25 * (high - low))
    pad = 0.04 * (high - low) or 0.05
    return float(low - pad), float(high + pad), bool((values < low - pad).any())


def _grid(material: Material, points: list[_Point]) -> Grid:
    objectives = [o.name for o in material.record.objectives]
    rows = list[Row]()
    for p in points[:MOST]:
        values = material.history.evaluations(p.batch)[p.candidate].values or {}
        rows.append(
            (
                f"#{p.candidate}",
                short(material.history.candidates[p.candidate].origin, 60),
                PHASES[p.phase],
                f"{p.spent:,}",
                interval_text(p.interval),
                *(number(values.get(name)) for name in objectives),
            )
        )
    columns = ("candidate", "origin", "phase", "item-forwards", "search score", *objectives)
    grid = Grid.of("Search scores and values, in order", columns, rows, texts=(1, 2), folded=True)
    return replace(grid, left_out=len(points) - len(rows))
