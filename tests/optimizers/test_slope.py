"""Descent by slopes, on functions whose derivative is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from evomerge import seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told, make
from evomerge.params import Dim, Genome, Level

AXES = 12
TOP = 0.7
DIMS = tuple(Dim(str(axis), "real") for axis in range(AXES))
PROBLEM = Problem(DIMS, ("a",), smooth=(True,) * AXES)
START = (0.4,) * AXES


def value(genome: Genome) -> float:
    return -sum((gene - TOP) ** 2 for gene in genome) / len(genome)


def slope(genome: Genome, *key: seeds.Part, noise: float = 0.02) -> tuple[float, ...]:
    draws = seeds.generator("noise", *key).normal(0, noise, len(genome))
    exact = (-2 * (gene - TOP) / len(genome) for gene in genome)
    return tuple(float(e + d) for e, d in zip(exact, draws, strict=True))


def answers(asks: Sequence[Ask], batch: int, start: Genome = START) -> list[Told]:
    """What a search would tell: scores, slopes where they are wanted, leads where they are."""
    first = value(asks[0].genome)
    return [
        Told(
            ask.genome,
            value(ask.genome),
            (value(ask.genome),),
            (0.0,),
            slope=slope(ask.genome, batch, number) if ask.slope else None,
            lead=(value(ask.genome) - first, 0.001) if ask.fresh else None,
        )
        for number, ask in enumerate(asks)
    ]


def run(optimizer: Optimizer, batches: int, lag: int = 1, start: Genome = START) -> list[list[Ask]]:
    """A search: the known recipe, then batches told ``lag - 1`` batches late."""
    optimizer.tell(1, 0, [Told(start, value(start), (value(start),), (0.0,))])
    asked: list[list[Ask]] = []
    for batch in range(2, 2 + batches):
        asked.append(optimizer.ask(optimizer.population, batch))
        late = batch - lag + 1
        if late >= 2:
            optimizer.tell(late, max(2, late - lag + 1), answers(asked[late - 2], late))
    return asked


@pytest.mark.parametrize("lag", [1, 2, 4])
def test_it_climbs_and_asks_one_slope_a_batch(lag: int) -> None:
    optimizer = make("slope", PROBLEM, seed=0)
    asked = run(optimizer, 16, lag)
    assert all(len(asks) == 1 and asks[0].slope for asks in asked)
    assert asked[0][0].genome == START
    (found,) = optimizer.recommend(1)
    assert value(found) > value(START) / 10
    points = np.array([asks[0].genome for asks in asked[len(asked) // 2 + 1 :]])
    assert found == pytest.approx(tuple(points.mean(axis=0)), abs=0.02)


def test_it_stays_inside_and_moves_smooth_axes_alone() -> None:
    smooth = tuple(axis % 2 == 0 for axis in range(AXES))
    dims = (*DIMS[:-1], Dim("method", "categorical", 3))
    optimizer = make("slope", Problem(dims, smooth=smooth), seed=0, options={"rate": 0.3})
    start = (0.95, *START[1:-1], 0.5)
    asked = run(optimizer, 10, start=start)
    for asks in asked:
        for axis, gene in enumerate(asks[0].genome):
            assert 0 <= gene <= 1
            assert smooth[axis] or gene == start[axis]


def test_a_failure_goes_halfway_back() -> None:
    optimizer = make("slope", PROBLEM, seed=0)
    run(optimizer, 3)
    before = optimizer.ask(1, 5)[0].genome
    optimizer.tell(5, 5, [Told(before, None)])
    after = optimizer.ask(1, 6)[0].genome
    assert value(before) > value(after) > value(START)


def test_asking_changes_nothing_and_a_replay_restores_all() -> None:
    one, other = (make("slope", PROBLEM, seed=0) for _ in range(2))
    run(one, 9)
    for batch in range(2, 11):
        other.ask(1, batch)
        other.ask(5, batch)
    other = make("slope", PROBLEM, seed=0)
    run(other, 9)
    assert one.ask(1, 11) == other.ask(1, 11) and one.recommend(3) == other.recommend(3)


LEVELS = (
    Level("model", (0,) * AXES),
    Level("group", tuple(axis // 12 for axis in range(AXES))),
    Level("tensor", tuple(range(AXES))),
)


@pytest.mark.parametrize("lag", [1, 3])
def test_auto_descends_level_by_level_then_evolves(lag: int) -> None:
    problem = Problem(DIMS, ("a",), smooth=(True,) * AXES, levels=LEVELS)
    optimizer = make("auto", problem, seed=0, options={"steps": 12})
    asked = run(optimizer, 80, lag)
    origins = list(dict.fromkeys(ask.origin for asks in asked for ask in asks))
    stages = [o for o in origins if not o.endswith("before") and ":" not in o]
    assert stages == ["auto, descend group", "auto, descend tensor", "auto, evolve group"]
    (first, *_), *_ = ([ask.genome for ask in asks] for asks in asked if asks[0].slope)
    assert first == START
    tied = next(asks[0].genome for asks in asked[1:] if asks[0].slope)
    assert len(set(tied)) == 1, "axes of a class move together"
    assert [said.split(":")[0] for said in optimizer.decisions[:2]] == [
        "descend group",
        "descend tensor",
    ]
    found = optimizer.recommend(3)
    assert value(found[0]) > value(START) / 20 and optimizer.observed == 0


def test_auto_keeps_nothing_that_does_not_lead() -> None:
    optimizer = make("auto", Problem(DIMS, ("a",), smooth=(True,) * AXES), seed=0)
    best = (TOP,) * AXES
    run(optimizer, 20, start=best)
    assert optimizer.recommend(1) == [best]
    assert "not kept" in optimizer.decisions[0]


def test_auto_needs_no_known_recipe() -> None:
    """What it found is recommended, and what scored best joins the shortlist."""
    optimizer = make("auto", Problem(DIMS, ("a",), smooth=(True,) * AXES), seed=0)
    optimizer.tell(1, 0, [])
    assert optimizer.recommend(3) == [] and optimizer.observed > 0
    for batch in range(2, 30):
        asks = optimizer.ask(5, batch)
        optimizer.tell(batch, batch, answers(asks, batch))
    assert value(optimizer.recommend(1)[0]) > value((0.5,) * AXES)


def test_auto_leaves_a_descent_at_once_where_no_gene_has_a_slope() -> None:
    """As where the best known recipe is of a method that is not smooth, in a space of several."""
    dims = (*DIMS, Dim("method", "categorical", 2))
    smooth = (*(True,) * AXES, False)
    optimizer = make("auto", Problem(dims, ("a",), smooth=smooth), seed=0)
    optimizer.tell(1, 0, [Told((*START, 0.25), 0.5, (0.5,), (0.0,))])
    (ask,) = optimizer.ask(1, 2)
    assert ask.slope
    flat = Told(ask.genome, 0.5, (0.5,), (0.0,), slope=(0.0,) * len(dims))
    optimizer.tell(2, 1, [flat])
    assert "no gene has a slope here" in optimizer.decisions[0]
    assert not any(each.slope for each in optimizer.ask(4, 3))
    assert optimizer.observed > 0, "what has no slope joins the shortlist if it was seen to be good"


def test_auto_without_slopes_goes_few_genes_first_then_all_then_choices() -> None:
    dims = (*DIMS, Dim("method", "categorical", 3))
    levels = (Level("model", (*(0,) * AXES, 1)), Level("all", tuple(range(AXES + 1))))
    optimizer = make("auto", Problem(dims, ("a",), levels=levels), seed=0, options={"patience": 4})
    start = (*START, 0.5)
    asked = run(optimizer, 24, start=start)
    few = [g.genome for asks in asked for g in asks if g.origin == "auto, evolve model"]
    assert few and all(len(set(genome[:-1])) == 1 for genome in few)
    assert {genome[-1] for genome in few} == {0.5}, "choices wait"
    every = [g.genome for asks in asked for g in asks if g.origin == "auto, evolve all"]
    assert len({genome[-1] for genome in every}) > 1
    assert optimizer.observed > 0
    assert value(optimizer.recommend(1)[0][:-1]) > value(START) / 2


def test_auto_replays_to_the_same() -> None:
    problem = Problem(DIMS, ("a",), smooth=(True,) * AXES, levels=LEVELS)
    one, other = (make("auto", problem, seed=0, options={"steps": 6}) for _ in range(2))
    asked = run(one, 25)
    other.tell(1, 0, [Told(START, value(START), (value(START),), (0.0,))])
    for batch, asks in enumerate(asked, start=2):
        assert other.ask(one.population, batch) == asks
        other.tell(batch, batch, answers(asks, batch))
    assert other.decisions == one.decisions and other.recommend(3) == one.recommend(3)
