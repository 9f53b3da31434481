"""What every optimizer must hold to, as tests: subclass and name the optimizer.

class TestMine(OptimizerContract):
    optimizer = "mine"        # as in run.yaml; a plugin's entry point counts
    options = {"pace": 2}     # where the default is not what is tested
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import pytest

from evomerge import optimizers
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical, cell
from evomerge.params import Dim, Genome, Value

REAL = (Dim("a", "real"), Dim("b", "real"), Dim("c", "real"))
MIXED = (
    Dim("weight", "real"),
    Dim("topk", "integer", 5),
    Dim("method", "categorical", 4),
    Dim("density", "real"),
    Dim("fixed", "categorical", 1),
)
DISCRETE = (Dim("method", "categorical", 3), Dim("topk", "integer", 6))
SPACES = {"one real": REAL[:1], "real": REAL, "mixed": MIXED, "discrete": DISCRETE}
# gene 1 + m counts only under method m
CONDITIONAL = (
    Dim("method", "categorical", 3),
    Dim("weight", "real"),
    Dim("topk", "integer", 5),
    Dim("mode", "categorical", 2),
    Dim("lambda", "real"),
)

OBJECTIVES = ("a", "b")

Tell = tuple[int, int, list[Told]]  # batch, seen, what came of it

_REPLAY = """
import json, sys
from evomerge import optimizers
from evomerge.optimizers import Problem, Told
from evomerge.params import Dim
from evomerge.testing.optimizers import pool
job = json.load(sys.stdin)
problem = Problem(tuple(Dim(*dim) for dim in job["dims"]), tuple(job["objectives"]))
problem = pool(problem) if job["pooled"] else problem
optimizer = optimizers.make(job["name"], problem, seed=job["seed"], options=job["options"])
for batch, seen, told in job["tells"]:
    told = [Told(**{key: tuple(v) if isinstance(v, list) else v for key, v in t.items()}) for t in told]
    optimizer.tell(batch, seen, told)
asked = [ask.genome for ask in optimizer.ask(job["count"], job["batch"])]
json.dump([asked, optimizer.recommend(3)], sys.stdout)
"""


def score(genome: Genome) -> float:
    """A sphere, maximised at 0.3 on every axis."""
    return -sum((gene - 0.3) ** 2 for gene in genome)


def told(genome: Genome) -> Told:
    """The sphere, and two objectives that trade off: spheres at 0.2 and at 0.4.

    An item is answered where a gene is near enough to 0.3; each genome was not asked two of them.
    """
    values = tuple(-sum((gene - top) ** 2 for gene in genome) for top in (0.2, 0.4))
    worths = {
        f"{axis} {near}": float(abs(gene - 0.3) < near)
        for axis, gene in enumerate(genome)
        for near in (0.05, 0.1, 0.2, 0.4)
    }
    for near in (0.1, 0.2) if int(genome[0] * 100) % 2 else (0.05, 0.4):
        del worths[f"0 {near}"]
    return Told(genome, score(genome), values, (0.01, None), answers={"a": worths})


def settled(genome: Genome) -> Genome:
    """A genome of ``CONDITIONAL`` as a space tells it of a known recipe: inactive genes at 0.5."""
    active = {0, 1 + cell(CONDITIONAL[0], genome[0]), 4}
    return tuple(gene if axis in active else 0.5 for axis, gene in enumerate(genome))


def failed(genome: Genome) -> Told:
    return Told(genome, None)


def pool(problem: Problem, sources: int = 4) -> Problem:
    """The same with sources, which are corners of the space or lie on its edges, and their blends.

    The last source is much like the first.
    """
    size = len(problem.dims)
    rows = [[float((axis + n) % 3 == 0) for axis in range(size)] for n in range(sources - 1)]
    rows.append([abs(gene - 0.1) for gene in rows[0]])
    names = tuple(f"s{number}" for number in range(sources))

    def blend(weights: Mapping[str, float]) -> Genome:
        shares = [weights[name] for name in names]
        columns = zip(*rows, strict=True)
        genes = [sum(w * g for w, g in zip(shares, column, strict=True)) for column in columns]
        return canonical(problem.dims, genes)

    alike = {(0, sources - 1), (sources - 1, 0)}
    kinship = {
        (a, b): 1.0 if m == n else 0.8 if (m, n) in alike else 0.1
        for m, a in enumerate(names)
        for n, b in enumerate(names)
    }
    return replace(problem, sources=names, blend=blend, kinship=kinship)


def known_recipes(dims: Sequence[Dim]) -> list[Genome]:
    """Points that no optimizer proposed, on the bounds too."""
    return [canonical(dims, [gene] * len(dims)) for gene in (0.0, 0.35, 1.0)]


def replay(optimizer: Optimizer, tells: Sequence[Tell]) -> Optimizer:
    for tell in tells:
        optimizer.tell(*tell)
    return optimizer


class OptimizerContract:
    """Laws of ``Optimizer``.

    Attributes:
        optimizer: its name.
        learns: False for a baseline, and for one that only weighs the sources of a pool.
        draws: False if what it asks follows from what it was told alone.
        pooled: True if it wants a pool of sources (``pool``).
    """

    optimizer: ClassVar[str]
    options: ClassVar[Mapping[str, Value]] = {}
    learns: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    pooled: ClassVar[bool] = False

    def make(self, dims: Sequence[Dim] = REAL, seed: int = 0) -> Optimizer:
        problem = Problem(tuple(dims), OBJECTIVES)
        problem = pool(problem) if self.pooled else problem
        return optimizers.make(self.optimizer, problem, seed=seed, options=self.options)

    def ask(self, optimizer: Optimizer, count: int, batch: int) -> list[Ask]:
        """As many as were asked for; at least one of an optimizer that may give fewer."""
        asks = optimizer.ask(count, batch)
        if optimizer.FEWER:
            assert 1 <= len(asks) <= count
        else:
            assert len(asks) == count
        return asks

    def genomes(self, optimizer: Optimizer, count: int, batch: int) -> list[Genome]:
        return [ask.genome for ask in self.ask(optimizer, count, batch)]

    def search(
        self, dims: Sequence[Dim], batches: int = 3, *, seed: int = 0, lag: int = 1
    ) -> tuple[Optimizer, list[Tell]]:
        """Known recipes as batch 0, then ``batches`` batches told ``lag - 1`` batches late."""
        optimizer = self.make(dims, seed)
        tells: list[Tell] = [(0, 0, [told(genome) for genome in known_recipes(dims)])]
        optimizer.tell(*tells[0])
        asked: dict[int, tuple[int, list[Genome]]] = {}
        for batch in range(1, batches + lag):
            seen = tells[-1][0] + 1
            asked[batch] = seen, self.genomes(optimizer, optimizer.population, batch)
            if (late := batch - lag + 1) in asked:
                tells.append((late, asked[late][0], [told(genome) for genome in asked[late][1]]))
                optimizer.tell(*tells[-1])
        return optimizer, tells

    @pytest.fixture(params=list(SPACES.values()), ids=list(SPACES))
    def dims(self, request: pytest.FixtureRequest) -> tuple[Dim, ...]:
        dims: tuple[Dim, ...] = request.param
        return dims

    def test_genomes_are_canonical_and_as_many_as_asked(self, dims: tuple[Dim, ...]) -> None:
        optimizer, _ = self.search(dims)
        for made in (self.make(dims), optimizer):
            for count in (1, 2, made.population, 3 * made.population):
                genomes = self.genomes(made, count, 9)
                assert genomes == [canonical(dims, genome) for genome in genomes]
                assert all(type(gene) is float for genome in genomes for gene in genome)

    def test_ask_is_pure(self, dims: tuple[Dim, ...]) -> None:
        optimizer, tells = self.search(dims)
        newest, _, last = tells[-1]
        first = optimizer.ask(5, newest + 1)
        optimizer.ask(3, newest + 2)
        assert optimizer.ask(5, newest + 1) == first
        again = (newest + 1, newest + 1, last)
        optimizer.tell(*again)
        undisturbed = replay(self.make(dims), [*tells, again])
        assert optimizer.ask(5, newest + 2) == undisturbed.ask(5, newest + 2)

    @pytest.mark.parametrize("lag", [1, 2, 3])
    def test_replaying_the_tells_restores_it(self, dims: tuple[Dim, ...], lag: int) -> None:
        optimizer, tells = self.search(dims, batches=5, lag=lag)
        replayed = replay(self.make(dims), tells)
        assert replayed.ask(6, 19) == optimizer.ask(6, 19)
        assert replayed.recommend(3) == optimizer.recommend(3)

    def test_a_new_process_continues_alike(self) -> None:
        optimizer, tells = self.search(MIXED, seed=3)
        job = {
            "name": self.optimizer,
            "options": self.options,
            "dims": [(dim.name, dim.kind, dim.size) for dim in MIXED],
            "objectives": OBJECTIVES,
            "pooled": self.pooled,
            "seed": 3,
            "tells": [(batch, seen, [asdict(each) for each in all]) for batch, seen, all in tells],
            "count": 6,
            "batch": 19,
        }
        process = subprocess.run(
            [sys.executable, "-c", _REPLAY],
            input=json.dumps(job),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "77"},
            capture_output=True,
            text=True,
            check=True,
        )
        asked, recommended = json.loads(process.stdout)
        assert [tuple(genome) for genome in asked] == self.genomes(optimizer, 6, 19)
        assert [tuple(genome) for genome in recommended] == optimizer.recommend(3)

    def test_seed_and_batch_name_the_draw(self) -> None:
        if not self.draws:
            pytest.skip("it draws nothing")
        one, other = self.make(seed=1), self.make(seed=2)
        assert one.ask(4, 0) == self.make(seed=1).ask(4, 0)
        assert one.ask(4, 0) != other.ask(4, 0)
        assert one.ask(4, 0) != one.ask(4, 1)

    def test_global_generators_are_left_alone(self) -> None:
        import random

        import numpy as np

        random.seed(5)
        np.random.seed(5)
        expected = (random.random(), np.random.rand())
        random.seed(5)
        np.random.seed(5)
        self.search(MIXED)
        assert (random.random(), np.random.rand()) == expected

    def test_nothing_is_recommended_before_a_success(self, dims: tuple[Dim, ...]) -> None:
        optimizer = self.make(dims)
        assert optimizer.recommend(3) == []
        optimizer.tell(1, 0, [failed(genome) for genome in known_recipes(dims)])
        assert optimizer.recommend(3) == []
        self.ask(optimizer, 4, 2)

    def test_recommendations_are_canonical_and_no_more_than_wanted(
        self, dims: tuple[Dim, ...]
    ) -> None:
        optimizer, _ = self.search(dims)
        for count in (1, 4):
            found = optimizer.recommend(count)
            assert 0 < len(found) <= count
            assert found == [canonical(dims, genome) for genome in found]
        assert optimizer.recommend(4)[0] == optimizer.recommend(1)[0], "best first"

    def test_failures_and_violations_rank_last(self, dims: tuple[Dim, ...]) -> None:
        optimizer, tells = self.search(dims)
        for batch in range(tells[-1][0] + 1, tells[-1][0] + 5):
            genomes = self.genomes(optimizer, optimizer.population, batch)
            mixed = [
                failed(g) if i % 3 == 0 else replace(told(g), violation=float(i % 3 - 1))
                for i, g in enumerate(genomes)
            ]
            optimizer.tell(batch, batch, mixed)
        (recommended,) = optimizer.recommend(1)
        assert recommended == canonical(dims, recommended)

    def test_failures_only_are_survived_and_a_success_is_found(self, dims: tuple[Dim, ...]) -> None:
        optimizer = self.make(dims)
        for batch in range(1, 6):
            genomes = self.genomes(optimizer, optimizer.population, batch)
            assert genomes == [canonical(dims, genome) for genome in genomes], "no NaN either"
            optimizer.tell(batch, batch, [failed(genome) for genome in genomes])
        assert optimizer.recommend(3) == []
        genomes = self.genomes(optimizer, optimizer.population, 6)
        optimizer.tell(6, 6, [told(g) if g == genomes[0] else failed(g) for g in genomes])
        (found,) = optimizer.recommend(1)
        assert found == canonical(dims, found)
        for batch in (7, 8):
            genomes = self.genomes(optimizer, optimizer.population, batch)
            optimizer.tell(batch, batch, [told(genome) for genome in genomes])
        assert self.genomes(optimizer, 4, 9) == [
            canonical(dims, genome) for genome in self.genomes(optimizer, 4, 9)
        ]

    def test_what_only_failed_is_not_recommended_over_what_succeeded(self) -> None:
        optimizer = self.make(DISCRETE)
        for batch in range(1, 7):  # every option but the first fails
            genomes = self.genomes(optimizer, optimizer.population, batch)
            optimizer.tell(batch, batch, [told(g) if g[0] < 1 / 3 else failed(g) for g in genomes])
        (found,) = optimizer.recommend(1)
        assert found[0] < 1 / 3

    def test_inactive_genes_may_come_back_as_halves(self) -> None:
        optimizer, other = self.make(CONDITIONAL), self.make(CONDITIONAL)
        tells: list[Tell] = [(0, 0, [told(settled(g)) for g in known_recipes(CONDITIONAL)])]
        replay(optimizer, tells)
        for batch in range(1, 6):
            genomes = self.genomes(optimizer, optimizer.population, batch)
            assert genomes == [canonical(CONDITIONAL, genome) for genome in genomes]
            all = [replace(told(settled(genome)), genome=genome) for genome in genomes]
            if batch % 2:
                all = [replace(each, genome=settled(each.genome)) for each in all]
            tells.append((batch, batch, all))
            optimizer.tell(*tells[-1])
        assert replay(other, tells).ask(6, 19) == optimizer.ask(6, 19)
        assert 0 < len(optimizer.recommend(3)) <= 3

    @pytest.mark.parametrize("lag", [1, 3])
    def test_recommending_in_between_changes_nothing(self, dims: tuple[Dim, ...], lag: int) -> None:
        optimizer, tells = self.search(dims, batches=4, lag=lag)
        curious = self.make(dims)
        for tell in tells:
            curious.recommend(3)
            curious.tell(*tell)
            curious.recommend(1)
        newest = tells[-1][0]
        for batch in range(
            newest + 1, newest + 4
        ):  # a budget that was extended goes on as if whole
            assert curious.ask(5, batch) == optimizer.ask(5, batch)
            for each in (curious, optimizer):
                asked = self.genomes(each, each.population, batch)
                each.tell(batch, batch, [told(genome) for genome in asked])
                assert each.recommend(2) == each.recommend(2)
        assert curious.recommend(3) == optimizer.recommend(3)

    def test_batches_may_be_told_in_part_or_never(self, dims: tuple[Dim, ...]) -> None:
        optimizer = self.make(dims)
        tells: list[Tell] = []
        for batch in range(1, 10):
            seen = tells[-1][0] + 1 if tells else 0
            genomes = self.genomes(optimizer, optimizer.population, batch)
            if batch % 3 == 0:
                continue
            tells.append((batch, seen, [told(genome) for genome in genomes[batch % 2 :: 2]]))
            optimizer.tell(*tells[-1])
        assert replay(self.make(dims), tells).ask(6, 19) == optimizer.ask(6, 19)
        assert optimizer.recommend(1) == [canonical(dims, *optimizer.recommend(1))]

    def test_flat_scores_and_duplicates_are_survived(self, dims: tuple[Dim, ...]) -> None:
        optimizer = self.make(dims)
        for batch in range(2, 12, 2):
            genomes = self.genomes(optimizer, optimizer.population, batch)
            optimizer.tell(batch, batch, [replace(told(g), score=0.5) for g in genomes])
            twins = [replace(told(genomes[0]), score=float(i)) for i in range(len(genomes))]
            optimizer.tell(batch + 1, batch, twins)
        assert self.genomes(optimizer, 4, 19) == [
            canonical(dims, genome) for genome in self.genomes(optimizer, 4, 19)
        ]

    def test_batches_of_any_size_are_survived(self, dims: tuple[Dim, ...]) -> None:
        optimizer = self.make(dims)
        optimizer.tell(1, 0, [])
        for batch, count in enumerate((1, 2, 3, 50, 1), start=2):
            genomes = self.genomes(optimizer, count, batch)
            optimizer.tell(batch, batch, [told(genome) for genome in genomes])
        self.ask(optimizer, 4, 19)

    def test_only_finite_scores_may_be_told(self) -> None:
        (genome,) = self.genomes(self.make(), 1, 0)
        for bad in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="finite"):
                Told(genome, bad)
            with pytest.raises(ValueError, match="finite"):
                Told(genome, 0.0, (bad, 0.0))

    def test_no_files_and_no_printing(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        self.search(MIXED, batches=4, lag=2)
        self.search(REAL[:1], batches=4)
        assert list(tmp_path.iterdir()) == []
        assert capfd.readouterr() == ("", "")
        assert [str(warning.message) for warning in recwarn] == []

    @pytest.mark.parametrize("lag", [1, 2])
    def test_it_beats_random_search(self, lag: int) -> None:
        if not self.learns:
            pytest.skip("it is a baseline, or weighs a pool of sources")
        dims = [Dim(f"x{axis}", "real") for axis in range(6)]
        losses = []
        for seed in range(3):
            optimizer, tells = self.search(dims, batches=9, seed=seed, lag=lag)
            evaluations = sum(len(all) for _, _, all in tells)
            uniform = self.genomes(
                optimizers.make("random", Problem(tuple(dims)), seed=seed), evaluations, 0
            )
            best_random = max(map(score, [*known_recipes(dims), *uniform]))
            (found,) = optimizer.recommend(1)
            losses.append(score(found) / best_random)
        assert sorted(losses)[1] < 1.0, f"loss relative to random search, by seed: {losses}"
