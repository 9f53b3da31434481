"""The order in which a sequential kernel takes the models, as one number per model.

A permutation of any number of models then is as many genes of the plain kind (random keys), and a
recipe may simply write places: ``order: {chat: 1, code: 2}``.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from evomerge.params import PerModel, Real

ORDER = PerModel(Real(0, 1, default=0.5))
EXEMPT = {"order": "models are taken one after another; equal places fall back on their order"}


def sequence(order: Float[Tensor, " models"]) -> tuple[int, ...]:
    """The models by ascending place, equals as they come."""
    return tuple(order.argsort(stable=True).tolist())
