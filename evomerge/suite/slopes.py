"""What a suite says of slopes: by which loss they are taken, and how."""

from __future__ import annotations

from dataclasses import dataclass

from evomerge import config
from evomerge.registry import LOSSES, unknown

DEFAULT = "lead"
TAU = 1.0  # nats
# names of losses that grow without bound as an answer gets worse
UNBOUNDED = ("cross_entropy", "ce", "nll", "log_likelihood", "logistic", "perplexity")


@dataclass(frozen=True)
class SlopeOptions:
    """How slopes are taken.

    Attributes:
        loss: a name; see ``evomerge.slopes.losses``.
        tau: nats; the width of what a step can turn, where the loss has one.
        checkpoint: whether activations are computed again instead of kept, layer by layer.
    """

    loss: str = DEFAULT
    tau: float = TAU
    checkpoint: bool = False


def parse_slopes(section: config.Section) -> SlopeOptions:
    """``slopes: {loss: NAME, tau: NATS, checkpoint: BOOLEAN}``; problems are noted in the section."""
    part = section.section("slopes")
    if part is None:
        return SlopeOptions()
    loss = part.text("loss", DEFAULT)
    if loss.lower().replace("-", "_").replace(" ", "_") in UNBOUNDED:
        part.problem(
            "loss",
            f"{loss!r} is not descended on: it has no bound, so it spends everything on hopeless items, and "
            f"merges end below the best known recipe. {DEFAULT!r} is bounded and made of the same right answers",
        )
    elif loss not in LOSSES.names():
        part.problem("loss", unknown(LOSSES.kind, loss, LOSSES.names()))
    tau = part.number("tau", TAU, low=0.01)
    checkpoint = part.flag("checkpoint", False)
    part.finish()
    return SlopeOptions(loss, TAU if tau is None else tau, checkpoint)
