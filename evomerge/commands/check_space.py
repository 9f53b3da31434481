"""Preflight of a search space by itself: keys, methods, ranges. Which models it suits is a run's to say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evomerge import config
from evomerge.recipe import BASE
from evomerge.space import parse_space
from evomerge.space.roles import ROLES, SIGN
from evomerge.space.start import label_of

_ANY = ("first", "second", "third")  # sources, where a space names none


def check_space(file: Path) -> list[str]:
    """What a space says, one fact a line.

    Raises:
        InputError: with every problem found.
    """
    node = config.read(file)
    problems = config.Problems()
    named = tuple(dict.fromkeys(named_sources(node)))
    spec = parse_space(node, named or _ANY, problems)
    problems.check()
    assert spec is not None
    return [
        f"{file}: ok, a search space",
        f"searched: {', '.join(dict.fromkeys((*spec.methods, *spec.parts)))}",
        f"scored first: {', '.join(map(label_of, spec.start))}",
        *([f"for sources named {', '.join(named)}"] if named else []),
        "a run names it as `space:`; `evomerge check` of that run says how many genes it has for its models",
    ]


def named_sources(node: config.Node) -> Iterator[str]:
    """Sources that the space names: its roles, those in ``models``, and keys of a parameter's values."""
    if not isinstance(node.value, dict):
        return
    roles = node.value.get(ROLES)
    yield from roles.plain if roles is not None and isinstance(roles.plain, dict) else ()
    models = node.value.get("models")
    lists = models.plain if models is not None else []
    for each in lists.values() if isinstance(lists, dict) else [lists]:
        if isinstance(each, list):
            yield from (n for n in each if isinstance(n, str) and n != BASE and n[:1] != SIGN)
    parameters = node.value.get("parameters")
    for value in (parameters.plain or {}).values() if parameters is not None else ():
        if isinstance(value, dict) and not {"range", "choices"} & set(value):
            yield from (name for name in value if name[:1] != SIGN)
