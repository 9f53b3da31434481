"""What a space says of one parameter: a fixed value, or a domain to search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

from evomerge import config
from evomerge.errors import did_you_mean, one_of
from evomerge.params import Choice, Domain, Integer, Parameter, Real


def is_domain(setting: object) -> TypeGuard[Domain]:
    """True for a domain to search, False for a fixed value."""
    return isinstance(setting, (Real, Integer, Choice))


def encode(domain: Domain, value: Any) -> float | None:
    """The gene of ``value``; None if a choice does not offer it (ranges clip)."""
    if isinstance(domain, Choice) and value not in domain.options:
        return None
    return domain.encode(value)


def parse_values(section: config.Section, declared: Sequence[Parameter]) -> dict[str, Any]:
    """The values, none of them searched, that a section gives of ``declared``, by name; problems are noted."""
    found: dict[str, Any] = {}
    for parameter in declared:
        item = section.get(parameter.name)
        if item is not None:
            if problem := parameter.domain.problem(item.plain):
                section.problem(parameter.name, problem)
            found[parameter.name] = item.plain
    return found


def parse_setting(
    node: config.Node,
    where: str,
    declared: Sequence[Parameter],
    sources: Sequence[str],
    problems: config.Problems,
) -> Any:
    """A fixed value, a domain to search, or {model: either}; ``declared`` share the name."""
    if isinstance(node.value, dict) and not {"range", "choices"} & set(node.value):
        if not sources:  # an inner one names no models again
            problems.add(
                node, where, f"expected a value, range or choices, found {config.shown(node.plain)}"
            )
            return None
        if not all(p.per_model for p in declared):
            problems.add(
                node,
                where,
                f"one value for all models; expected a value, range or choices, found {config.shown(node.plain)}",
            )
            return None
        setting = {}
        for model, item in node.value.items():
            if model not in sources:
                problems.add(
                    item,
                    f"{where}.{model}",
                    f"no source {model!r}{did_you_mean(model, sources)}; {one_of(sources)}",
                )
                continue
            setting[model] = parse_setting(item, f"{where}.{model}", declared, (), problems)
        return setting
    if isinstance(node.value, dict):
        return _parse_domain(node, where, declared, problems)
    for parameter in declared:
        if problem := parameter.domain.problem(node.plain):
            problems.add(node, where, problem)
            break
    return node.plain


def _parse_domain(
    node: config.Node, where: str, declared: Sequence[Parameter], problems: config.Problems
) -> Domain | None:
    section = config.Section(node, problems, f"{where}.")
    spread, options = section.get("range"), section.get("choices")
    section.finish()
    if options is not None:
        values = options.plain if isinstance(options.value, list) else [options.plain]
        for value in values:
            for parameter in declared:
                if problem := parameter.domain.problem(value):
                    problems.add(options, f"{where}.choices", problem)
        if not values:
            problems.add(options, f"{where}.choices", "expected at least one value, found []")
            return None
        return Choice(tuple(values), values[0])
    value = spread.plain if spread else None
    numbers = value if isinstance(value, list) else []
    if any(
        isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v)
        for v in numbers
    ):
        numbers = []
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        problems.add(
            spread or node, f"{where}.range", f"expected [low, high], found {config.shown(value)}"
        )
        return None
    low, high = numbers
    domain: Domain | None = None
    for parameter in declared:
        mine = parameter.domain
        if isinstance(mine, Choice):
            problems.add(node, where, f"has choices ({mine}), not a range")
            return None
        if problem := _misfit(mine, low, high):
            problems.add(spread or node, f"{where}.range", problem)
            return None
        domain = mine.over(low, high)
    return domain


def _misfit(domain: Real | Integer, low: float, high: float) -> str | None:
    """Why ``domain`` cannot be searched from ``low`` to ``high``, or None."""
    least, most = domain.valid
    if low < least or high > most:
        return f"[{low:g}, {high:g}] reaches outside of [{least:g}, {most:g}]; nothing else has a meaning"
    if isinstance(domain, Integer):
        empty = math.ceil(low) > math.floor(high)
        return f"[{low:g}, {high:g}] holds no whole number" if empty else None
    if domain.scale == "log" and low <= 0:
        return f"a log-scaled range starts above 0, found {low:g}"
    return None
