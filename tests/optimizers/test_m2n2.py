from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from evomerge.optimizers import Problem, Told, make
from evomerge.optimizers.m2n2 import M2N2, _Matrix
from evomerge.params import Dim, Genome
from evomerge.testing.optimizers import OptimizerContract

DIMS = tuple(Dim(f"x{axis}", "real") for axis in range(6))


def answered(genome: Genome, worths: Sequence[float | None], score: float | None = None) -> Told:
    row = {str(item): worth for item, worth in enumerate(worths) if worth is not None}
    mean = sum(row.values()) / len(row)
    return Told(genome, mean if score is None else score, answers={"th": row})


def made(**options: float) -> M2N2:
    optimizer = make("m2n2", Problem(DIMS), seed=0, options=options)
    assert isinstance(optimizer, M2N2)
    return optimizer


def at(gene: float) -> Genome:
    return (gene,) * len(DIMS)


class TestM2N2(OptimizerContract):
    optimizer = "m2n2"

    def test_fitness_shares_an_item_among_those_who_answer_it(self) -> None:
        told = [
            answered(at(0.1), [1, 1, 0]),
            answered(at(0.2), [1, 1, 0]),
            answered(at(0.3), [1, 0, 1]),
        ]
        matrix = _Matrix.of(told)
        expected = np.array([1 / 3 + 1 / 2, 1 / 3 + 1 / 2, 1 / 3 + 1])
        assert matrix.shares(1) * 3 == pytest.approx(expected)
        alone = matrix.shares(0)
        assert alone == pytest.approx([2 / 3] * 3), "without competition all score the same"

    def test_who_alone_answers_something_stays(self) -> None:
        strong = [answered(at(n / 10), [1, 1, 1, 0]) for n in range(5)]
        odd = answered(at(0.9), [0, 0, 0, 1])
        for alpha, stays in ((1, True), (0, False)):
            optimizer = made(archive=4, alpha=alpha)
            optimizer.tell(1, 0, [odd, *strong])
            assert len(optimizer._archive) == 4
            assert (odd in optimizer._archive) == stays

    def test_who_answers_what_the_other_does_not_attracts(self) -> None:
        told = [
            answered(at(0.1), [1, 1, 0, 0]),
            answered(at(0.2), [1, 1, 1, 0]),  # adds one
            answered(at(0.3), [0, 0, 1, 1]),  # adds two, one of them rare
            answered(at(0.4), [1, 0, 0, 0]),  # adds nothing
        ]
        matrix = _Matrix.of(told)
        attraction = matrix.attraction(1)[0]
        assert attraction[0] == attraction[3] == 0
        assert attraction[2] / attraction[1] == pytest.approx((1 / 2 + 1) / (1 / 2))

    def test_items_that_only_some_answered_are_fair(self) -> None:
        """Two that answer all they are asked are worth the same, whatever they were asked."""
        told = [answered(at(0.1), [1, 1, None, None]), answered(at(0.2), [None, None, 1, 1])]
        matrix = _Matrix.of(told)
        shares = matrix.shares(1)
        assert shares[0] == shares[1] > 0
        assert list(matrix.attraction(1)[0]) == [0, 0]

    def test_objectives_count_alike(self) -> None:
        few = {"th": {str(n): 1.0 for n in range(90)}, "en": {"a": 0.0}}
        one = {"th": {str(n): 0.0 for n in range(90)}, "en": {"a": 1.0}}
        matrix = _Matrix.of([Told(at(0.1), 0.0, answers=few), Told(at(0.2), 0.0, answers=one)])
        shares = matrix.shares(0)
        assert shares[0] == pytest.approx(shares[1])

    def test_a_child_is_split_between_its_parents(self) -> None:
        optimizer = made(sigma=0.0)
        optimizer.tell(1, 0, [answered(at(0.0), [1, 0]), answered(at(1.0), [0, 1])])
        children = [ask.genome for ask in optimizer.ask(60, 2)]
        splits = set()
        for child in children:
            values = list(dict.fromkeys(child))
            assert len(values) <= 2
            if len(values) == 2:
                assert sum(values) == pytest.approx(1), "w before the split, 1 - w after it"
                splits.add(child.index(values[1]))
        assert splits == {1, 2, 3, 4, 5}

    def test_newer_answers_of_a_genome_take_the_place_of_older(self) -> None:
        optimizer = made()
        optimizer.tell(1, 0, [answered(at(0.1), [1, None])])
        optimizer.tell(2, 1, [answered(at(0.1), [1, 0])])
        (member,) = optimizer._archive
        assert member.answers == {"th": {"0": 1, "1": 0}}

    def test_what_misses_a_floor_goes_first_and_has_no_children(self) -> None:
        optimizer = made(archive=2, sigma=0.0)
        missing = Told(at(0.9), 9.0, violation=0.1, answers={"th": {"0": 1.0, "1": 1.0}})
        optimizer.tell(1, 0, [missing, answered(at(0.1), [1, 0])])
        assert {genome for ask in optimizer.ask(20, 2) for genome in ask.genome} == {0.1}
        optimizer.tell(2, 1, [answered(at(0.2), [0, 1])])
        assert missing not in optimizer._archive

    def test_complementary_halves_are_put_together(self) -> None:
        """Items 0..2 want high genes in front, items 3..5 behind; each start has one half."""

        def told(genome: Genome) -> Told:
            return answered(genome, [float(gene > 0.75) for gene in genome])

        optimizer = make("m2n2", Problem(DIMS), seed=3)
        front, back = (0.9, 0.9, 0.9, 0.2, 0.2, 0.2), (0.2, 0.2, 0.2, 0.9, 0.9, 0.9)
        optimizer.tell(1, 0, [told(front), told(back)])
        for batch in range(2, 60):
            asked = optimizer.ask(optimizer.population, batch)
            optimizer.tell(batch, batch, [told(ask.genome) for ask in asked])
        (found,) = optimizer.recommend(1)
        assert told(found).score == 1
