"""Archives are folds: what they hold does not depend on the order, what adding did is said."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from evomerge.evolution.archive import Added, Elite
from evomerge.evolution.archive.best import Best, best
from evomerge.evolution.archive.front import Front, dominates, front, point_of, spread
from evomerge.suite.objectives import Objective, Score, counting

A, B = Objective("a", "", ""), Objective("b", "", "", maximize=False)
WANTED = (A, B)
numbers = st.integers(0, 5).map(float)


@st.composite
def elites(draw: st.DrawFn) -> list[Elite]:
    rows = draw(st.lists(st.tuples(numbers, numbers, st.booleans()), max_size=12))
    return [
        Elite(n, 0, Score(a - b, float(missed)), {"a": a, "b": b})
        for n, (a, b, missed) in enumerate(rows)
    ]


@given(added=elites(), order=st.randoms(use_true_random=False), count=st.integers(1, 4))
def test_the_order_of_adding_changes_nothing(
    added: list[Elite], order: random.Random, count: int
) -> None:
    mixed = order.sample(added, len(added))
    for make in (lambda: Best(count), lambda: Front(WANTED)):
        one, other = make(), make()
        for elite in added:
            one.add(elite)
        for elite in mixed:
            other.add(elite)
        assert one.elites() == other.elites()


@given(added=elites(), count=st.integers(1, 4))
def test_the_best_are_those_of_a_sorted_list(added: list[Elite], count: int) -> None:
    archive = Best(count)
    for elite in added:
        before = archive.elites()
        status = archive.add(elite)
        assert (status == Added.REJECTED) == (archive.elites() == before)
    assert list(archive.elites()) == best(added, count)
    feasible = [elite.score.feasible for elite in best(added, len(added))]
    assert feasible == sorted(feasible, reverse=True)


@given(added=elites())
def test_nobody_on_the_front_is_dominated_and_everybody_off_it_is(added: list[Elite]) -> None:
    members = front(added, WANTED)
    able = [elite for elite in added if elite.score.feasible]
    for elite in able:
        beaten = any(dominates(point_of(other, WANTED), point_of(elite, WANTED)) for other in able)
        assert (elite in members) != beaten
    few = spread(added, WANTED, 3)
    assert len(few) == len({e.candidate for e in few}) == min(3, len(members))
    assert all(elite in members for elite in few)


def test_what_counts_is_what_has_a_weight() -> None:
    """A front over everything that is measured holds nearly everybody."""
    parts = [Objective(f"part{n}", "", "", weight=0) for n in range(16)]
    whole = Objective("languages", "", "", of=("part0", "part1"), how="worst")
    other = Objective("ifeval", "", "")
    assert counting([*parts, whole, other]) == [whole, other]
    draw = random.Random(0)
    names = [o.name for o in (*parts, whole, other)]
    made = [Elite(n, 0, Score(0.0), {name: draw.random() for name in names}) for n in range(300)]
    assert len(front(made, [*parts, whole, other])) > 290
    assert len(front(made, counting([*parts, whole, other]))) < 15
