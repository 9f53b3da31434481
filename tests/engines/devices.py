"""Two devices where there is none: tensors that compute on the CPU and say that they lie elsewhere.

An operation of tensors on different ones is an error, as on two GPUs; moving one is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

KIND = "meta"  # a kind of device that may have numbers and needs no driver
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(Tensor):
    """``held``, as if it lay on another device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
            requires_grad=held.requires_grad,
        )
        made.held = held.detach()
        return made

    def __repr__(self, **_: Any) -> str:
        return f"{self.held} on {self.device}"

    def tolist(self) -> Any:
        return self.held.tolist()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), options: Any = None
    ) -> Any:
        return _run(function, args, options or {})


class _Factories(TorchDispatchMode):
    """Lets what makes tensors on such a device make them so."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), options: Any = None
    ) -> Any:
        return _run(function, args, options or {})


class _FromNumbers(TorchFunctionMode):
    """Lets ``torch.tensor``, which asks no dispatcher, make them so, too."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), options: Any = None
    ) -> Any:
        options = dict(options or {})
        if function is not torch.tensor:
            return function(*args, **options)
        device = options.pop("device", None)
        made = torch.tensor(*args, **options)
        return made if device is None else made.to(device)


@contextmanager
def two_devices() -> Iterator[tuple[str, str]]:
    """The names of two devices on which there are tensors while it is open."""
    with _FromNumbers(), _Factories():
        yield f"{KIND}:0", f"{KIND}:1"


def _run(function: Any, args: Sequence[Any], options: dict[str, Any]) -> Any:
    given = [each for each in tree_leaves((args, options)) if isinstance(each, Tensor)]
    there = [each for each in given if isinstance(each, Elsewhere)]
    # a single number on the CPU goes with any device
    apart = {str(each.device) for each in given if isinstance(each, Elsewhere) or each.ndim}
    if len(apart) > 1 and function not in MOVES:
        raise RuntimeError(f"{function}: tensors on {', '.join(sorted(apart))}")
    device = there[0].device if there else torch.device("cpu")
    if options.get("device") is not None:
        device = torch.device(options["device"])
        if _numbered(device):
            options = {**options, "device": torch.device("cpu")}
    made = function(*tree_map(_held, tuple(args)), **tree_map(_held, options))
    known = {id(each.held): each for each in there}  # of what is written in place

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or not _numbered(device):
            return value
        return known[id(value)] if id(value) in known else Elsewhere(value, device)

    return tree_map(wrapped, made)


def _numbered(device: torch.device) -> bool:
    """The kind without a number is where transformers has tensors before they have values."""
    return device.type == KIND and device.index is not None


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value
