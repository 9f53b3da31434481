"""Floors in words: what a constraint asks for, said so that nobody reads it the other way round."""

from __future__ import annotations

from evomerge.suite.objectives import Floor


def in_words(
    name: str, floor: Floor, maximize: bool | None, bound: float | None = None, where: str = ""
) -> str:
    """What ``floor`` asks of objective ``name``.

    Args:
        name: of the objective.
        floor: its constraint.
        maximize: its direction; None if only executing the task would tell.
        bound: the number that it comes to, once the model that it names is scored.
        where: on which items that is.
    """
    known = f": {bound:.3f} {where}".rstrip() if bound is not None and floor.of else ""
    if maximize is None:
        return f"{name}: at least {_whose(floor)}, or at most that where less is better{known}"
    if maximize:
        return f"{name}: at least {_whose(floor)}{_meaning(floor, maximize)}{known}"
    return (
        f"{name}, where less is better: at most {_whose(floor)}{_meaning(floor, maximize)}{known}"
    )


def _whose(floor: Floor) -> str:
    return f"{floor}'s" if floor.of else str(floor)


def _meaning(floor: Floor, maximize: bool) -> str:
    """What a share allows, or asks for beyond the model that it is of."""
    if floor.share is None:
        return ""
    percent = 100 * floor.share
    if floor.share == 1:
        return f" (no worse than {floor.of})"
    if maximize:
        if floor.share < 1:
            return f" (it may lose {100 - percent:g} percent)"
        return f" (more than {floor.of} itself has, by {percent - 100:g} percent)"
    if floor.share > 1:
        return f" (it may be {percent - 100:g} percent more)"
    return (
        f" (less than {floor.of} itself has, by {100 - percent:g} percent; to allow as much more, write "
        f"{200 - percent:g}% of {floor.of})"
    )
