"""Derivatives are made once for all who ask, as far as there is room, and are the same either way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from evomerge.merging.remembered import Tangents, remembered

SIZES = {"large": 100, "small": 4}  # entries of two derivatives each, 4 bytes an entry


def counted(asked: Counter[str]) -> Tangents:
    def tangents(name: str) -> Iterator[tuple[str, Tensor]]:
        asked[name] += 1
        for model in ("a", "b"):
            yield model, torch.full((SIZES[name],), float(ord(model)))

    return tangents


def test_what_fits_is_made_once() -> None:
    asked = Counter[str]()
    of = remembered(counted(asked), room=2 * 4 * (100 + 4))
    first = {name: [(m, t.clone()) for m, t in of(name)] for name in SIZES}
    for name, before in first.items():
        again = list(of(name))
        assert [m for m, _ in again] == [m for m, _ in before]
        assert all(torch.equal(t, u) for (_, t), (_, u) in zip(again, before, strict=True))
    assert asked == {"large": 1, "small": 1}


def test_what_does_not_fit_is_made_again_and_takes_no_room_from_what_does() -> None:
    asked = Counter[str]()
    of = remembered(counted(asked), room=2 * 4 * 100 - 1)
    for _ in range(3):
        for name, size in SIZES.items():
            assert [len(tangent) for _, tangent in of(name)] == [size, size]
    assert asked == {"large": 3, "small": 1}


def test_who_stops_halfway_leaves_nothing_half_known() -> None:
    asked = Counter[str]()
    of = remembered(counted(asked))
    next(of("small"))
    assert len(list(of("small"))) == 2
    assert asked["small"] == 2
