"""What entry functions are written out as, and which cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch

from evomerge.methods.kernel import compiled, draws, tiled
from evomerge.methods.kernel.entrywise import Number, Numbers, Pass, where
from evomerge.methods.kernel.translation import Translation, Untranslatable

TENTH = 0.1
COEFFICIENTS = (0.1, 0.7)
KNOWN = {"a": 1}


class Pair(NamedTuple):
    low: Number
    high: Number


def bend(x: Number) -> Number:
    """Neither of these is a float32: 0.1, 0.7."""
    return x * 0.7 + TENTH


def polynomial(deltas: Numbers, models: Sequence[Pair], scale: Number) -> Number:
    c = COEFFICIENTS
    total = -TENTH * 2.0
    for d, m in zip(deltas, models):  # noqa: B905
        kept = where(abs(d) > m.low, d, -math.inf)
        total = total + where(kept > m.high, c[0] * bend(d) + c[1], TENTH**2 / 3.0)
    return total * scale


def test_constants_are_float32_in_both_passes() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(200, 200, generator=generator) for _ in range(3)]
    pairs = tuple(Pair(0.1 * n, 0.3 * n) for n in range(3))
    work = Pass(polynomial, (pairs, 0.9), tensors, None)
    one, other = torch.empty(200, 200), torch.empty(200, 200)
    assert compiled.merge(work, one) and tiled.merge(work, other)
    assert torch.equal(one, other)


def test_the_text_is_all_that_the_compiler_needs() -> None:
    translation = Translation()
    name = translation.name(polynomial)
    text = translation.text()
    assert text.index("def bend__") < text.index(f"def {name}")
    assert (
        "np.float32(0.7)" in text
        and "np.float32(-0.2)" in text
        and "np.float32(-np.inf)" in text
        and "TENTH" not in text
    )
    assert translation.name(polynomial) == name and translation.text() == text


def test_whole_numbers_of_modules_stay_whole() -> None:
    def first(deltas: Numbers) -> Number:
        return deltas[draws.WORD]

    assert "deltas[4294967295]" in _text(first)


def of_the_world(deltas: Numbers) -> Number:
    return deltas[0] * KNOWN["a"]


def _closure() -> Callable[..., Any]:
    factor = 2.0

    def scaled(deltas: Numbers) -> Number:
        return deltas[0] * factor

    return scaled


@pytest.mark.parametrize(
    ("entry", "message"),
    [(of_the_world, "names 'KNOWN'"), (_closure(), "takes factor from the function around it")],
)
def test_what_the_compiler_cannot_know_is_named(entry: Callable[..., Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _text(entry)


def test_a_function_without_lines_runs_as_torch_operations() -> None:
    space: dict[str, Any] = {}
    exec("def entry(deltas):\n    return deltas[0] * 0.1", space)
    with pytest.raises(Untranslatable):
        _text(space["entry"])
    tensors = [torch.randn(200, 200)]
    out = torch.empty(200, 200)
    assert compiled.merge(Pass(space["entry"], (), tensors, None), out)
    assert torch.equal(out, tensors[0] * 0.1)


def test_lines_that_were_changed_are_not_taken_for_the_function(tmp_path: Any) -> None:
    path, space = tmp_path / "entries.py", {"__name__": "entries"}
    path.write_text("def entry(deltas):\n    return deltas[0] * 2.0\n")
    exec(compile(path.read_text(), str(path), "exec"), space)
    path.write_text("def entry(deltas):\n    return deltas[0] + deltas[1]\n")
    with pytest.raises(Untranslatable):
        _text(space["entry"])


def test_threads_may_translate_at_a_time() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(_text, [polynomial] * 200))) == 1


def _text(entry: Any) -> str:
    translation = Translation()
    translation.name(entry)
    return translation.text()
