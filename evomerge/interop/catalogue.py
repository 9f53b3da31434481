"""The merge methods of mergekit 0.1.5: inputs and parameters as it reads them, and where ours differ.

Facts only; the rest of the package translates by them. A parameter has the same name on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evomerge.errors import InputError
from evomerge.params import Value, show

VERSION = "0.1.5"
SAMPLED = 1_000_000  # entries above which mergekit's arcee_fusion estimates quantiles from a sample

Kind = Literal["number", "integer", "flag"]
Arguments = Mapping[str, Any]  # parameter -> value, or model -> value for a per-model one


@dataclass(frozen=True)
class Argument:
    """A parameter as mergekit declares it. ``default`` None and ``required`` False: may be absent."""

    kind: Kind = "number"
    default: Value = None
    per_model: bool = False
    required: bool = False


@dataclass(frozen=True)
class Peer:
    """One method of mergekit.

    Attributes:
        arguments: the parameters that change its result.
        idle: parameters that it reads and that change nothing.
        base: what it makes of a ``base_model``: ``required``; ``optional``, deltas are taken from it
            if there is one; ``source``, it is an input like the others.
        fixed: parameters of ours that it lacks, with the value at which both do the same.
        elects: elects signs, and normalises by weights as they are, our ``normalize: signed``.
        differs: why it gives other tensors for these values and this many entries in the largest
            tensor, or None.
    """

    arguments: Mapping[str, Argument]
    idle: frozenset[str] = frozenset()
    base: Literal["required", "optional", "source"] = "required"
    fixed: Mapping[str, Value] = field(default_factory=dict)
    elects: bool = False
    differs: Callable[[Arguments, int], str | None] = lambda values, entries: None

    def to_ours(self, values: Arguments) -> Arguments:
        """Parameters as evomerge says what mergekit does."""
        signed = self.elects and values["normalize"] and _cancels(values)
        return {**self.fixed, **values, **({"normalize": "signed"} if signed else {})}

    def from_ours(self, values: Arguments, entries: int) -> Arguments:
        """Parameters as mergekit says what evomerge does.

        Args:
            values: all parameters of our method.
            entries: of the largest tensor.

        Raises:
            InputError: it cannot; the message is the reason.
        """
        if reason := self.differs(values, entries):
            raise InputError(f"{reason}: it would give other tensors")
        values = dict(values)
        if self.elects and values["normalize"] == "signed":
            values["normalize"] = True
        elif self.elects and values["normalize"] and _cancels(values):
            raise InputError(
                "mergekit divides by weights as they are, and some are negative: it would give other "
                "tensors. Set normalize: signed to do so here"
            )
        for name, value in values.items():
            fixed = self.fixed.get(name)
            if name not in self.arguments and value != fixed:
                raise InputError(
                    f"mergekit has no {name}, it does what `{name}: {show(fixed)}` does, not {show(value)}; "
                    "set it so"
                )
            if isinstance(value, str) and name in self.arguments:
                raise InputError(f"mergekit has no `{name}: {value}`; set it to true or false")
        return {name: value for name, value in values.items() if name in self.arguments}


def _cancels(values: Arguments) -> bool:
    return any(weight < 0 for weight in values["weight"].values())


def _number(default: Value) -> Argument:
    return Argument("number", default)


def _flag(default: bool) -> Argument:
    return Argument("flag", default)


WEIGHT = Argument(per_model=True, required=True)
DENSITY = Argument(default=1.0, per_model=True)


def _random_density(values: Arguments, entries: int) -> str | None:
    if set(values["density"].values()) <= {0.0, 1.0}:
        return None
    return "it drops entries at random, and mergekit draws other masks than evomerge"


def _sampled(values: Arguments, entries: int) -> str | None:
    if entries <= SAMPLED:
        return None
    return (
        f"mergekit estimates the quartiles of a tensor of more than {SAMPLED} entries from a random "
        "sample, evomerge takes them exactly"
    )


def _tiny_step(values: Arguments, entries: int) -> str | None:
    return "mergekit has no t below 1e-6" if values["t"] < 1e-6 else None


def _task_vectors(
    normalize: bool,
    rescale: bool | None = None,
    own: Mapping[str, Argument] | None = None,
    **facts: Any,
) -> Peer:
    """A sum of weighted deltas; with ``rescale``, of sparse ones. All read the same parameters."""
    arguments = {"weight": WEIGHT, "lambda": _number(1.0), "normalize": _flag(normalize)}
    idle = {"int8_mask"}
    if rescale is None:
        idle |= {"density", "rescale"}
    else:
        arguments |= {"density": DENSITY, "rescale": _flag(rescale), **(own or {})}
    return Peer(arguments, frozenset(idle), **facts)


WHOLE = {"scope": "tensor"}
GAMMA = {"gamma": Argument(default=0.01, per_model=True)}
EPSILON = {"epsilon": Argument(default=0.15, per_model=True)}

PEERS: dict[str, Peer] = {
    "linear": Peer({"weight": WEIGHT, "normalize": _flag(True)}, base="source"),
    "passthrough": Peer({"scale": Argument(per_model=True)}, base="source"),
    # mergekit-evolve writes both, for nothing
    "slerp": Peer({"t": Argument(required=True)}, frozenset({"weight", "normalize"})),
    "nuslerp": Peer(
        {"weight": WEIGHT, "nuslerp_flatten": _flag(True), "nuslerp_row_wise": _flag(False)},
        base="optional",
        fixed={"tolerance": 1e-16},
    ),
    "multislerp": Peer(
        {"weight": WEIGHT, "normalize_weights": _flag(True)}, frozenset({"eps"}), base="optional"
    ),
    "karcher": Peer({"max_iter": Argument("integer", 10), "tol": _number(1e-5)}, base="source"),
    "nearswap": Peer({"t": Argument(required=True)}, differs=_tiny_step),
    "arcee_fusion": Peer({}, differs=_sampled),
    "task_arithmetic": _task_vectors(False),
    "ties": _task_vectors(True, False, fixed=WHOLE, elects=True),
    "dare_linear": _task_vectors(False, True, differs=_random_density),
    "dare_ties": _task_vectors(False, True, elects=True, differs=_random_density),
    "breadcrumbs": _task_vectors(False, False, GAMMA, fixed=WHOLE),
    "breadcrumbs_ties": _task_vectors(False, False, GAMMA, fixed=WHOLE, elects=True),
    "della": _task_vectors(
        True, True, EPSILON, fixed={"by": "row"}, elects=True, differs=_random_density
    ),
    "della_linear": _task_vectors(
        False, True, EPSILON, fixed={"by": "row"}, differs=_random_density
    ),
    "sce": Peer(
        {"select_topk": _number(1.0)},
        frozenset({"int8_mask"}),
        fixed={"fuse": "selected", "guard": "absolute"},
    ),
    "model_stock": Peer({"filter_wise": _flag(False)}, fixed={"clip": False, "guard": "absolute"}),
    "ram": Peer({"epsilon": _number(1e-5)}),
    "ramplus_tl": Peer({"r": _number(0.1), "alpha": _number(0.2), "epsilon": _number(1e-5)}),
}
