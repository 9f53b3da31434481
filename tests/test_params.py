from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.params import Choice, Flag, Integer, Real, Value

genes = st.floats(0, 1)
edges = st.decimals(-4, 4, places=2).map(float)


@st.composite
def reals(draw: st.DrawFn) -> Real:
    if draw(st.booleans()):
        low, high = sorted(draw(st.tuples(edges, edges)))
        return Real(low, high, default=low)
    low, high = sorted(10**exponent for exponent in draw(st.tuples(edges, edges)))
    return Real(low, high, default=low, scale="log")


@st.composite
def integers(draw: st.DrawFn) -> Integer:
    low = draw(st.integers(-5, 5))
    return Integer(low, low + draw(st.integers(0, 8)), default=low)


scalars = st.sampled_from([None, False, True, 0, 2, 0.5, "density", "no"])
choices = st.lists(scalars, min_size=1, max_size=4, unique=True).map(
    lambda options: Choice(tuple(options), options[0])
)
domains = reals() | integers() | choices


@given(domain=domains, gene=genes)
def test_a_decoded_value_is_valid_and_encodes_to_a_gene_of_its_own(
    domain: Any, gene: float
) -> None:
    value = domain.decode(gene)
    assert domain.problem(value) is None
    again = domain.encode(value)
    assert 0 <= again <= 1
    assert domain.decode(again) == value
    assert domain.encode(domain.decode(again)) == again


@given(domain=reals() | integers(), pair=st.tuples(genes, genes))
def test_decoding_keeps_the_order(domain: Any, pair: tuple[float, float]) -> None:
    low, high = sorted(pair)
    assert domain.decode(low) <= domain.decode(high)


@given(domain=reals() | integers())
def test_the_ends_of_a_gene_are_the_ends_of_the_range(domain: Any) -> None:
    ends = (domain.decode(0.0), domain.decode(1.0))
    assert ends == pytest.approx((domain.low, domain.high), rel=1e-3)  # a log scale rounds


@given(domain=integers() | choices)
def test_every_option_has_an_equal_share_of_the_gene(domain: Any) -> None:
    cells = [domain.decode((i + 0.5) / domain.size) for i in range(domain.size)]
    assert len(cells) == len({repr(cell) for cell in cells}) == domain.size


@given(domain=reals(), pair=st.tuples(genes, genes), gene=genes)
def test_a_narrowed_range_is_kept(domain: Real, pair: tuple[float, float], gene: float) -> None:
    low, high = sorted(map(domain.decode, pair))
    narrow = domain.over(low, high)
    assert low <= narrow.decode(gene) <= high
    assert narrow.default is not None and low <= narrow.default <= high
    assert narrow.decode(narrow.encode(low)) == low


def test_a_log_scale_spends_genes_evenly_on_magnitudes() -> None:
    domain = Real(1e-4, 1, default=1, scale="log")
    assert [domain.decode(i / 4) for i in range(5)] == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    assert domain.decode(0.1) == 0.0002512  # four significant digits


@pytest.mark.parametrize(
    ("domain", "value", "says"),
    [
        (Real(0, 1, 1), "1", "expected a number, found '1'"),
        (Real(0, 1, 1), True, "expected a number, found True"),
        (Real(0, 1, 1), math.nan, "expected a number, found nan"),
        (Real(0, 1, 1), None, "expected a number, found None"),
        (Real(0, 1, 1, valid=(0, 1)), 1.5, "expected a number in [0, 1], found 1.5"),
        (Integer(1, 4, 1), 2.0, "expected a whole number, found 2.0"),
        (Integer(1, 4, 1), 5, "expected a whole number in 1..4, found 5"),
        (Integer(1, 4, 1), True, "expected a whole number, found True"),
        (Flag(True), 1, "expected false or true, found 1"),
        (Choice(("a", None), "a"), "b", "expected a or null, found b"),
    ],
)
def test_a_wrong_value_is_named(domain: Any, value: Value, says: str) -> None:
    assert domain.problem(value) == says


def test_a_recipe_may_leave_the_searched_range_but_not_the_valid_one() -> None:
    domain = Real(0, 2, default=1)
    assert domain.problem(-0.5) is None and domain.problem(3) is None
    assert domain.encode(3) == 1.0
    assert Real(0.8, 1.2, default=1, optional=True).problem(None) is None


def test_impossible_declarations_are_refused() -> None:
    with pytest.raises(ValueError, match="outside valid"):
        Real(0, 2, default=1, valid=(0, 1))
    with pytest.raises(ValueError, match="above 0"):
        Real(0, 2, default=1, scale="log")
