"""VaRM: weigh the deltas of each tensor by how much they changed it."""

from __future__ import annotations

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.norms import gram
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import fractions, weighted


@merge_method(base="required", paper="https://arxiv.org/abs/2402.16107")
def varm(operands: Operands) -> Entrywise:
    """Average the deltas, each weighted by its mean square in the tensor.

        weight_i = mean(delta_i^2) / sum_j mean(delta_j^2)              per tensor
        merged   = base + sum_i weight_i delta_i

    It has no parameters. SCE that selects everything and elects no sign is the same.

    Args:
        operands: the sources and the base.

    Returns:
        The merge, entry by entry.

    Paper: Wan et al. 2024, FuseChat: Knowledge Fusion of Chat Models (first version), which takes
    one of the chat models for the base.

    Deviations: none; no code of it was published. Where nothing changed, nothing does.
    """
    squares = gram(operands).diagonal()
    total = float(squares.sum())
    return entrywise(weighted, fractions(squares / total if total else squares), 1.0)
