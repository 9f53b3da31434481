"""Entries in competition, for PCB: what each delta scores where, and the average by scores.

``exp`` and ``tanh`` are written out, so they are the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evomerge.methods.kernel.entrywise import Number, Numbers, where

# Minimax polynomial of exp(s - 1) on [0, 1], within 3e-8 of it
EXP = (0.00083585, 0.00259895, 0.01564439, 0.0612063, 0.18395656, 0.36787847, 0.36787945)
# tanh(x) / x as a rational function of x^2 for |x| <= 9, within 4e-7 of it
FAR = 9.0
TANH = (1.04240979e-05, 2.85510515e-03, 1.28353376e-01, 9.99999618e-01)
TANH_BELOW = (2.14566698e-07, 2.25288301e-04, 2.34200208e-02, 4.61683842e-01, 1.0)


class Competitor(NamedTuple):
    """One model.

    Attributes:
        low, high: what its magnitudes are clamped to.
        inverse: what scales that range to 1.
        quantile: of its ``z``, below which it scores nothing.
        spread: what scales the range of the scores to 1.
        weight: coefficient of its delta.
        chosen: 1 for the model whose ``z`` is asked for, else 0.
    """

    low: Number
    high: Number
    inverse: Number
    quantile: Number = 0.0
    spread: Number = 0.0
    weight: Number = 0.0
    chosen: Number = 0.0


def balanced(deltas: Numbers, models: Sequence[Competitor], scale: Number) -> Number:
    return _balance(deltas, _sum(deltas), models) * scale


def balanced_normalized(deltas: Numbers, models: Sequence[Competitor], scale: Number) -> Number:
    return _balance(deltas, _normalized_sum(deltas, models), models) * scale


def contest(deltas: Numbers, models: Sequence[Competitor], own: Competitor) -> Number:
    mine = _chosen(deltas, models)
    return _contest(mine, _scaled(mine, own), deltas, _sum(deltas))


def contest_normalized(deltas: Numbers, models: Sequence[Competitor], own: Competitor) -> Number:
    mine = _chosen(deltas, models)
    return _contest(mine, _scaled(mine, own), deltas, _normalized_sum(deltas, models))


def _balance(deltas: Numbers, rivals: Number, models: Sequence[Competitor]) -> Number:
    total = 0.0
    scores = 0.0
    for d, m in zip(deltas, models):
        z = _contest(d, _scaled(d, m), deltas, rivals)
        score = where(z > m.quantile, z - m.quantile, 0.0) * m.spread
        total = total + score * (_signed(d, _clamped(d, m)) * m.weight)
        scores = scores + score
    return total / where(scores == 0.0, 1.0, scores)


def _sum(deltas: Numbers) -> Number:
    total = 0.0
    for d in deltas:
        total = total + d
    return total


def _normalized_sum(deltas: Numbers, models: Sequence[Competitor]) -> Number:
    total = 0.0
    for d, m in zip(deltas, models):
        total = total + _signed(d, _scaled(d, m))
    return total


def _chosen(deltas: Numbers, models: Sequence[Competitor]) -> Number:
    """The delta of the one chosen model."""
    total = 0.0
    for d, m in zip(deltas, models):
        total = total + d * m.chosen
    return total


def _contest(d: Number, mm: Number, deltas: Numbers, rivals: Number) -> Number:
    """``exp(N (mm^2 - 1)) tanh(d rivals)``."""
    root = _exp(mm * mm)
    power = 1.0
    for _ in deltas:
        power = power * root
    x = d * rivals
    x = where(x > FAR, FAR, where(x < -FAR, -FAR, x))
    return power * _tanh(x)


def _exp(x: Number) -> Number:
    low = ((EXP[0] * x + EXP[1]) * x + EXP[2]) * x + EXP[3]
    return ((low * x + EXP[4]) * x + EXP[5]) * x + EXP[6]


def _tanh(x: Number) -> Number:
    a, b = TANH, TANH_BELOW
    square = x * x
    above = ((a[0] * square + a[1]) * square + a[2]) * square + a[3]
    below = (((b[0] * square + b[1]) * square + b[2]) * square + b[3]) * square + b[4]
    return x * above / below


def _scaled(d: Number, model: Competitor) -> Number:
    """The magnitude, clamped and scaled to [0, 1]."""
    return (_clamped(d, model) - model.low) * model.inverse


def _clamped(d: Number, model: Competitor) -> Number:
    size = abs(d)
    return where(size > model.high, model.high, where(size < model.low, model.low, size))


def _signed(d: Number, size: Number) -> Number:
    return where(d > 0.0, size, where(d < 0.0, -size, 0.0))
