"""Entries in competition, for PCB: what each delta scores where, and the average by scores.

Entry functions: ``exp`` and ``tanh`` are written out, so they are the same on every device.
"""

from __future__ import annotations

from typing import Any

from evomerge.methods._entrywise import where

# Minimax polynomial of exp(s - 1) on [0, 1], within 3e-8 of it
EXP = [0.00083585, 0.00259895, 0.01564439, 0.0612063, 0.18395656, 0.36787847, 0.36787945]
# tanh(x) / x as a rational function of x^2 for |x| <= 9, within 4e-7 of it
FAR = 9.0
TANH = [1.04240979e-05, 2.85510515e-03, 1.28353376e-01, 9.99999618e-01]
TANH_BELOW = [2.14566698e-07, 2.25288301e-04, 2.34200208e-02, 4.61683842e-01, 1.0]

CONSTANTS = (0.0, 1.0, FAR, EXP, TANH, TANH_BELOW)  # last arguments of the functions below


def balanced(
    deltas: Any, low: Any, high: Any, inverse: Any, quantile: Any, spread: Any, weight: Any,
    scale: Any, zero: Any, one: Any, far: Any, exp: Any, above: Any, below: Any,
) -> Any:  # fmt: skip
    total = zero
    for d in deltas:
        total = total + d
    return _balance(
        deltas, total, low, high, inverse, quantile, spread, weight,
        scale, zero, one, far, exp, above, below,
    )  # fmt: skip


def balanced_normalized(
    deltas: Any, low: Any, high: Any, inverse: Any, quantile: Any, spread: Any, weight: Any,
    scale: Any, zero: Any, one: Any, far: Any, exp: Any, above: Any, below: Any,
) -> Any:  # fmt: skip
    total = zero
    for d, lo, hi, inv in zip(deltas, low, high, inverse):
        total = total + _signed(d, (_clamped(d, lo, hi) - lo) * inv, zero)
    return _balance(
        deltas, total, low, high, inverse, quantile, spread, weight,
        scale, zero, one, far, exp, above, below,
    )  # fmt: skip


def _balance(
    deltas: Any, rivals: Any, low: Any, high: Any, inverse: Any, quantile: Any, spread: Any,
    weight: Any, scale: Any, zero: Any, one: Any, far: Any, exp: Any, above: Any, below: Any,
) -> Any:  # fmt: skip
    total = zero
    scores = zero
    for d, lo, hi, inv, q, s, w in zip(deltas, low, high, inverse, quantile, spread, weight):
        size = _clamped(d, lo, hi)
        z = _contest(d, (size - lo) * inv, deltas, rivals, one, far, exp, above, below)
        score = where(z > q, z - q, zero) * s
        total = total + score * (_signed(d, size, zero) * w)
        scores = scores + score
    return total / where(scores == zero, one, scores) * scale


def contest(
    deltas: Any, chosen: Any, own: Any, low: Any, high: Any, inverse: Any, zero: Any, one: Any,
    far: Any, exp: Any, above: Any, below: Any,
) -> Any:  # fmt: skip
    total = zero
    mine = zero
    for d, c in zip(deltas, chosen):
        total = total + d
        mine = mine + d * c
    mm = (_clamped(mine, own[0], own[1]) - own[0]) * own[2]
    return _contest(mine, mm, deltas, total, one, far, exp, above, below)


def contest_normalized(
    deltas: Any, chosen: Any, own: Any, low: Any, high: Any, inverse: Any, zero: Any, one: Any,
    far: Any, exp: Any, above: Any, below: Any,
) -> Any:  # fmt: skip
    total = zero
    mine = zero
    for d, lo, hi, inv, c in zip(deltas, low, high, inverse, chosen):
        total = total + _signed(d, (_clamped(d, lo, hi) - lo) * inv, zero)
        mine = mine + d * c
    mm = (_clamped(mine, own[0], own[1]) - own[0]) * own[2]
    return _contest(mine, mm, deltas, total, one, far, exp, above, below)


def _contest(
    d: Any, mm: Any, deltas: Any, rivals: Any, one: Any, far: Any, exp: Any, above: Any, below: Any
) -> Any:
    """``exp(N (mm^2 - 1)) tanh(d rivals)``."""
    root = _exp(exp, mm * mm)
    power = one
    for _ in deltas:
        power = power * root
    x = d * rivals
    x = where(x > far, far, where(x < -far, -far, x))
    return power * _tanh(above, below, x)


def _exp(c: Any, x: Any) -> Any:
    low = ((c[0] * x + c[1]) * x + c[2]) * x + c[3]
    return ((low * x + c[4]) * x + c[5]) * x + c[6]


def _tanh(a: Any, b: Any, x: Any) -> Any:
    square = x * x
    above = ((a[0] * square + a[1]) * square + a[2]) * square + a[3]
    below = (((b[0] * square + b[1]) * square + b[2]) * square + b[3]) * square + b[4]
    return x * above / below


def _clamped(d: Any, low: Any, high: Any) -> Any:
    size = abs(d)
    return where(size > high, high, where(size < low, low, size))


def _signed(d: Any, size: Any, zero: Any) -> Any:
    return where(d > zero, size, where(d < zero, -size, zero))
