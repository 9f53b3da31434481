"""What the search took: evaluations, item-forwards, tokens and seconds, phase by phase."""

from __future__ import annotations

from collections import defaultdict

from evomerge.evolution.history import Phase
from evomerge.record.events import SessionLine
from evomerge.report.page import chart
from evomerge.report.page.material import Material
from evomerge.report.page.parts import Block, Facts, Figure, Grid, Section
from evomerge.report.terminal import PHASES, budget_text


def costs(material: Material) -> Section | None:
    """The section; None before anything was evaluated."""
    phase_of = {batch.number: batch.phase for batch in material.history.batches}
    count: dict[Phase, int] = defaultdict(int)
    forwards: dict[Phase, int] = defaultdict(int)
    tokens: dict[Phase, int] = defaultdict(int)
    seconds: dict[Phase, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for line in material.evaluations.values():
        phase = phase_of[line.batch]
        count[phase] += 1
        forwards[phase] += line.items
        tokens[phase] += line.tokens
        for step, spent in line.seconds.items():
            seconds[phase][step] += spent
    if not count:
        return None
    steps = list(dict.fromkeys(step for each in seconds.values() for step in each))
    steps = [step for step in steps if any(each.get(step, 0) >= 0.05 for each in seconds.values())]
    phases = [phase for phase in Phase if phase in count]
    rows = [
        (
            PHASES[phase],
            f"{count[phase]:,}",
            f"{forwards[phase]:,}",
            f"{tokens[phase]:,}",
            *(f"{seconds[phase].get(step, 0.0):,.1f}" for step in steps),
        )
        for phase in phases
    ]
    columns = ("phase", "evaluations", "item-forwards", "tokens", *(f"{step}, s" for step in steps))
    grid = Grid.of("Costs, phase by phase; seconds are of workers, added up", columns, rows)
    blocks: list[Block] = [Facts(_facts(material))]
    if steps:
        marks = [
            {"phase": PHASES[phase], "step": step, "x": seconds[phase].get(step, 0.0),
             "says": f"{PHASES[phase]}, {step}: {seconds[phase].get(step, 0.0):,.1f} s"}
            for phase in phases
            for step in steps
        ]  # fmt: skip
        blocks.append(_figure(marks, [PHASES[phase] for phase in phases], steps))
    lead = (
        "An item-forward is one item through the model once; a slope counts as what it takes. What was answered "
        "before cost nothing."
    )
    return Section("costs", "Costs and time", lead, [*blocks, grid])


def _facts(material: Material) -> list[tuple[str, str]]:
    record = material.record
    sessions = sum(isinstance(line, SessionLine) for line in material.lines)
    budget = {name: limit for name, limit in record.budget.items() if limit}
    return [
        (
            "time worked",
            f"{record.seconds / 60:.1f} minutes in {sessions} session{'s' * (sessions != 1)}",
        ),
        (
            "of the budget, before the shortlist",
            budget_text(budget, record.spent) if budget else "no limit",
        ),
        ("from first event to last", f"{(record.newest - record.head.time) / 60:.1f} minutes"),
    ]


def _figure(marks: list[dict[str, object]], phases: list[str], steps: list[str]) -> Figure:
    spec: chart.Spec = {
        "data": chart.rows(marks),
        "width": chart.WIDTH - 170,
        "height": {"step": 30},
        "mark": {"type": "bar", "height": 16, "stroke": chart.colour("paper"), "strokeWidth": 1},
        "encoding": {
            "y": {"field": "phase", "type": "nominal", "title": None, "sort": phases},
            "x": {
                "field": "x",
                "type": "quantitative",
                "title": "seconds of workers",
                "axis": {"tickCount": 6},
            },
            "color": chart.apart("step", steps)["color"],
            "description": {"field": "says"},
        },
    }
    words = f"Seconds that workers spent on {', '.join(steps)}, in each of {len(phases)} phases; the table below has the numbers."
    return Figure("Where the time went", words, chart.draw(spec))
