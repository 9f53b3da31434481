"""Importance: genes that matter are told from those that do not, and nothing is claimed of noise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.inference.importance import LEAST, importance


def drawn(count: int, genes: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random((count, genes))


def test_the_gene_that_moves_the_score_stands_out() -> None:
    x = drawn(120, 6)
    noise = np.random.default_rng(1).normal(0, 0.1, 120)
    found = importance(x.tolist(), (2 * x[:, 2] - (x[:, 4] - 0.5) ** 2 * 6 + noise).tolist(), "t")
    assert found is not None and found.count == 120
    assert found.explained.value > 0.85
    clear = [gene for gene, each in enumerate(found.genes) if each.low > 0]
    assert clear == [2, 4], "one acts in a line, the other by a hump in the middle"
    assert all(abs(found.genes[gene].value) < 0.02 for gene in (0, 1, 3, 5))


def test_a_choice_has_a_level_for_each_value() -> None:
    x = drawn(90, 4)
    x[:, 1] = np.floor(4 * x[:, 1]) / 4
    found = importance(x.tolist(), np.sin(12 * x[:, 1]).tolist(), "t")
    assert found is not None and found.explained.value > 0.95
    assert [gene for gene, each in enumerate(found.genes) if each.low > 0] == [1]


def test_noise_explains_nothing() -> None:
    found = importance(
        drawn(80, 5).tolist(), np.random.default_rng(2).normal(size=80).tolist(), "t"
    )
    assert found is not None
    assert found.explained.low < 0 and found.explained.value < 0.1


def test_more_genes_than_candidates_do() -> None:
    x = drawn(40, 60)
    found = importance(x.tolist(), (3 * x[:, 7]).tolist(), "t")
    assert found is not None
    values = [each.value for each in found.genes]
    assert max(range(60), key=values.__getitem__) == 7


def test_the_same_draws_for_the_same_key() -> None:
    x = drawn(30, 3).tolist()
    y = [row[0] for row in x]
    assert importance(x, y, "a") == importance(x, y, "a") != importance(x, y, "b")


@pytest.mark.parametrize("scores", [[0.5] * LEAST, [0.1 * n for n in range(LEAST - 1)]])
def test_equal_scores_and_few_say_nothing(scores: list[float]) -> None:
    assert importance(drawn(len(scores), 2).tolist(), scores, "t") is None
