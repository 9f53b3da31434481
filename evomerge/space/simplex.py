"""Weights that sum to 1, from one gene a model but the last.

A gene is the share that its model takes of what earlier models have left, against the ``m`` models
after it: softmax over (logit(gene), 0, ..., 0), which is

    share = gene / (gene + (1 - gene) m)

So 0.5 everywhere is the plain average, with two models the gene is the weight itself, a weight can
be 0 or 1, and no gene is spent on the direction that a softmax of one logit a model leaves without
effect. Shares are rounded to whole units of 0.0001, one after the other; so the weights of a recipe
sum to 1 exactly, and rounding is undone exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.params import DIGITS

UNITS = 10**DIGITS  # in a weight of 1


def decode(genes: Sequence[float]) -> tuple[int, ...]:
    """Weights in units, one more than genes; they sum to ``UNITS``."""
    left, units = UNITS, []
    for number, gene in enumerate(genes):
        after = len(genes) - number
        units.append(round(left * gene / (gene + (1 - gene) * after)))
        left -= units[-1]
    return (*units, left)


def shares(genes: Sequence[float]) -> tuple[float, ...]:
    """The weights before they are rounded."""
    left, found = 1.0, []
    for number, gene in enumerate(genes):
        after = len(genes) - number
        found.append(left * gene / (gene + (1 - gene) * after))
        left -= found[-1]
    return (*found, left)


def rates(genes: Sequence[float]) -> list[list[float]]:
    """The derivative of each weight by each gene, ``[genes][weights]``, by central differences."""
    found = []
    for number, gene in enumerate(genes):
        low, high = max(gene - 1e-4, 0.0), min(gene + 1e-4, 1.0)
        ends = ([*genes[:number], end, *genes[number + 1 :]] for end in (high, low))
        above, below = (shares(each) for each in ends)
        found.append([(a - b) / (high - low) for a, b in zip(above, below, strict=True)])
    return found


def encode(units: Sequence[int]) -> tuple[float, ...]:
    """The canonical genes of weights in units; 0.5 where nothing is left to share."""
    left, genes = sum(units), []
    for number, unit in enumerate(units[:-1]):
        after = len(units) - 1 - number
        share = min(max(unit / left, 0.0), 1.0) if left > 0 else 1 / (after + 1)
        genes.append(share * after / (share * after + 1 - share))
        left -= unit
    return tuple(genes)


def blend(rows: Sequence[Sequence[int]], parts: Sequence[float]) -> tuple[int, ...]:
    """The rows' average with these parts (which sum to 1), in whole units that sum to ``UNITS``."""
    return rounded(
        [
            sum(part * unit for part, unit in zip(parts, column, strict=True))
            for column in zip(*rows, strict=True)
        ]
    )


def rounded(exact: Sequence[float]) -> tuple[int, ...]:
    """Units in whole numbers, with the same sum but for its own rounding.

    The largest remainders are rounded up; the first of equal ones.
    """
    units = [int(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda model: units[model] - exact[model])
    for model in order[: round(sum(exact)) - sum(units)]:
        units[model] += 1
    return tuple(units)


def even(team: Sequence[str]) -> dict[str, float]:
    """Equal weights, as they stand on the simplex."""
    return weights(team, decode([0.5] * (len(team) - 1)))


def weights(team: Sequence[str], units: Sequence[int]) -> dict[str, float]:
    """The weights of ``team``, as a recipe holds them."""
    return {model: u / UNITS for model, u in zip(team, units, strict=True)}
