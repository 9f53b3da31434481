"""What every optimizer must hold to, as tests: subclass and name the optimizer.

class TestMine(OptimizerContract):
    optimizer = "mine"        # as in run.yaml; a plugin's entry point counts
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from evomerge import optimizers
from evomerge.optimizers import Optimizer, canonical
from evomerge.params import Dim, Genome

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

Tell = tuple[Sequence[Genome], Sequence[float | None]]

_REPLAY = """
import json, sys
from evomerge import optimizers
from evomerge.params import Dim
job = json.load(sys.stdin)
optimizer = optimizers.make(job["name"], [Dim(*dim) for dim in job["dims"]], seed=job["seed"])
for genomes, scores in job["tells"]:
    optimizer.tell([tuple(genome) for genome in genomes], scores)
json.dump([optimizer.ask(job["count"], job["batch"]), optimizer.recommend()], sys.stdout)
"""


def score(genome: Genome) -> float:
    """A sphere, maximised at 0.3 on every axis."""
    return -sum((gene - 0.3) ** 2 for gene in genome)


def known_recipes(dims: Sequence[Dim]) -> list[Genome]:
    """Points that no optimizer proposed, on the bounds too."""
    return [canonical(dims, [gene] * len(dims)) for gene in (0.0, 0.35, 1.0)]


def replay(optimizer: Optimizer, tells: Sequence[Tell]) -> Optimizer:
    for genomes, scores in tells:
        optimizer.tell(genomes, scores)
    return optimizer


class OptimizerContract:
    """Laws of ``Optimizer``; ``learns`` is False only for a baseline."""

    optimizer: ClassVar[str]
    learns: ClassVar[bool] = True

    def make(self, dims: Sequence[Dim] = REAL, seed: int = 0) -> Optimizer:
        return optimizers.make(self.optimizer, dims, seed=seed)

    def search(
        self, dims: Sequence[Dim], batches: int = 3, *, seed: int = 0, lag: int = 1
    ) -> tuple[Optimizer, list[Tell]]:
        """Known recipes, then ``batches`` batches told ``lag - 1`` batches late."""
        optimizer = self.make(dims, seed)
        known = known_recipes(dims)
        tells: list[Tell] = [(known, [score(genome) for genome in known])]
        optimizer.tell(*tells[0])
        asked: list[list[Genome]] = []
        for batch in range(1, batches + lag):
            asked.append(optimizer.ask(optimizer.population, batch))
            if batch >= lag:
                genomes = asked[batch - lag]
                tells.append((genomes, [score(genome) for genome in genomes]))
                optimizer.tell(*tells[-1])
        return optimizer, tells

    @pytest.fixture(params=list(SPACES.values()), ids=list(SPACES))
    def dims(self, request: pytest.FixtureRequest) -> tuple[Dim, ...]:
        dims: tuple[Dim, ...] = request.param
        return dims

    def test_genomes_are_canonical_and_as_many_as_asked(self, dims: tuple[Dim, ...]) -> None:
        optimizer, _ = self.search(dims)
        for told in (self.make(dims), optimizer):
            for count in (1, 2, told.population, 3 * told.population):
                genomes = told.ask(count, 9)
                assert len(genomes) == count
                assert genomes == [canonical(dims, genome) for genome in genomes]
                assert all(type(gene) is float for genome in genomes for gene in genome)

    def test_ask_is_pure(self, dims: tuple[Dim, ...]) -> None:
        optimizer, tells = self.search(dims)
        first = optimizer.ask(5, 7)
        optimizer.ask(3, 8)
        assert optimizer.ask(5, 7) == first
        optimizer.tell(*tells[-1])
        undisturbed = replay(self.make(dims), [*tells, tells[-1]])
        assert optimizer.ask(5, 8) == undisturbed.ask(5, 8)

    @pytest.mark.parametrize("lag", [1, 2, 3])
    def test_replaying_the_tells_restores_it(self, dims: tuple[Dim, ...], lag: int) -> None:
        optimizer, tells = self.search(dims, batches=5, lag=lag)
        replayed = replay(self.make(dims), tells)
        assert replayed.ask(6, 9) == optimizer.ask(6, 9)
        assert replayed.recommend() == optimizer.recommend()

    def test_a_new_process_continues_alike(self) -> None:
        optimizer, tells = self.search(MIXED, seed=3)
        job = {
            "name": self.optimizer,
            "dims": [(dim.name, dim.kind, dim.size) for dim in MIXED],
            "seed": 3,
            "tells": tells,
            "count": 6,
            "batch": 9,
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
        assert [tuple(genome) for genome in asked] == optimizer.ask(6, 9)
        assert tuple(recommended) == optimizer.recommend()

    def test_seed_and_batch_name_the_draw(self) -> None:
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
        assert optimizer.recommend() is None
        known = known_recipes(dims)
        optimizer.tell(known, [None] * len(known))
        assert optimizer.recommend() is None
        assert len(optimizer.ask(4, 1)) == 4

    def test_failures_rank_last(self, dims: tuple[Dim, ...]) -> None:
        optimizer, _ = self.search(dims)
        for batch in range(4, 8):
            genomes = optimizer.ask(optimizer.population, batch)
            optimizer.tell(genomes, [None if i % 3 else score(g) for i, g in enumerate(genomes)])
            optimizer.tell(genomes, [None] * len(genomes))
        recommended = optimizer.recommend()
        assert recommended == canonical(dims, recommended or ())

    def test_flat_scores_and_duplicates_are_survived(self, dims: tuple[Dim, ...]) -> None:
        optimizer = self.make(dims)
        for batch in range(5):
            genomes = optimizer.ask(optimizer.population, batch)
            optimizer.tell(genomes, [0.5] * len(genomes))
            optimizer.tell([genomes[0]] * len(genomes), [float(i) for i in range(len(genomes))])
        assert optimizer.ask(4, 9) == [canonical(dims, g) for g in optimizer.ask(4, 9)]

    def test_batches_of_any_size_are_survived(self, dims: tuple[Dim, ...]) -> None:
        optimizer = self.make(dims)
        optimizer.tell([], [])
        for batch, count in enumerate((1, 2, 3, 50, 1)):
            genomes = optimizer.ask(count, batch)
            optimizer.tell(genomes, [score(genome) for genome in genomes])
        assert len(optimizer.ask(4, 9)) == 4

    def test_only_finite_scores_may_be_told(self) -> None:
        genomes = self.make().ask(2, 0)
        for bad in ([0.0, float("nan")], [0.0, float("inf")], [0.0]):
            with pytest.raises(ValueError, match=r"finite|scores"):
                self.make().tell(genomes, bad)

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
            pytest.skip("a baseline does not learn")
        dims = [Dim(f"x{axis}", "real") for axis in range(6)]
        losses = []
        for seed in range(3):
            optimizer, tells = self.search(dims, batches=9, seed=seed, lag=lag)
            evaluations = sum(len(genomes) for genomes, _ in tells)
            uniform = optimizers.make("random", dims, seed=seed).ask(evaluations, 0)
            best_random = max(map(score, [*known_recipes(dims), *uniform]))
            found = optimizer.recommend()
            assert found is not None
            losses.append(score(found) / best_random)
        assert sorted(losses)[1] < 1.0, f"loss relative to random search, by seed: {losses}"
