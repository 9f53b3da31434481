"""What the module of an engine makes of whole rows of tokens, for scorers that ask it for more than likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.engines import Engine
from evomerge.errors import InputError

if TYPE_CHECKING:
    import torch

Tokens = tuple[int, ...]
Read = Callable[["torch.Tensor"], "torch.Tensor"]  # [rows, tokens] -> [rows, ...]

BATCH = 4096  # tokens of a forward pass


def module_of(name: str, engine: Engine) -> Any:
    """The torch module that ``engine`` runs, for the scorer ``name``.

    Raises:
        InputError: it has none.
    """
    module = engine.module()
    if module is None:
        raise InputError(
            f"{name}: asks a torch module, which engine {type(engine).__name__} does not have; leave it out, or "
            "choose another engine"
        )
    return module


def read_rows(
    rows: Sequence[Tokens], read: Read, device: str, *, single: bool = False
) -> Mapping[Tokens, torch.Tensor]:
    """What ``read`` makes of each of the distinct ``rows``, float32 on the CPU.

    Rows of one length go together: none is filled up, so each is read as it is read alone.

    Args:
        rows: of one token at least each.
        read: a pass of the model, without gradients.
        device: where the model lies.
        single: one row a pass, for models that take no more.
    """
    import torch

    by_length: dict[int, list[Tokens]] = {}
    for row in sorted(set(rows), key=lambda row: (len(row), row)):
        by_length.setdefault(len(row), []).append(row)
    found: dict[Tokens, torch.Tensor] = {}
    for length, members in by_length.items():
        size = 1 if single else max(1, BATCH // length)
        for start in range(0, len(members), size):
            batch = members[start : start + size]
            with torch.no_grad():
                made = read(torch.tensor(batch, dtype=torch.long, device=device))
            found.update(zip(batch, made.float().cpu(), strict=True))
    return found
