"""What a space file says: methods, where values are placed, which may vary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge import config, methods
from evomerge.errors import did_you_mean, one_of
from evomerge.params import Choice, Domain, Integer, Parameter
from evomerge.recipe import GROUP_ROLES
from evomerge.tensors import OTHER

STARTS = ("parents", "uniform")  # besides the names of methods and recipe files


@dataclass(frozen=True)
class SpaceSpec:
    """A search space as configured, before it is fitted to models.

    Attributes:
        methods: candidates; more than one makes a gene.
        method_gene: ``global`` (one choice for the model) or ``group`` (one per group).
        blocks: number of layer blocks, or None.
        roles: role classes of the groups, in order; empty: all roles together.
        knots: number of depths, or None.
        parameters: name -> fixed value, domain, or {model: value or domain}.
        start: known recipes scored first.
    """

    methods: tuple[str, ...]
    method_gene: str = "global"
    blocks: int | None = None
    roles: tuple[str, ...] = ()
    knots: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    start: tuple[str, ...] = ("parents", "uniform", "task_arithmetic")
    origin: str = "."


def parse_space(
    node: config.Node, sources: Sequence[str], problems: config.Problems
) -> SpaceSpec | None:
    """A space from YAML; problems are noted, None is returned if there were any."""
    before = len(problems.found)
    section = config.Section(node, problems, "" if node.line <= 1 else "space.")
    known = frozenset(methods.names())
    names = section.texts("methods", ("task_arithmetic",))
    for name in names:
        if name not in known:
            section.problem(
                "methods", f"no method {name!r}{did_you_mean(name, known)}; see `evomerge methods`"
            )
        elif problem := methods.get(name).arity_problem(len(sources), True):
            section.problem("methods", problem)
    if not names:
        section.problem("methods", "expected at least one method")
    gene = section.choice("method_gene", ("global", "group"), "global")
    blocks: int | None = None
    roles: tuple[str, ...] = ()
    if groups := section.section("groups"):
        blocks = groups.integer("layers", 1, low=1) if "layers" in groups else None
        roles = groups.texts("roles")
        for role in roles:
            if role not in GROUP_ROLES:
                hint = did_you_mean(role, GROUP_ROLES)
                groups.problem("roles", f"no role {role!r}{hint}; {one_of(GROUP_ROLES)}")
        named = Counter(each for role in roles for each in expanded((role,)))
        for each, times in named.items():
            if times > 1:
                groups.problem(
                    "roles", f"{each!r} stands twice ('other' is {', '.join(OTHER)}); name it once"
                )
        groups.finish()
    knots = section.integer("knots", 2, low=2) if "knots" in section else None
    if knots and blocks:
        section.problem("knots", "give either knots or groups.layers: both place values over depth")
    parameters: dict[str, Any] = {}
    declared = [p for name in names if name in known for p in methods.get(name).parameters]
    for name, item in section.items("parameters"):
        mine = [p for p in declared if p.name == name]
        where = f"{section.path}parameters.{name}"
        if mine:
            parameters[name] = _parse_setting(item, where, mine, sources, problems)
        elif known.issuperset(names):
            hint = did_you_mean(name, {p.name for p in declared})
            problems.add(item, where, f"no parameter of {', '.join(names)}{hint}")
    start = section.texts("start", _default_start([name for name in names if name in known]))
    for name in start:
        if name not in (*STARTS, *known) and not name.endswith((".yaml", ".yml")):
            hint = did_you_mean(name, (*STARTS, *known))
            section.problem(
                "start",
                f"no known recipe {name!r}{hint}; expected {', '.join(STARTS)}, a method or a recipe file",
            )
    section.finish()
    if len(problems.found) > before:
        return None
    return SpaceSpec(names, gene, blocks, roles, knots, parameters, start, str(node.folder))


def _default_start(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("parents", "uniform", "task_arithmetic", *names)))


def _parse_setting(
    node: config.Node,
    where: str,
    declared: Sequence[Parameter],
    sources: Sequence[str],
    problems: config.Problems,
) -> Any:
    """A fixed value, a narrowed domain, or {model: either}."""
    if isinstance(node.value, dict) and not {"range", "choices"} & set(node.value):
        if not all(p.per_model for p in declared):
            problems.add(
                node,
                where,
                f"one value for all models; expected a value, range or choices, found {node.plain!r}",
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
            setting[model] = _parse_setting(item, f"{where}.{model}", declared, sources, problems)
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
        isinstance(v, bool) or not isinstance(v, (int, float)) or math.isnan(v) for v in numbers
    ):
        numbers = []
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        problems.add(spread or node, f"{where}.range", f"expected [low, high], found {value!r}")
        return None
    low, high = numbers
    domain: Domain | None = None
    for parameter in declared:
        mine = parameter.domain
        if isinstance(mine, Choice):
            problems.add(node, where, f"has choices ({mine}), not a range")
            return None
        if low < mine.low or high > mine.high:
            problems.add(
                spread or node,
                f"{where}.range",
                f"[{low:g}, {high:g}] reaches outside the declared [{mine.low:g}, {mine.high:g}]; "
                "a space may narrow a range, not widen it",
            )
            return None
        if isinstance(mine, Integer) and math.ceil(low) > math.floor(high):
            problems.add(
                spread or node, f"{where}.range", f"[{low:g}, {high:g}] holds no whole number"
            )
            return None
        domain = mine.narrowed(low, high)
    return domain


def expanded(roles: Sequence[str]) -> set[str]:
    """Roles with ``other`` spelled out."""
    return {role for name in roles for role in (OTHER if name == "other" else (name,))}
