"""Walks by slopes, on merges whose slopes are known: task vectors that should add up to a target, place by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.errors import InputError
from evomerge.optimizers import Optimizer, Problem, Told, canonical, make
from evomerge.params import Dim, Level, Mixture

Array = NDArray[np.float64]
WALKS = ("frank_wolfe", "supermerge", "self_positioning")
RANGE = (0.0, 1.5)
SIZE = 400  # of a place's vectors


@dataclass
class Pool:
    """``relevant`` sources that each have a part of the target, and others that have nothing to do with it.

    The score is 1 less the mean squared distance from the target, which a weight of .3 a source nearly reaches.
    """

    relevant: int = 8
    irrelevant: int = 0
    places: int = 6
    noise: float = 0.0  # of slopes, relative to them
    seed: int = 0
    vectors: Array = field(init=False)
    target: Array = field(init=False)

    def __post_init__(self) -> None:
        draws = np.random.default_rng(self.seed)
        shape = (self.places, self.relevant, SIZE)
        found = draws.normal(size=shape)
        self.target = 0.3 * found.sum(1)
        others = np.random.default_rng(self.seed + 1).normal(
            size=(self.places, self.irrelevant, SIZE)
        )
        self.vectors = np.concatenate([found, others], 1)
        self._draws = np.random.default_rng(self.seed + 2)

    @property
    def problem(self) -> Problem:
        count = self.relevant + self.irrelevant
        names = [f"source{n}" for n in range(count)]
        dims = [Dim(f"weight.{name}@{at}", "real") for at in range(self.places) for name in names]
        axes = [tuple(range(at * count, (at + 1) * count)) for at in range(self.places)]
        mixtures = tuple(Mixture(each, tuple(names), (RANGE,) * count) for each in axes)
        model = tuple(n % count for n in range(len(dims) + 1))
        levels = (
            Level("model", (*model[:-1], count)),
            Level("all", tuple(range(len(dims) + 1))),
        )
        return Problem(
            (*dims, Dim("density", "real")),
            smooth=(*[True] * len(dims), False),
            levels=levels,
            mixtures=mixtures,
        )

    def start(self, weight: float) -> tuple[float, ...]:
        """Equal weights."""
        genes = [(weight - RANGE[0]) / (RANGE[1] - RANGE[0])] * (len(self.problem.dims) - 1)
        return canonical(self.problem.dims, [*genes, 0.25])

    def told(self, genome: Sequence[float], slope: bool = True) -> Told:
        weights = np.array(genome[:-1]) * (RANGE[1] - RANGE[0]) + RANGE[0]
        gap = self.target - np.einsum("pk,pkd->pd", weights.reshape(self.places, -1), self.vectors)
        by_weight = 2 * np.einsum("pd,pkd->pk", gap, self.vectors) / gap.size
        by_gene = by_weight.ravel() * (RANGE[1] - RANGE[0])
        spread = self.noise * np.sqrt(np.mean(by_gene**2))
        by_gene += self._draws.normal(size=by_gene.shape) * spread
        score = 1 - float(np.mean(gap**2))
        return Told(tuple(genome), score, slope=(*by_gene.tolist(), 0.0) if slope else None)

    def walked(self, name: str, steps: int, first: float, **options: float | int) -> float:
        """The true score of what a walk recommends that starts at equal weights."""
        optimizer = make(name, self.problem, seed=0, options=options)
        self.walk(optimizer, steps, first)
        [genome] = optimizer.recommend(3)
        score = self.told(genome).score
        assert score is not None and genome[-1] == 0.25, "it has no slope along the last axis"
        return score

    def walk(self, optimizer: Optimizer, steps: int, first: float) -> list[list[Told]]:
        tells = [[self.told(self.start(weight), slope=False) for weight in (first, 1.5)]]
        optimizer.tell(1, 0, tells[0])
        for batch in range(2, 2 + steps):
            [ask] = optimizer.ask(12, batch)
            assert ask.slope and ask.genome == canonical(self.problem.dims, ask.genome)
            tells.append([self.told(ask.genome)])
            optimizer.tell(batch, batch, tells[-1])
        return tells


@pytest.mark.parametrize("name", WALKS)
def test_it_climbs(name: str) -> None:
    pool = Pool(noise=0.5)
    before = pool.told(pool.start(0.08)).score
    assert before is not None and before < 0.7
    options = {"total": 3.0} if name == "frank_wolfe" else {}
    steps = 48 if name == "supermerge" else 32  # which has two teams, and what comes after them
    assert pool.walked(name, steps, 0.08, **options) > (before + 1) / 2


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_irrelevant_sources_do_no_harm_to_frank_wolfe(noise: float) -> None:
    """Sixteen of them change next to nothing, where equal weights of all are worse than no merge."""
    alone, among = Pool(noise=noise), Pool(irrelevant=16, noise=noise)
    scores = [pool.walked("frank_wolfe", 40, 0.1, total=3.0) for pool in (alone, among)]
    assert among.told(among.start(0.3)).score < among.told(among.start(0.0)).score  # type: ignore[operator]
    assert scores[1] > scores[0] - 0.015, scores
    optimizer = make("frank_wolfe", among.problem, seed=0, options={"total": 3.0})
    among.walk(optimizer, 40, 0.1)
    [genome] = optimizer.recommend(1)
    weights = 1.5 * np.array(genome[:-1]).reshape(among.places, -1)
    assert weights[:, 8:].sum() < 0.1 * weights[:, :8].sum()
    assert (weights.sum(1) <= 3.0 + 1e-6).all() and (weights >= 0).all()


def test_frank_wolfe_keeps_the_sum_of_what_it_starts_from() -> None:
    pool = Pool()
    optimizer = make("frank_wolfe", pool.problem, seed=0)
    pool.walk(optimizer, 8, 0.2)
    weights = 1.5 * np.array(optimizer.recommend(1)[0][:-1]).reshape(pool.places, -1)
    assert (weights.sum(1) <= 8 * 0.2 + 1e-6).all() and weights.sum() > 6 * 8 * 0.2 * 0.9


def test_supermerge_descends_within_a_team_first() -> None:
    pool = Pool()
    optimizer = make("supermerge", pool.problem, seed=0, options={"team": 3, "steps": 4})
    tells = pool.walk(optimizer, 15, 0.1)
    weights = [1.5 * np.array(told[0].genome[:-1]).reshape(pool.places, -1) for told in tells[1:]]
    for step, each in enumerate(weights[:12]):
        team = slice(3 * (step // 4), 3 * (step // 4) + 3)
        assert (each[:, team] > 0).all() and np.count_nonzero(each) == each[:, team].size
    first, last = weights[12], weights[-1]
    assert (first > 0).all(), "then all are merged"
    ratios = last / first
    for team in (slice(0, 3), slice(3, 6), slice(6, 8)):
        assert np.allclose(ratios[:, team], ratios[:, team][:, :1], rtol=1e-5)
    assert not np.allclose(ratios, 1)


def test_self_positioning_moves_a_source_everywhere_at_once() -> None:
    pool = Pool(places=3)
    optimizer = make("self_positioning", pool.problem, seed=0)
    pool.walk(optimizer, 5, 0.1)
    weights = np.array(optimizer.recommend(1)[0][:-1]).reshape(3, -1)
    assert np.allclose(weights, weights[0]) and len(set(weights[0].round(4))) > 4


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("name", WALKS)
def test_replaying_the_tells_restores_it(name: str, lag: int) -> None:
    pool, tells = Pool(noise=0.5), []
    optimizer = make(name, pool.problem, seed=0, options={"steps": 3} if "fr" not in name else {})
    tells.append((1, 0, [pool.told(pool.start(0.1), slope=False)]))
    optimizer.tell(*tells[0])
    asked = {}
    for batch in range(2, 20):
        asked[batch] = optimizer.ask(1, batch)
        assert optimizer.ask(1, batch) == asked[batch], "an ask changes nothing"
        if (late := batch - lag + 1) >= 2:
            [ask] = asked[late]
            # some fail
            came = Told(ask.genome, None) if late % 5 == 0 else pool.told(ask.genome)
            tells.append((late, late, [came]))
            optimizer.tell(*tells[-1])
    again = make(name, pool.problem, seed=0, options={"steps": 3} if "fr" not in name else {})
    for tell in tells:
        again.tell(*tell)
    assert again.ask(1, 30) == optimizer.ask(1, 30)
    assert again.recommend(3) == optimizer.recommend(3)


@pytest.mark.parametrize("name", WALKS[:2])
def test_a_space_without_weights_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no weights of sources that stand for themselves"):
        make(name, Problem((Dim("a", "real"),), smooth=(True,)), seed=0)


def test_nothing_is_recommended_before_anything_was_told() -> None:
    for name in WALKS:
        assert make(name, Pool().problem, seed=0).recommend(3) == []
