"""What every estimator must hold to, as tests: subclass and name it.

class TestMine(EstimatorContract):
    estimator = "mine"      # in any of its forms, as a fitness file names it; a plugin's entry point counts

The laws are tried in a world of two skills whose candidates beat every model of the archive, as those do
that a search looks for. (``testing.matrix`` compares estimators on real answers.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge import estimators, seeds
from evomerge.estimators import Fitted, Known, Sample

SIZE, ASKED, DRAWS = 400, 40, 300  # items, of which so many are asked, so many times

Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """An archive, and children that are better than all of it: responses ``[children, items]``."""

    known: Known
    responses: Array
    margins: Array

    @classmethod
    def make(cls) -> World:
        """Two skills, four strata of different difficulty, margins of a few nats."""
        rng = seeds.generator("world")
        strata = np.repeat(np.arange(4), SIZE // 4)
        skill = rng.uniform(0.2, 1.5, (SIZE, 2))
        difficulty = rng.normal(0, 1, SIZE) + strata - 1.0
        ability = np.vstack([rng.normal(0, 0.5, (12, 2)), rng.normal(1.2, 0.2, (6, 2))])
        noise = rng.logistic(0, 0.5, (SIZE, 1)) + rng.logistic(0, 0.3, (SIZE, 18))
        margins = (ability @ skill.T - difficulty) * 2 + noise.T
        responses = (margins > 0).astype(float)
        made = cls(Known(responses[:12], strata, margins[:12]), responses[12:], margins[12:])
        assert made.truth.min() > made.known.responses.mean(1).max()  # extrapolation
        return made

    @property
    def small(self) -> World:
        """The same with an archive of four."""
        return replace(self, known=self.known.without(np.arange(4, 12)))

    @property
    def truth(self) -> Array:
        """Means over all items, ``[children]``."""
        found: Array = self.responses.mean(1)
        return found

    def sample(self, items: NDArray[np.int64]) -> Sample:
        """Every child's answers to ``items``."""
        return Sample(items, self.responses[:, items], self.margins[:, items])

    def estimate(self, fitted: Fitted, draws: int) -> tuple[Array, Array]:
        """Values and errors on as many samples, ``[draws, children]``."""
        found = [fitted.estimate_many(self.sample(self.draw(n))) for n in range(draws)]
        return np.array([f.values for f in found]), np.array([f.errors for f in found])

    def draw(self, *key: seeds.Part) -> NDArray[np.int64]:
        """A tenth of each stratum."""
        mixed = seeds.generator("draw", *key).permutation(SIZE)
        of_stratum = [mixed[self.known.strata[mixed] == code] for code in range(4)]
        return np.concatenate([items[: ASKED // 4] for items in of_stratum])


_world = cache(World.make)


class EstimatorContract:
    """Laws of ``Estimator``.

    Attributes:
        estimator: its name.
        biased: it trusts a model of the items, which candidates that beat the archive break: neither bias
            nor intervals are tried, nor that little data is no certainty.
        least: the least part of 95 % intervals that hold the truth.
    """

    estimator: ClassVar[str]
    biased: ClassVar[bool] = False
    least: ClassVar[float] = 0.92

    @pytest.fixture
    def world(self) -> World:
        return _world()

    def fit(self, known: Known) -> Fitted:
        """To an archive."""
        return estimators.get(self.estimator).fit(known)

    def test_no_bias_and_honest_intervals(self, world: World) -> None:
        if self.biased:
            pytest.skip("it trusts its model")
        values, errors = world.estimate(self.fit(world.known), DRAWS)
        missed = values - world.truth
        assert abs(missed.mean()) < 4 * missed.mean(1).std() / DRAWS**0.5
        assert self.least < np.mean(np.abs(missed) < 1.96 * errors) < 0.98

    def test_exact_when_every_item_is_asked(self, world: World) -> None:
        items = seeds.generator("all").permutation(SIZE)
        found = self.fit(world.small.known).estimate_many(world.sample(items))
        assert found.values == pytest.approx(world.truth, abs=1e-12)
        assert found.errors == pytest.approx(0, abs=1e-12)

    def test_one_is_as_one_of_many(self, world: World) -> None:
        fitted = self.fit(world.small.known)
        sample = world.sample(world.draw("one"))
        many = fitted.estimate_many(sample)
        assert sample.margins is not None
        one = fitted.estimate(Sample(sample.items, sample.responses[2], sample.margins[2]))
        assert (one.value, one.error) == pytest.approx((many.values[2], many.errors[2]), abs=1e-9)

    def test_the_same_sample_gives_the_same_estimate(self, world: World) -> None:
        sample = world.sample(world.draw("again"))
        first, second = (self.fit(world.small.known).estimate_many(sample) for _ in range(2))
        assert np.array_equal(first.values, second.values)
        assert np.array_equal(first.covariance, second.covariance)

    def test_next_to_nothing_is_known(self, world: World) -> None:
        for models, asked in ((0, 1), (0, 5), (1, 2), (2, 1), (2, 5)):
            fitted = self.fit(Known(world.known.responses[:models], world.known.strata))
            for responses in (np.ones(asked), np.arange(asked) % 2.0):
                found = fitted.estimate(Sample(np.arange(asked) * 7, responses))
                assert np.isfinite([found.value, found.error]).all()
                assert found.error > 0.05 or self.biased, "a few answers never tell a mean"
