"""Reduced suites: anchors that stand for all items, and an error that fresh models confirm."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge import seeds
from evomerge.errors import InputError
from evomerge.estimators.logistic import sigmoid
from evomerge.estimators.reduction import reduce

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


def test_no_bias_whatever_the_model() -> None:
    """Few and unlike models choose the items, and still every item has the same chance."""
    known = (margins(3, "few") > 0).astype(float)
    new = seeds.generator("unlike").random((5, ITEMS)) ** np.arange(1, 6)[:, None]
    made = [reduce({"acc": known}, STRATA, 20, key) for key in range(60)]
    missed = np.array([new[:, each.items] @ each.weights - new.mean(1) for each in made])
    assert np.abs(missed.mean(0) / missed.std(0)).max() < 4 / 60**0.5
    chosen = np.bincount(np.concatenate([each.items for each in made]), minlength=ITEMS)
    assert chosen.max() < 15  # 4 expected


def test_the_expected_error_is_that_of_fresh_models() -> None:
    known, fresh = margins(MODELS, "known"), margins(200, "fresh")
    right = (known > 0).astype(float)
    made = reduce({"acc": right, "soft": sigmoid(known)}, STRATA, 40, margins=known)
    assert len(set(made.items)) == 40
    assert made.weights.sum() == pytest.approx(1)
    for name, responses in (("acc", fresh > 0), ("soft", sigmoid(fresh))):
        error = made.errors[name]
        missed = responses[:, made.items] @ made.weights - responses.mean(1)
        assert 0.5 < error.size / np.sqrt(np.mean(missed**2)) < 2
        assert error.interval[0] < error.size < error.interval[1]
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
