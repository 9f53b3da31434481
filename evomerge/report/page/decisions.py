"""What was decided in the course of the search, and why."""

from __future__ import annotations

from evomerge.record.events import (
    ClosedLine,
    DecisionLine,
    ExtendedLine,
    Line,
    RoundLine,
    SettledLine,
)
from evomerge.report.page.material import Material
from evomerge.report.page.parts import Grid, Notes, Section, number


def decisions(material: Material) -> Section:
    """The section."""
    rows = []
    begun = material.head.time
    for line in material.lines:
        minute = f"{(line.time - begun) / 60:.1f}"
        rows += [(what, minute, text) for what, text in _said(material, line)]
    blocks = (
        [Grid.of("Decisions, in order", ("by", "minute", "what and why"), rows, texts=(2,))]
        if rows
        else []
    )
    lead = "In the order they fell; minutes are since the start."
    if not rows:
        return Section("decisions", "What was decided, and why", "", [Notes(["Nothing yet."])])
    return Section("decisions", "What was decided, and why", lead, blocks)


def _said(material: Material, line: Line) -> list[tuple[str, str]]:
    """Who decided, and what."""
    if isinstance(line, DecisionLine):
        return [("optimizer", line.text)]
    if isinstance(line, SettledLine):
        units = ", ".join(f"{name} {number(gain)}" for name, gain in line.gains.items())
        found = [("yardsticks", f"gains that count 1: {units}")] if units else []
        return found + [
            ("yardsticks", f"{name} cannot rank these models: {why}")
            for name, why in line.unable.items()
        ]
    if isinstance(line, ClosedLine):
        return [("search", f"the search phase was ended early: {line.reason}")]
    if isinstance(line, ExtendedLine):
        totals = ", ".join(f"{name} {limit:,}" for name, limit in line.budget.items() if limit)
        return [("you", f"the budget was extended to {totals or 'no limit'}")]
    if isinstance(line, RoundLine):
        return [("shortlist", text) for text in _round(material, line)]
    return []


def _round(material: Material, line: RoundLine) -> list[str]:
    found = []
    if line.unraced:
        found.append(f"no race, all answered the whole select split: {line.unraced}")
    for each in line.dropped:
        found.append(
            f"{material.name(each.candidate)} left the race, beaten by {material.name(each.leader)} on {each.items} "
            f"items (e-value {each.e_value:.3g})"
        )
    for candidate, why in line.invalid.items():
        found += [f"{material.name(candidate)} is invalid: {reason}" for reason in why]
    for candidate, chance in line.floors.items():
        verdict = "confirmed" if chance >= line.confidence else "not confirmed"
        found.append(
            f"{material.name(candidate)}: floors hold with probability {chance:.0%}, {verdict}"
        )
    for member in line.front:
        found.append(
            f"{material.name(member.candidate)} is on the front with probability {member.probability:.0%}"
        )
    if not found and line.last:
        ranked = material.history.ranked(line.batch, line.invalid)
        ranked = [elite for elite in ranked if elite.candidate not in material.references]
        if ranked:
            found.append(f"{material.name(ranked[0].candidate)} leads the last round")
    if not found:
        found.append("nobody left the race in this round")
    return found
