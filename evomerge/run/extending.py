"""More budget for a run that was begun: which totals come of what is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evomerge.errors import InputError

Limits = Mapping[str, float | None]
"""Total of each budget; None is no limit."""


def extended(limits: Limits, asked: Mapping[str, str]) -> Limits | None:
    """The totals that come of ``limits``; None if they are what is asked for.

    Args:
        limits: before.
        asked: budget -> ``+N`` for so much more, or ``N`` for a new total.

    Raises:
        InputError: a number makes no sense, is less than before, or is asked for a budget that there is
            not.
    """
    found, changed = dict(limits), False
    for name, text in asked.items():
        before, option = limits[name], f"--{name} {text}"
        if before is None:
            known = ", ".join(f"--{other}" for other, limit in limits.items() if limit is not None)
            raise InputError(
                f"{option}: this run has no budget of {name} that could be extended; it has {known}"
            )
        number = _number(name, text)
        total = before + number if text.strip().startswith("+") else number
        if total < before:
            raise InputError(
                f"{option}: is less than the {before:,} {name} that there are; expected more, or +N for so "
                "much more"
            )
        found[name], changed = total, changed or total > before
    return found if changed else None


def check(asked: Mapping[str, str]) -> None:
    """Refuse what makes no sense for any run.

    Raises:
        InputError: it is no number above 0.
    """
    for name, text in asked.items():
        _number(name, text)


def _number(name: str, text: str) -> float:
    whole = name != "hours"
    try:
        number = int(text.replace(",", "")) if whole else float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        kind = "whole number" if whole else "number"
        raise InputError(
            f"--{name} {text}: expected +N for so much more, or N for a new total, N a {kind} above 0"
        )
    return number
