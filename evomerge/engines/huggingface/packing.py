"""Weight matrices as a CPU reads them best: packed once a candidate, not at every product.

A product of few rows by a large matrix is as fast as the matrix is read. Measured with torch 2.13 on one
core that copies 9.6 GB/s: torch's own products read weights at 6 GB/s (float32) and 5.5 (bfloat16), oneDNN's
of packed weights at 10.7 and 9.6; products of 1,000 rows take a tenth less, too. Packing takes as long as
four decoding steps. In bfloat16 the results are the same bits, in float32 they are rounded otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class PackedWeights:
    """A second copy of a model's weight matrices, made when one is first needed.

    Args:
        model: its linear layers multiply by the copies inside ``used``.
        memory: bytes that the copies may take; None sets no limit. A model for which that is too
            little, that lies elsewhere than on a CPU or on several devices, or in a dtype that oneDNN does
            not multiply there, is left as it is.
    """

    def __init__(self, model: torch.nn.Module, memory: int | None = None) -> None:
        # one with a forward of its own is spread over devices
        layers = [
            layer
            for layer in model.modules()
            if type(layer) is torch.nn.Linear and "forward" not in vars(layer)
        ]
        size = sum(layer.weight.nbytes for layer in layers)
        if (memory is not None and size > memory) or not all(map(_packable, layers)):
            layers = []
        self._layers = layers
        self._forwards = [_Packed(layer) for layer in layers]

    def forget(self) -> None:
        """Pack again: the weights have changed."""
        for forward in self._forwards:
            forward.forget()

    @contextmanager
    def used(self) -> Iterator[None]:
        """The model multiplies by packed weights; there are no gradients."""
        for layer, forward in zip(self._layers, self._forwards, strict=True):
            layer.__dict__["forward"] = forward
        try:
            yield
        finally:
            for layer in self._layers:
                del layer.__dict__["forward"]


class _Packed:
    """``layer.forward``, by a packed weight that is made anew when the weight is another."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        self._layer = layer
        self._weight: Tensor | None = None
        self._of: tuple[int, int] | None = None

    def forget(self) -> None:
        self._weight = None  # before there is another: never both in memory

    def __call__(self, inputs: Tensor) -> Tensor:
        weight = self._layer.weight
        # ``load`` tells of candidates; these tell of whoever else writes into the module.
        of = weight._version, weight.data_ptr()
        if self._weight is None or of != self._of:
            self._weight = None
            self._weight, self._of = _pack(weight), of
        return _multiply(inputs, self._weight, self._layer.bias)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return packed


def _multiply(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return product


def _packable(layer: torch.nn.Linear) -> bool:
    """Whether this machine multiplies by the packed weight as torch does: asked of a corner of it."""
    weight = layer.weight.detach()
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    corner = weight[:32, :32].contiguous()
    inputs = torch.eye(corner.shape[1], dtype=corner.dtype)
    try:
        found = _multiply(inputs, _pack(corner), None)
    except (AttributeError, RuntimeError):  # an operation of another torch, or of another CPU
        return False
    return torch.allclose(found, corner.t(), rtol=1e-2, equal_nan=True)
