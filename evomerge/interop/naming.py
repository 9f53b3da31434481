"""Short names for models that a file knows by path or hub id only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from evomerge.recipe import BASE
from evomerge.tokens import UNION


def name_models(references: Iterable[str]) -> dict[str, str]:
    """Reference -> name: the end of its path (of the adapter's, if there is one), made unique."""
    named: dict[str, str] = {}
    for reference in references:
        end = Path(reference.rpartition("+")[2].partition("@")[0]).name
        short = re.sub(r"[^\w.-]+", "-", end).strip("-.") or "model"
        name, number = short, 2
        while name in named.values() or name in (BASE, UNION):
            name, number = f"{short}-{number}", number + 1
        named[reference] = name
    return named
