"""What a space file says: methods, where values are placed, which may vary."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evomerge import config, methods
from evomerge.errors import did_you_mean, one_of
from evomerge.params import Parameter
from evomerge.recipe import BASE, GROUP_ROLES
from evomerge.registry import PARTS
from evomerge.space.roles import Bound, cast
from evomerge.space.settings import parse_setting
from evomerge.space.start import (
    LOSS,
    Entry,
    OtherRun,
    Published,
    is_recipe_file,
    parse_entries,
)
from evomerge.tensors import FINE, OTHER, PROJECTIONS

# keys of a space file that belong to the part ``methods``
OF_METHODS = ("methods", "method_gene", "parameters", "models", "weights")
TENSOR = "tensor"  # what ``groups`` says for a group a tensor
METHODS = "methods"  # the part that draws groups where no other does
PARENTS = "parents"  # known recipes that are scored in any case
DEPTH = 1000  # more blocks than any model has
METHODLESS = ("task_arithmetic",)  # what a space merges by that names no method


@dataclass(frozen=True)
class SpaceSpec:
    """A search space as configured, before it is fitted to models.

    Attributes:
        methods: candidates; more than one makes a gene.
        method_gene: ``global`` (one choice for the model) or ``group`` (one per group).
        blocks: number of layer blocks, or None.
        roles: role classes of the groups, in order; empty: all roles together.
        knots: number of depths, or None.
        tensors: True if every tensor has values of its own.
        parameters: name -> fixed value, domain, or {model: value or domain}.
        start: known recipes, and other runs, whose merges are scored first.
        models: method -> the models it may merge; all sources where nothing is said.
        parts: name -> settings of the parts beside methods and their parameters, in order.
        left_out: known recipes that would be scored first, and why they are not.
    """

    methods: tuple[str, ...]
    method_gene: str = "global"
    blocks: int | None = None
    roles: tuple[str, ...] = ()
    knots: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    start: tuple[Entry, ...] = (PARENTS, "uniform", "task_arithmetic")
    origin: str = "."
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    tensors: bool = False

    @property
    def is_fine(self) -> bool:
        """True if it tells tensors of one layer and role apart."""
        return self.tensors or bool(set(self.roles) & set(FINE))

    def team(self, method: str, sources: Sequence[str]) -> tuple[str, ...]:
        """The models that ``method`` may merge."""
        return tuple(self.models.get(method, sources))

    def setting(self, parameter: Parameter, model: str | None) -> Any:
        """A fixed value or a domain; what the declaration says where the space is silent."""
        found = self.parameters.get(parameter.name)
        if isinstance(found, Mapping):
            found = found.get(model) if model else None
        if found is not None:
            return found
        return parameter.domain if parameter.searched else parameter.default


def parse_space(
    node: config.Node,
    sources: Sequence[str],
    problems: config.Problems,
    bound: Bound | None = None,
) -> SpaceSpec | None:
    """A space from YAML; problems are noted, None is returned if there were any.

    Args:
        node: the space.
        sources: of the run.
        problems: where they are noted.
        bound: which of them play the roles that the space names.
    """
    before = len(problems.found)
    path = "" if node.line <= 1 else "space."
    node = cast(node, path, sources, bound or {}, problems)
    if len(problems.found) > before:
        return None
    section = config.Section(node, problems, path)
    parts = _parse_parts(section, sources)
    names = section.texts("methods", METHODLESS)
    known = frozenset(methods.names())
    teams = _parse_models(section, names, sources)
    for name in names:
        team = teams.get(name, tuple(sources))
        if name not in known:
            section.problem(
                "methods", f"no method {name!r}{did_you_mean(name, known)}; see `evomerge methods`"
            )
            continue
        method = methods.get(name)  # of more models than it takes a gene chooses
        if problem := method.arity_problem(method.team_size(len(team)), True):
            section.problem("methods", problem)
    if not names:
        section.problem("methods", "expected at least one method")
    gene = section.choice("method_gene", ("global", "group"), "global")
    blocks, roles, tensors = _parse_groups(section)
    knots = section.integer("knots", 2, low=2, high=DEPTH) if "knots" in section else None
    if knots and tensors:
        section.problem(
            "knots", "give either knots or groups: tensor; both place values over depth"
        )
    if knots and blocks:
        section.problem("knots", "give either knots or groups.layers: both place values over depth")
    declared = [p for name in names if name in known for p in methods.get(name).parameters]
    parameters = _parse_parameters(section, names, declared, sources)
    _check_decided(section, parts, declared, parameters)
    spec = SpaceSpec(
        methods=tuple(name for name in names if name in known),
        method_gene=gene,
        blocks=blocks,
        roles=roles,
        knots=knots,
        parameters=parameters,
        origin=str(node.folder),
        models=teams,
        parts=parts,
        tensors=tensors,
    )
    for name in parts if len(problems.found) == before else ():
        if why := PARTS.get(name).refuses(spec):
            section.problem(name, why)
    spec = _with_start(spec, section, sources)
    section.finish()
    return spec if len(problems.found) == before else None


def _with_start(spec: SpaceSpec, section: config.Section, sources: Sequence[str]) -> SpaceSpec:
    """The same with the known recipes that are scored first: those asked for, or the usual ones."""
    owner = owners(spec)
    if "start" not in section:
        own = map(PARTS.get, (METHODS, *spec.parts))
        usual = dict.fromkeys(name for part in own for name in part.usual(spec))
        wrong = {
            name: owner[name].problem(name, spec, sources) or _twin(name, spec, sources)
            for name in usual
        }
        start = (PARENTS, *(name for name in usual if not wrong[name]))
        left_out = {name: why for name, why in wrong.items() if why and name in spec.methods}
        return replace(spec, start=start, left_out=left_out)
    start, taken = parse_entries(section), {PARENTS, *owner}
    for name in start:
        if isinstance(name, Published):
            tried = config.Problems()
            name.body(name.numbers, sources, tried, f"{section.path}start.{name.name}")
            section.problems.found += dict.fromkeys(tried.found)
            if name.name in taken:
                section.problem(
                    "start", f"{name.name!r} is the name of another known recipe; choose a label"
                )
            if name.losses and not any(LOSS in _parameters(each) for each in name.methods):
                section.problem(
                    "start",
                    f"{name.name!r} has losses, and its methods take none; one that does is lm_cocktail",
                )
            taken.add(name.name)
            continue
        if isinstance(name, OtherRun) or name == PARENTS:
            continue
        if is_recipe_file(name):
            if not os.path.isfile(section.node.folder / name):
                section.problem("start", f"no such recipe file: {section.node.folder / name}")
        elif name not in owner:
            hint = did_you_mean(name, (PARENTS, *owner))
            others = [each for each in owner if each not in methods.names()]
            section.problem(
                "start",
                f"no known recipe {name!r}{hint}; expected {', '.join((PARENTS, *others))}, a method, a "
                "recipe file, {name: LABEL, recipe: {...}} or {run: FOLDER, best: N}",
            )
        elif why := owner[name].problem(name, spec, sources):
            hint = f"leave it out, or name its models (`models: {{{name}: [...]}}`)"
            section.problem("start", f"{why}; {hint}" if name in methods.names() else why)
    return replace(spec, start=start)


def _parameters(method: str) -> set[str]:
    return {p.name for p in methods.get(method).parameters} if method in methods.names() else set()


def owners(spec: SpaceSpec) -> dict[str, Any]:
    """Known recipe, as ``start`` may name it -> the part that has it: a built-in one, or one of this space."""
    found: dict[str, Any] = {}
    for part in map(PARTS.get, dict.fromkeys((*PARTS.built_in, *spec.parts))):
        for name in part.starts():
            found.setdefault(name, part)
    return found


def _twin(name: str, spec: SpaceSpec, sources: Sequence[str]) -> str | None:
    """Which other known recipe this one is, in words, if it is a method at its defaults; None if none."""
    if name not in spec.methods or spec.team(name, sources) != tuple(sources):
        return None
    method = methods.get(name)
    if not method.by_default or any(p.name in spec.parameters for p in method.parameters):
        return None
    return f"with its defaults it is {method.by_default}"


def _parse_models(
    section: config.Section, names: Sequence[str], sources: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """``models``: a list for all methods, or a list a method."""
    node = section.get("models")
    if node is None:
        return {}
    if isinstance(node.value, dict):
        part = config.Section(node, section.problems, f"{section.path}models.")
        found = {name: part.texts(name) for name in names if name in part}
        part.finish()
    else:
        part = section
        found = dict.fromkeys(names, section.texts("models"))
    for name, team in found.items():
        key = name if part is not section else "models"
        for model in dict.fromkeys(team):
            if model not in (*sources, BASE):
                part.problem(
                    key, f"no source {model!r}{did_you_mean(model, sources)}; {one_of(sources)}"
                )
            elif team.count(model) > 1:
                part.problem(key, f"{model!r} stands twice")
        if part is section:
            break
    return found


def _parse_groups(section: config.Section) -> tuple[int | None, tuple[str, ...], bool]:
    """Number of blocks, roles, whether each tensor is a group."""
    node = section.get("groups")
    if node is not None and isinstance(node.value, str):
        if node.value != TENSOR:
            hint = did_you_mean(node.value, (TENSOR,))
            section.problem(
                "groups", f"expected {TENSOR}, or layers and roles, found {node.value!r}{hint}"
            )
        return None, (), node.value == TENSOR
    groups = section.section("groups")
    if groups is None:
        return None, (), False
    blocks = groups.integer("layers", 1, low=1, high=DEPTH) if "layers" in groups else None
    roles = groups.texts("roles")
    for role in roles:
        if role not in GROUP_ROLES:
            hint = did_you_mean(role, GROUP_ROLES)
            groups.problem("roles", f"no role {role!r}{hint}; {one_of(GROUP_ROLES)}")
    for each, times in Counter(each for role in roles for each in expanded((role,))).items():
        if times > 1:
            groups.problem(
                "roles", f"{each!r} stands twice ('other' is {', '.join(OTHER)}); name it once"
            )
    for role, parts in PROJECTIONS.items():
        if role in roles and (twice := set(parts) & set(roles)):
            groups.problem("roles", f"{min(twice)!r} is part of {role!r}; name one of the two")
    groups.finish()
    return blocks, roles, False


def _parse_parameters(
    section: config.Section,
    names: Sequence[str],
    declared: Sequence[Parameter],
    sources: Sequence[str],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in section.items("parameters"):
        mine = [p for p in declared if p.name == name]
        where = f"{section.path}parameters.{name}"
        if mine:
            found[name] = parse_setting(item, where, mine, sources, section.problems)
        elif set(methods.names()).issuperset(names):
            hint = did_you_mean(name, {p.name for p in declared})
            section.problems.add(item, where, f"no parameter of {', '.join(names)}{hint}")
    return found


def _check_decided(
    section: config.Section,
    parts: Mapping[str, Any],
    declared: Sequence[Parameter],
    parameters: Mapping[str, Any],
) -> None:
    """Refuse a part that draws a parameter which no method has, or which has values already."""
    for part in parts:
        for name in PARTS.get(part).PARAMETERS:
            if not any(p.name == name and p.per_model for p in declared):
                section.problem(part, f"no method here has a {name} for each model")
            if name in parameters:
                section.problem(part, f"draws every {name} itself; remove parameters.{name}")


def _parse_parts(section: config.Section, sources: Sequence[str]) -> dict[str, Any]:
    """The settings of every part whose key stands in the space, plugins' after the built-in ones."""
    found = {}
    for name in dict.fromkeys((*PARTS.built_in, *PARTS.names())):
        node = section.get(name)
        if node is None:
            continue
        part = PARTS.get(name)
        settings = part.parse(node, f"{section.path}{name}", sources, section.problems)
        if settings is None:
            continue
        found[name] = settings
        others = [other for other in found if other != name and PARTS.get(other).GROUPS]
        if part.GROUPS and others:
            section.problem(name, f"draws all groups, as `{others[0]}` does; remove one of the two")
        for key in (*part.EXCLUDES, *(OF_METHODS if part.GROUPS else ())):
            if key in section:
                section.problem(key, f"`{name}` decides this itself; remove one of the two")
    return found


def expanded(roles: Sequence[str]) -> set[str]:
    """Roles with ``other`` spelled out, and those of which all projections are there."""
    found = {role for name in roles for role in (OTHER if name == "other" else (name,))}
    return found | {role for role, parts in PROJECTIONS.items() if found.issuperset(parts)}
