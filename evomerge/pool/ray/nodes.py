"""The nodes of a cluster, as they were at one look, and the room that they have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Node:
    """A node that lives.

    Attributes:
        name: for people.
        resources: what it has in all.
        labels: what it is called by selectors.
        draining: it is to go: it gets nothing new.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    draining: bool


@dataclass(frozen=True)
class Need:
    """What a worker needs of a node.

    Attributes:
        resources: name -> amount.
        labels: name -> condition, as Ray writes them: ``value``, ``!value``, ``in(a, b)``, ``!in(a, b)``.
    """

    resources: Mapping[str, float]
    labels: Mapping[str, str]

    def room(self, nodes: Mapping[str, Node]) -> int:
        """How many workers the nodes that stay have room for, were they empty."""
        return sum(self._room(node) for node in nodes.values() if not node.draining)

    def _room(self, node: Node) -> int:
        if not all(_holds(node.labels.get(name), text) for name, text in self.labels.items()):
            return 0
        needs = {name: need for name, need in self.resources.items() if need}
        return min(_fitting(node.resources.get(name, 0.0), need) for name, need in needs.items())


def nodes_of(ray: Any) -> dict[str, Node]:
    """The nodes that live, by their ids."""
    draining: Mapping[str, int] = {}
    with suppress(Exception):  # a Ray that cannot tell
        draining = ray._private.state.state.get_draining_nodes()
    return {
        node["NodeID"]: Node(
            f"{node['NodeName']} ({node['NodeID'][:6]})",
            node["Resources"],
            node.get("Labels", {}),
            node["NodeID"] in draining,
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def _holds(label: str | None, condition: str) -> bool:
    refused = condition.startswith("!")
    text = condition.removeprefix("!")
    inner = text.removeprefix("in(").removesuffix(")") if text.startswith("in(") else text
    return (label in [each.strip() for each in inner.split(",")]) != refused


def _fitting(have: float, need: float) -> int:
    """How many shares of ``need`` fit; a fraction never spans two devices."""
    if need < 1:
        return math.floor(have) * math.floor(1 / need + 1e-9)
    return math.floor(have / need)
