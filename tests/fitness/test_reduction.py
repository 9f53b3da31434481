"""Reduced suites: anchors that stand for all items, and an error that fresh models confirm."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge import seeds
from evomerge.errors import InputError
from evomerge.fitness.estimators.logistic import sigmoid
from evomerge.fitness.reduction import reduce

MODELS, ITEMS = 24, 300
STRATA = np.repeat([0, 1, 2], ITEMS // 3)


def margins(models: int, *key: seeds.Part) -> np.ndarray:
    """Of models that share two skills; nats."""
    items, rng = seeds.generator("items"), seeds.generator("models", *key)
    skill = items.uniform(0.5, 2, (ITEMS, 2)) * np.where(STRATA == 0, 0, 1)[:, None] + 0.3
    difficulty = items.normal(0, 2, ITEMS)
    return (
        rng.normal(0.5, 1, (models, 2)) @ skill.T - difficulty + rng.normal(0, 0.5, (models, ITEMS))
    )


def test_items_that_are_always_answered_alike_need_one_anchor() -> None:
    kinds = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]], float)
    share = np.array([10, 20, 30, 40])
    made = reduce({"acc": np.repeat(kinds, share, axis=1)}, np.zeros(100, int), 4)
    assert sorted(made.weights) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    new = np.repeat([1.0, 0, 1, 0], share)
    assert made.weights @ new[made.items] == pytest.approx(0.4)


def test_the_expected_error_is_that_of_fresh_models() -> None:
    known, fresh = margins(MODELS, "known"), margins(200, "fresh")
    right = (known > 0).astype(float)
    made = reduce({"acc": right, "soft": sigmoid(known)}, STRATA, 40, margins=known)
    assert len(set(made.items)) == 40
    assert made.weights.sum() == pytest.approx(1)
    for name, responses in (("acc", fresh > 0), ("soft", sigmoid(fresh))):
        error = made.errors[name]
        missed = responses[:, made.items] @ made.weights - responses.mean(1)
        low, high = error.interval
        assert low < np.sqrt(np.mean(missed**2)) < high
        assert error.size < 0.7 * error.random
        assert len(error.missed) == MODELS
    assert "from 24 models" in str(made.errors["acc"])


def test_strata_are_all_represented() -> None:
    known = margins(MODELS, "known")
    made = reduce({"acc": (known > 0).astype(float)}, STRATA, 12)
    assert np.bincount(STRATA[made.items], made.weights) == pytest.approx([1 / 3] * 3, abs=0.1)


def test_the_key_names_the_draw() -> None:
    right = (margins(MODELS, "known") > 0).astype(float)
    first, again, other = (reduce({"acc": right}, STRATA, 30, key) for key in (0, 0, 1))
    assert first.items.tolist() == again.items.tolist() != other.items.tolist()
    assert first.errors["acc"].missed.tolist() == again.errors["acc"].missed.tolist()


def test_what_is_no_reduction() -> None:
    right = np.ones((4, 10))
    with pytest.raises(InputError, match="2 models are too few"):
        reduce({"acc": right[:2]}, np.zeros(10, int), 3)
    with pytest.raises(InputError, match="10 of 10 items is no reduction"):
        reduce({"acc": right}, np.zeros(10, int), 10)
