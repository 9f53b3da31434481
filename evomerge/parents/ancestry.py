"""Whether models have an ancestor in common, by their weights.

What is fine-tuned from a model stays close to it: the cosine of their matrices is near 1. Of models that were
trained apart it is near 0, and their difference is larger than either: as task vectors such differences mean
nothing, and a mean of the models is one of unrelated numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.parents.parents import Parents
from evomerge.recipe import BASE

if TYPE_CHECKING:
    import torch

MATRICES, ROWS, COLUMNS = 6, 64, 4096  # that are looked at, at most: 6 MB of each model in float32
UNRELATED = 0.1  # cosines below this, which chance gives to vectors of a hundred entries
LARGE = 0.8  # deltas beyond this share of the weights' norm


@dataclass(frozen=True)
class Kinship:
    """How near a model is to another.

    Attributes:
        cosine: of their entries.
        ratio: norm of their difference over that of the model.
    """

    cosine: float
    ratio: float

    @property
    def unrelated(self) -> bool:
        return abs(self.cosine) < UNRELATED and self.ratio > LARGE


def ancestry_notes(parents: Parents) -> list[str]:
    """Which models look unrelated to the base, or without one to the first source, a line each.

    Of models whose weights were not fetched nothing is told.
    """
    first, *others = parents.models
    if parents.models[first].missing:
        return []
    others = [name for name in others if not parents.models[name].missing]
    names = _sample(parents)
    notes = []
    for name in others if names else ():
        found = kinship(parents, name, first, names)
        if not found.unrelated:
            continue
        ours, theirs = (f"{n} ({parents.models[n].name})" for n in (name, first))
        measured = f"{found.ratio:.2f} times as large as its weights, cosine {found.cosine:.2f}"
        if first == BASE:
            notes.append(
                f"{theirs} looks like no ancestor of {ours}: what differs is {measured}, so task vectors from it "
                "mean nothing. Is it the wrong base?"
            )
        else:
            notes.append(
                f"{ours} and {theirs} look unrelated: what differs is {measured}, so they have no ancestor in "
                "common, and a mean of the two means nothing"
            )
    return notes


def kinship(parents: Parents, model: str, other: str, names: list[str]) -> Kinship:
    """How near ``model`` is to ``other`` in a sample of the matrices ``names``, as the frame calls them."""
    inner = ours = theirs = 0.0
    for name in names:
        owns = {each: parents.own_name(each, name) for each in (model, other)}
        mine, its = (_corner(parents.tensor(n, own)) for n, own in owns.items() if own is not None)
        inner += float((mine * its).sum())
        ours += float((mine * mine).sum())
        theirs += float((its * its).sum())
    if not ours or not theirs:  # zeros are near anything
        return Kinship(1.0, 0.0)
    apart = max(0.0, ours + theirs - 2 * inner)
    return Kinship(inner / math.sqrt(ours * theirs), math.sqrt(apart / ours))


def _sample(parents: Parents) -> list[str]:
    """A few matrices inside the blocks, over the depth; such as no adapter touches, if there are any."""
    frame = parents.frame
    inside = [n for n in frame.names if len(frame.entry(n).shape) > 1 and not frame.by_token(n)]
    owns = {n: [(m, parents.own_name(m, n)) for m in parents.models] for n in inside}
    inside = [n for n in inside if all(own for _, own in owns[n])]
    mapped = [n for n in inside if all(own and parents.mapped(m, own) for m, own in owns[n])]
    found = mapped or inside
    step = max(1, -(-len(found) // MATRICES))
    return found[::step]


def _corner(tensor: torch.Tensor) -> torch.Tensor:
    """Some rows of a matrix, spread over it, and the beginning of each, float64."""
    flat = tensor.reshape(-1, tensor.shape[-1])
    step = max(1, -(-len(flat) // ROWS))
    return flat[::step, :COLUMNS].double()
