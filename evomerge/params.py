"""Declarations of merge-method parameters.

A parameter is declared once, in the signature of its kernel; search dimensions, validation, help
and property tests derive from it.

* A *domain* (``Real``, ``Integer``, ``Flag``, ``Choice``) says which values exist. ``low..high`` is
  the range a search explores, unless its space says another; ``valid`` bounds what is
  mathematically allowed, in a space as in a hand-written recipe.
* A *scope* (``Shared``, ``PerModel``) says whether one value serves all models.

A domain maps a gene in [0, 1] to a value (``decode``) and back (``encode``). Decoded numbers are
rounded to ``DIGITS`` decimals (log scale: significant digits), so a recipe prints what it is and
``decode(encode(v)) == v`` exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

DIGITS = 4
Value = float | int | bool | str | None
Kind = Literal["real", "integer", "categorical"]


@dataclass(frozen=True)
class Real:
    """A real number searched in ``[low, high]``, on a linear or log scale."""

    low: float
    high: float
    default: float | None
    scale: Literal["linear", "log"] = "linear"
    valid: tuple[float, float] = (-math.inf, math.inf)
    optional: bool = False  # None is a value of its own ("not given")

    kind: ClassVar[Kind] = "real"

    def __post_init__(self) -> None:
        if not (self.valid[0] <= self.low <= self.high <= self.valid[1]):
            raise ValueError(f"range [{self.low}, {self.high}] outside valid {self.valid}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError("a log-scaled range starts above 0")

    def problem(self, value: object) -> str | None:
        """What is wrong with ``value``, or None."""
        if value is None and self.optional:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            return f"expected a number, found {value!r}"
        low, high = self.valid
        if not low <= value <= high:
            return f"expected a number in [{low:g}, {high:g}], found {value!r}"
        return None

    def decode(self, gene: float) -> float:
        """Value at ``gene`` of [0, 1]."""
        if self.scale == "log":
            value = math.exp(math.log(self.low) + gene * (math.log(self.high) - math.log(self.low)))
            digits = DIGITS - 1 - math.floor(math.log10(value))
        else:
            value, digits = self.low + gene * (self.high - self.low), DIGITS
        return min(max(round(value, digits), self.low), self.high)

    def encode(self, value: Any) -> float:
        """Gene of ``value``, clipped to the searched range."""
        value = min(max(float(value), self.low), self.high)
        if self.high == self.low:
            return 0.5
        if self.scale == "log":
            return (math.log(value) - math.log(self.low)) / (
                math.log(self.high) - math.log(self.low)
            )
        return float((value - self.low) / (self.high - self.low))

    def rate(self, gene: float) -> float:
        """The derivative of the value by the gene."""
        if self.scale == "log":
            return self.decode(gene) * (math.log(self.high) - math.log(self.low))
        return self.high - self.low

    def over(self, low: float, high: float) -> Real:
        """The same parameter searched in another range, within ``valid``."""
        default = self.default if self.default is None else min(max(self.default, low), high)
        return replace(self, low=low, high=high, default=default)

    def __str__(self) -> str:
        log = ", log scale" if self.scale == "log" else ""
        return f"number in [{self.low:g}, {self.high:g}]{log}"


@dataclass(frozen=True)
class Integer:
    """A whole number in ``low..high``, both included."""

    low: int
    high: int
    default: int

    kind: ClassVar[Kind] = "integer"

    def problem(self, value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return f"expected a whole number, found {value!r}"
        if not self.low <= value <= self.high:
            return f"expected a whole number in {self.low}..{self.high}, found {value!r}"
        return None

    def decode(self, gene: float) -> int:
        return self.low + min(int(gene * self.size), self.size - 1)

    def encode(self, value: Any) -> float:
        """Centre of the value's cell of [0, 1]."""
        return (min(max(int(value), self.low), self.high) - self.low + 0.5) / self.size

    @property
    def valid(self) -> tuple[int, int]:
        """The values that have a meaning."""
        return self.low, self.high

    def over(self, low: float, high: float) -> Integer:
        """The same parameter searched in another range, within ``valid``."""
        low, high = math.ceil(low), math.floor(high)
        return replace(self, low=low, high=high, default=min(max(self.default, low), high))

    @property
    def size(self) -> int:
        return self.high - self.low + 1

    def __str__(self) -> str:
        return f"whole number in {self.low}..{self.high}"


@dataclass(frozen=True)
class Choice:
    """One of a few named options."""

    options: tuple[Value, ...]
    default: Value

    kind: ClassVar[Kind] = "categorical"

    def problem(self, value: object) -> str | None:
        # 1 == True in Python: compare types too, so that "normalize: 1" is refused
        if any(value == option and type(value) is type(option) for option in self.options):
            return None
        return (
            f"expected {' or '.join(show(option) for option in self.options)}, found {show(value)}"
        )

    def decode(self, gene: float) -> Value:
        return self.options[min(int(gene * self.size), self.size - 1)]

    def encode(self, value: Any) -> float:
        """Centre of the option's cell of [0, 1]."""
        return (self.options.index(value) + 0.5) / self.size

    @property
    def size(self) -> int:
        return len(self.options)

    def __str__(self) -> str:
        return " | ".join(show(option) for option in self.options)


def Flag(default: bool) -> Choice:
    """True or false."""
    return Choice((False, True), default)


Domain = Real | Integer | Choice


@dataclass(frozen=True)
class Shared:
    """One value for all models. ``searched``: a dimension by default, without being named."""

    domain: Domain
    searched: bool = True


@dataclass(frozen=True)
class PerModel:
    """One value per source model. ``searched``: a dimension by default, without being named."""

    domain: Domain
    searched: bool = True


Scope = Shared | PerModel


@dataclass(frozen=True)
class Parameter:
    """A declared parameter of a method: its public name, scope and one line of documentation."""

    name: str
    scope: Scope
    doc: str

    @property
    def domain(self) -> Domain:
        return self.scope.domain

    @property
    def per_model(self) -> bool:
        return isinstance(self.scope, PerModel)

    @property
    def default(self) -> Value:
        return self.domain.default

    @property
    def searched(self) -> bool:
        return self.scope.searched and self.default is not None


@dataclass(frozen=True)
class Dim:
    """One axis of the search space, as an optimizer sees it: always a number in [0, 1].

    ``size`` is the number of values of an integer or categorical axis, each a cell of width
    ``1 / size`` whose centre is canonical; 0 for a real axis.
    """

    name: str
    kind: Kind
    size: int = 0


Genome = tuple[float, ...]


@dataclass(frozen=True)
class Level:
    """A level of detail of a space: axes of one class move together.

    Attributes:
        name: what has values of its own.
        classes: the number of the class of each axis.
    """

    name: str
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Mixture:
    """Axes that weigh sources, each by itself, in one place of a space.

    Attributes:
        axes: one a source.
        sources: which.
        ranges: low and high of each weight, linear in its gene.
    """

    axes: tuple[int, ...]
    sources: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]

    def weights(self, genome: Sequence[float]) -> list[float]:
        """Of the sources, as ``genome`` says."""
        pairs = zip(self.axes, self.ranges, strict=True)
        return [low + genome[axis] * (high - low) for axis, (low, high) in pairs]

    def genes(self, weights: Sequence[float]) -> list[float]:
        """For the axes, those of ``weights``, cut off at the ranges."""
        pairs = zip(weights, self.ranges, strict=True)
        return [min(max((w - low) / (high - low), 0.0), 1.0) for w, (low, high) in pairs]


ALL = ""  # stands for the model of a parameter that all share
# tensor -> parameter (or ``lines``: the factor of the merged delta) -> model, or ``ALL`` -> derivative
Derivatives = Mapping[str, Mapping[str, Mapping[str, float]]]


def show(value: object) -> str:
    """A value as YAML spells it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
