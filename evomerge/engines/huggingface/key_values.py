"""The attention keys and values of a batch: made once, repeated, picked from, and grown in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

_ROOM = 64  # columns allocated ahead while decoding


class KeyValues(DynamicCache):  # type: ignore[misc]
    """Per layer, keys and values of shape (rows, heads, columns, size), where the layer lies.

    A decoding step writes one column where the cache of transformers would copy all. It knows no
    masks and no windows: forward passes with it must say who sees whom, and every position.
    """

    def __init__(
        self, keys: Sequence[Tensor] = (), values: Sequence[Tensor] = (), filled: int = 0
    ) -> None:
        super().__init__()
        self._keys, self._values = list(keys), list(values)
        self._filled = [filled] * len(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append columns to a layer and return all of it: what models call."""
        if layer_idx == len(self._keys):
            self._keys.append(key_states)
            self._values.append(value_states)
            self._filled.append(key_states.shape[2])
            return key_states, value_states
        old = self._filled[layer_idx]
        new = self._filled[layer_idx] = old + key_states.shape[2]
        for layers, states in ((self._keys, key_states), (self._values, value_states)):
            if new > layers[layer_idx].shape[2]:
                room = 0 if key_states.shape[2] > 1 else _ROOM
                layers[layer_idx] = _grown(layers[layer_idx][:, :, :old], new + room)
            layers[layer_idx][:, :, old:new] = states
        return self._keys[layer_idx][:, :, :new], self._values[layer_idx][:, :, :new]

    def get_seq_length(self, layer_idx: int = 0, *_: Any, **__: Any) -> int:
        return self._filled[layer_idx] if self._filled else 0

    def repeated(self, rows: int) -> KeyValues:
        """The one row of this cache, ``rows`` times; memory is taken when they grow apart."""
        keys, values = (
            [layer.expand(rows, -1, -1, -1) for layer in layers]
            for layers in (self._keys, self._values)
        )
        return KeyValues(keys, values, self.get_seq_length())

    def picked(self, rows: Tensor, columns: Tensor) -> KeyValues:
        """For each n, the columns ``columns[n]`` of row ``rows[n]``.

        Args:
            rows: shape (n,).
            columns: shape (n, width).
        """
        keys, values = (
            [_picked(layer, rows.to(layer.device), columns.to(layer.device)) for layer in layers]
            for layers in (self._keys, self._values)
        )
        return KeyValues(keys, values, columns.shape[1])

    def kept(self, rows: Tensor, first: int) -> KeyValues:
        """The rows ``rows`` alone, without the columns before ``first``."""
        filled = self.get_seq_length()
        keys, values = (
            [layer[rows.to(layer.device), :, first:filled] for layer in layers]
            for layers in (self._keys, self._values)
        )
        return KeyValues(keys, values, filled - first)


def stacked(parts: Sequence[KeyValues], room: int) -> KeyValues:
    """The rows of several caches of equal width, one below the other, that will grow by ``room``.

    Some columns are allocated here, so that the first step of decoding copies nothing; not all, since
    most answers end early.
    """
    filled = parts[0].get_seq_length()
    keys, values = (
        [_below(layers, filled, min(room, _ROOM)) for layers in zip(*all_layers, strict=True)]
        for all_layers in ([p._keys for p in parts], [p._values for p in parts])
    )
    return KeyValues(keys, values, filled)


def _below(layers: Sequence[Tensor], filled: int, room: int) -> Tensor:
    heads, size = layers[0].shape[1], layers[0].shape[3]
    together = layers[0].new_empty((sum(map(len, layers)), heads, filled + room, size))
    torch.cat([layer[:, :, :filled] for layer in layers], out=together[:, :, :filled])
    return together


def _picked(layer: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return layer[rows[:, None], :, columns].transpose(1, 2)


def _grown(layer: Tensor, columns: int) -> Tensor:
    rows, heads, old, size = layer.shape
    larger = layer.new_empty((rows, heads, columns, size))
    larger[:, :, :old] = layer
    return larger
