"""Named pieces that come with evomerge or from a package with an entry point."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from evomerge.errors import InputError, did_you_mean, one_of


def names(group: str, built_in: Mapping[str, str]) -> list[str]:
    """Every name of ``group``, built in or of a plugin, sorted."""
    return sorted({*built_in, *(point.name for point in entry_points(group=group))})


def load(kind: str, name: str, group: str, built_in: Mapping[str, str]) -> tuple[Any, str]:
    """What ``name`` stands for, and ``module:attribute``; a plugin cannot take a built-in name over.

    Raises:
        InputError: no ``kind`` has this name, or its library or plugin cannot be imported.
    """
    points = entry_points(group=group, name=name)
    if name in built_in:
        point = EntryPoint(name, built_in[name], group)
    elif points:
        point = next(iter(points))
    else:
        known = names(group, built_in)
        hint = did_you_mean(name, known)
        raise InputError(f"{kind}: unknown name {name!r}{hint}; expected {one_of(known)}")
    try:
        return getattr(importlib.import_module(point.module), point.attr), point.value
    except (ImportError, AttributeError) as error:
        raise InputError(f"{kind} {name!r} ({point.value}) cannot be loaded: {error}") from error
