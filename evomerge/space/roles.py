"""Roles: what a preset calls its models, and which sources of a run they are.

A preset names models by what they do: ``$chat``, ``$language``. A run binds each role to a source, by the
source's name or under ``models.roles``; ``$siblings`` is all sources unless it is bound. A role may stand for
several sources: where it is a key, they share the value; where it stands in a list, they all stand there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evomerge import config
from evomerge.errors import did_you_mean, one_of
from evomerge.recipe import BASE

SIGN = "$"
SIBLINGS = "siblings"  # all sources
ROLES = "roles"  # the key of a space, and of a run's models

Bound = Mapping[str, tuple[str, ...]]  # role -> the sources that play it


def parse_bound(section: config.Section, sources: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``models.roles`` of a run: a source's name, or a list of them, for each role; problems are noted."""
    known, found = (*sources, BASE), dict[str, tuple[str, ...]]()
    for role, node in section.items(ROLES) if ROLES in section else ():
        names = node.plain if isinstance(node.value, list) else [node.value]
        where = f"{ROLES}.{role}"
        if not names or not all(isinstance(name, str) for name in names):
            expected = "expected a source of this run, or a list of some"
            section.problem(where, f"{expected}, found {config.shown(node.plain)}", node)
            continue
        for name in names:
            if sources and name not in known:
                hint = did_you_mean(name, known)
                section.problem(
                    where, f"{name!r} is no source of this run{hint}; {one_of(known)}", node
                )
        found[role] = tuple(dict.fromkeys(names))
    return found


@dataclass
class Cast:
    """Who plays which role in a run.

    Attributes:
        sources: of the run.
        bound: what the run says of roles.
        wanted: role -> who that is, as the space says.
        problems: where roles that nobody plays are noted, each once.
    """

    sources: Sequence[str]
    bound: Bound
    wanted: Mapping[str, str]
    problems: config.Problems
    _missed: set[str] = field(default_factory=set)

    def of(self, node: config.Node, path: str = "") -> config.Node:
        """``node`` with sources in the place of roles; a role that nobody plays is left out."""
        if isinstance(node.value, dict):
            return replace(node, value=dict(self._entries(node, path)))
        if isinstance(node.value, list):
            return replace(node, value=list(self._items(node, path)))
        if not _is_role(node.value):
            return node
        names = self._players(node.value, node, path)
        if len(names) > 1:
            self.problems.add(
                node,
                path,
                f"{node.value} is {len(names)} sources here ({', '.join(names)}); expected one",
            )
        return replace(node, value=next(iter(names), None))

    def _entries(self, node: config.Node, path: str) -> Iterator[tuple[str, config.Node]]:
        taken: set[str] = set()
        for key, child in node.value.items():
            below = f"{path}.{key}".lstrip(".")
            names = self._players(key, child, below) if _is_role(key) else (key,)
            for name in names:
                if name in taken:
                    self.problems.add(
                        child,
                        below,
                        f"{name!r} has a value already: it plays another role, or is named, too",
                    )
                taken.add(name)
                yield name, self.of(child, below)

    def _items(self, node: config.Node, path: str) -> Iterator[config.Node]:
        for number, child in enumerate(node.value):
            below = f"{path}[{number}]"
            if _is_role(child.value):
                for name in self._players(child.value, child, below):
                    yield replace(child, value=name)
            else:
                yield self.of(child, below)

    def _players(self, word: str, node: config.Node, path: str) -> tuple[str, ...]:
        role = word.removeprefix(SIGN)
        if role in self.bound:
            return self.bound[role]
        if role in self.sources:
            return (role,)
        if role == SIBLINGS:
            return tuple(self.sources)
        if role == BASE:
            return (BASE,)
        if role not in self._missed:
            self._missed.add(role)
            who = f" ({self.wanted[role]})" if role in self.wanted else ""
            self.problems.add(
                node,
                path,
                f"no source plays the role {role!r}{who}. Call a source {role!r}, or say in run.yaml which one it "
                f"is: models: {{{ROLES}: {{{role}: {next(iter(self.sources), 'NAME')}}}}}; "
                f"{one_of(self.sources)}",
            )
        return ()


def cast(
    node: config.Node, path: str, sources: Sequence[str], bound: Bound, problems: config.Problems
) -> config.Node:
    """The space ``node`` with a run's sources in the place of roles.

    Args:
        node: as its file says it.
        path: what its keys begin with, in messages.
        sources, bound: of the run.
        problems: where roles that nobody plays are noted.
    """
    if not isinstance(node.value, dict):
        return node
    section = config.Section(node, problems, path)
    wanted = {role: str(each.plain) for role, each in section.items(ROLES)}
    rest = {key: each for key, each in node.value.items() if key != ROLES}
    players = Cast(sources, bound, wanted, problems)
    return players.of(replace(node, value=rest), path.rstrip("."))


def _is_role(value: object) -> bool:
    return isinstance(value, str) and value.startswith(SIGN) and len(value) > 1
