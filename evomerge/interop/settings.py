"""Values of a mergekit parameter: a scalar, a list over depth, or either behind name filters."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evomerge import config
from evomerge.interop.catalogue import Kind
from evomerge.params import Value

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_EXPECTED = {"number": "a number", "integer": "a whole number", "flag": "true or false"}


@dataclass(frozen=True)
class Branch:
    """The values for tensors whose name contains ``filter``; None matches every tensor.

    ``values``: one, or several over the layers of a slice, first to last. ``integer`` values are
    whole wherever mergekit can use them.
    """

    filter: str | None
    values: tuple[Value, ...]
    integer: bool = False

    def matches(self, name: str) -> bool:
        return self.filter is None or self.filter in name

    def at(self, depth: float) -> Value:
        """The value at ``depth`` in [0, 1]: numbers are interpolated, flags stepped."""
        scaled = depth * (len(self.values) - 1)
        low = int(scaled)
        first = self.values[low]
        if isinstance(first, bool) or not isinstance(first, (int, float)) or scaled == low:
            return first
        second, share = self.values[low + 1], scaled - low
        assert isinstance(second, (int, float))
        value = (1 - share) * first + share * second
        return int(value) if self.integer and value == int(value) else value


Setting = tuple[Branch, ...]


def value_at(setting: Setting, name: str, depth: float) -> Value:
    """The value for the tensor ``name``, from the first branch that matches; None if none does."""
    return next((branch.at(depth) for branch in setting if branch.matches(name)), None)


def parse_setting(node: config.Node, kind: Kind, where: str, problems: config.Problems) -> Setting:
    """A setting from YAML; problems are noted."""
    if isinstance(node.value, dict):
        return _parse_branch(node, kind, where, problems)
    if isinstance(node.value, list) and any(isinstance(n.value, dict) for n in node.value):
        branches: Setting = ()
        for number, item in enumerate(node.value):
            branches += _parse_branch(item, kind, f"{where}[{number}]", problems)
        return branches
    return _parse_values(node, None, kind, where, problems)


def _parse_branch(node: config.Node, kind: Kind, where: str, problems: config.Problems) -> Setting:
    section = config.Section(node, problems, f"{where}.")
    wanted = section.get("filter")
    value = section.require("value", _EXPECTED[kind])
    section.finish()
    name = None if wanted is None or wanted.value in (None, "*") else str(wanted.value)
    return _parse_values(value, name, kind, where, problems) if value else ()


def _parse_values(
    node: config.Node, name: str | None, kind: Kind, where: str, problems: config.Problems
) -> Setting:
    nodes = node.value if isinstance(node.value, list) else [node]
    values = [_scalar(item.value, kind) for item in nodes]
    if not nodes:
        problems.add(node, where, f"expected {_EXPECTED[kind]} or a list of them; found none")
    for item, value in zip(nodes, values, strict=True):
        if value is None:
            expected = f"expected {_EXPECTED[kind]}, a list of them over depth, or filters"
            problems.add(item, where, f"{expected}; found {config.shown(item.plain)}")
    if any(value is None for value in values) or not values:
        return ()
    return (Branch(name, tuple(values), kind == "integer"),)


def _scalar(value: object, kind: Kind) -> Value:
    """``value`` as mergekit would read it for this kind of parameter; None if it would not."""
    if kind == "flag":
        if isinstance(value, str):
            return _WORDS.get(value.lower())
        return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
        return None
    if kind == "integer":
        return int(value) if value == int(value) else None
    return float(value)
