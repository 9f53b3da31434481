"""What ``start`` of a space may list: names of known recipes, recipe files, recipes, and other runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from evomerge import config
from evomerge.recipe import BASE, Body

SCORE = "score"  # losses that are what a model's combined score lacks of the best
LOSS = "loss"  # the parameter of a method that a model's loss is
# keys of a group whose lists are no values over depth
LISTS = ("models", "roles", "layers", "tensors")
TRIED = 100  # blocks of the deepest model that a recipe is tried with before there is one
BEST = 8  # merges of another run, where its entry says no number
MOST = 1000

Given = Mapping[str, Mapping[str, Body]]
"""Other run, as ``start`` writes it -> label -> a merge of it, in the names of this run's models."""


@dataclass(frozen=True)
class OtherRun:
    """A run whose best merges are scored first: ``{run: FOLDER, best: N}``.

    Attributes:
        text: its folder, as written.
        folder: where that is.
        best: how many of them, at most.
        place: file:line, for messages.
    """

    text: str
    folder: Path
    best: int = BEST
    place: str = field(default="", compare=False)


@dataclass(frozen=True, eq=False)
class Published:
    """A recipe that stands in the space itself, as a paper gives it: ``{name: LABEL, recipe: {...}}``.

    Base, models, dtype and seed are the run's. A recipe is ``groups`` and what else is in a body, or what one
    group says; a group merges the models that it gives values, all sources where it names none. A list of
    numbers is a value over depth, from the first block to the last, and its first number what lies outside of the
    blocks has: as in mergekit.

    Attributes:
        name: its label.
        node: the recipe.
        losses: what takes the place of each model's ``loss``: ``score``, or an objective; empty: nothing does.
        place: file:line, for messages.
    """

    name: str
    node: config.Node
    losses: str = ""
    place: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        """That it merges by."""
        found = (group.get("method") for group in _groups(self.node.plain))
        return tuple(dict.fromkeys(name for name in found if isinstance(name, str)))

    @property
    def numbers(self) -> int:
        """How many the longest list over depth has: models of so many blocks take each of them as it is."""
        values = [
            value
            for group in _groups(self.node.plain)
            for key, each in group.items()
            if key not in LISTS
            for value in (each.values() if isinstance(each, dict) else (each,))
        ]
        longest = max([2, *(len(value) for value in values if isinstance(value, list))])
        return min(longest, TRIED)

    def body(
        self,
        layers: int,
        sources: Sequence[str],
        problems: config.Problems,
        path: str = "recipe",
    ) -> Body:
        """The recipe for models of so many blocks; what is wrong with it is noted."""
        if not isinstance(self.node.value, dict):
            config.Section(self.node, problems, f"{path}.")  # which says so
            return Body()
        value = dict(self.node.value)
        if "groups" not in value:
            own = {key: value.pop(key) for key in tuple(value) if key != "path"}
            value["groups"] = replace(self.node, value=[replace(self.node, value=own)])
        groups = value["groups"]
        if isinstance(groups.value, list):
            made = [one for each in groups.value for one in _over_depth(each, layers, sources)]
            value["groups"] = replace(groups, value=made)
        section = config.Section(replace(self.node, value=value), problems, f"{path}.")
        body = Body.parse(section, tuple(sources), True, informed=True)
        section.finish()
        return body


def _groups(plain: Any) -> list[Mapping[str, Any]]:
    groups = plain.get("groups", [plain]) if isinstance(plain, dict) else []
    return (
        [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
    )


def _over_depth(node: config.Node, layers: int, sources: Sequence[str]) -> Iterator[config.Node]:
    """A group with the models that it gives values; one a block where a value of it runs over depth."""
    if not isinstance(node.value, dict):
        yield node
        return
    group = dict(node.value)
    values = {key: each for key, each in group.items() if key not in LISTS and key != "lines"}
    named = {m for each in values.values() if isinstance(each.value, dict) for m in each.value}
    if named and "models" not in group:
        team = [each for each in (*sources, BASE) if each in named]
        team += sorted(named.difference(team))  # which there are not: it is said of the values, too
        group["models"] = replace(node, value=[replace(node, value=name) for name in team])
    runs = any(_runs(each) for each in values.values())
    span = group["layers"].plain if "layers" in group else [0, layers - 1]
    if not runs or not _is_span(span):
        yield replace(node, value=group)
        return
    first, last = span
    for layer in range(first, min(last, layers - 1) + 1):
        depth = (layer - first) / (last - first) if last > first else 1.0
        at = {key: _at(each, depth) for key, each in values.items()}
        block = replace(node, value=[replace(node, value=layer)] * 2)
        yield replace(node, value={**group, **at, "layers": block})
    if "layers" not in group and not _inside(group):
        yield replace(
            node, value={**group, **{key: _at(each, 0.0) for key, each in values.items()}}
        )


def _inside(group: Mapping[str, config.Node]) -> bool:
    """Whether its roles are of blocks alone."""
    roles = group["roles"].plain if "roles" in group else None
    return isinstance(roles, list) and not {"norm", "embed", "head", "other"}.intersection(
        map(str, roles)
    )


def _is_span(value: Any) -> bool:
    whole = isinstance(value, list) and len(value) == 2 and all(type(each) is int for each in value)
    return whole and 0 <= value[0] <= value[1]


def _runs(node: config.Node) -> bool:
    """Whether it, or what it gives a model, is a list of numbers over depth."""
    if isinstance(node.value, dict):
        return any(_runs(each) for each in node.value.values())
    return isinstance(node.value, list) and bool(node.value)


def _at(node: config.Node, depth: float) -> config.Node:
    """The value at ``depth`` in [0, 1]: numbers are interpolated, all else is stepped."""
    if isinstance(node.value, dict):
        return replace(node, value={key: _at(each, depth) for key, each in node.value.items()})
    if not _runs(node):
        return node
    scaled = depth * (len(node.value) - 1)
    low = int(scaled)
    first = node.value[low]
    if scaled == low or not _is_number(first.value) or not _is_number(node.value[low + 1].value):
        return replace(node, value=first.value)
    share = scaled - low
    return replace(node, value=(1 - share) * first.value + share * node.value[low + 1].value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


Entry = str | OtherRun | Published


def label_of(entry: Entry) -> str:
    """How an entry is told to people: as it was written, or by its label."""
    if isinstance(entry, OtherRun):
        return entry.text
    return entry if isinstance(entry, str) else entry.name


def is_recipe_file(entry: object) -> TypeGuard[str]:
    """True for the name of a recipe file."""
    return isinstance(entry, str) and entry.endswith((".yaml", ".yml"))


def parse_entries(section: config.Section) -> tuple[Entry, ...]:
    """The list under ``start``; one entry stands for a list of one. Problems are noted in the section."""
    node = section.get("start")
    if node is None:
        return ()
    found: list[Entry] = []
    for number, item in enumerate(node.value if isinstance(node.value, list) else [node]):
        if isinstance(item.value, str):
            found.append(item.value)
        elif isinstance(item.value, dict) and not {"run", "best"} & set(item.value):
            if published := _parse_published(item, section, f"start[{number}]"):
                found.append(published)
        elif isinstance(item.value, dict):
            part = config.Section(item, section.problems, f"{section.path}start[{number}].")
            text = part.text("run", required=True)
            best = part.integer("best", BEST, low=1, high=MOST)
            part.finish()
            folder = Path(os.path.normpath(node.folder / os.path.expanduser(text)))
            if any(isinstance(each, OtherRun) and each.folder == folder for each in found):
                part.problem(
                    "run", f"{text!r} stands twice; once, with a larger `best`, takes more"
                )
            found.append(OtherRun(text, folder, best, f"{item.file}:{item.line}"))
        else:
            section.problem(
                "start",
                "expected names of known recipes, recipe files, recipes as {name: LABEL, recipe: {method: ...}}, and "
                f"other runs as {{run: FOLDER, best: N}}, found {config.shown(item.plain)}",
            )
    return tuple(found)


def _parse_published(item: config.Node, section: config.Section, where: str) -> Published | None:
    """A recipe among the entries; its body is read once the models are known."""
    part = config.Section(item, section.problems, f"{section.path}{where}.")
    before = len(section.problems.found)
    name = part.text("name", required=True)
    recipe = part.require("recipe", "what a group of a recipe says, as {method: ties, weight: 0.5}")
    losses = part.text("losses")
    part.finish()
    if name.endswith((".yaml", ".yml")):
        part.problem("name", "reads as the name of a recipe file; choose another label")
    if len(section.problems.found) > before or recipe is None:
        return None
    return Published(name, recipe, losses, f"{item.file}:{item.line}")
