"""Estimators by simulation: no bias, honest intervals, exact where everything is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from evomerge import estimators, seeds
from evomerge.errors import InputError
from evomerge.estimators import Fitted, Known, Sample
from evomerge.estimators.design import Design
from evomerge.estimators.irt import fit_items
from evomerge.estimators.logistic import sigmoid

UNBIASED = [name for name in estimators.names() if " " not in name]
SIZE, ASKED, DRAWS = 400, 40, 300


@dataclass(frozen=True)
class World:
    """An archive, and children that are better than all of it."""

    known: Known
    responses: np.ndarray
    margins: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        return self.responses.mean(1)

    def sample(self, items: np.ndarray) -> Sample:
        return Sample(items, self.responses[:, items], self.margins[:, items])

    def estimate(self, fitted: Fitted, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and errors on as many samples, ``[draws, children]``."""
        found = [fitted.estimate_many(self.sample(self.draw(n))) for n in range(draws)]
        return np.array([f.values for f in found]), np.array([f.errors for f in found])

    def draw(self, *key: seeds.Part) -> np.ndarray:
        """A tenth of each stratum."""
        mixed = seeds.generator("draw", *key).permutation(SIZE)
        return np.concatenate(
            [mixed[self.known.strata[mixed] == code][: ASKED // 4] for code in range(4)]
        )


@pytest.fixture(scope="module")
def world() -> World:
    """Two skills, four strata of different difficulty, margins of a few nats."""
    rng = seeds.generator("world")
    strata = np.repeat(np.arange(4), SIZE // 4)
    skill = rng.uniform(0.2, 1.5, (SIZE, 2))
    difficulty = rng.normal(0, 1, SIZE) + strata - 1.0
    ability = np.vstack([rng.normal(0, 0.5, (12, 2)), rng.normal(1.2, 0.2, (6, 2))])
    noise = rng.logistic(0, 0.5, (SIZE, 1)) + rng.logistic(0, 0.3, (SIZE, 18))
    margins = (ability @ skill.T - difficulty) * 2 + noise.T
    responses = (margins > 0).astype(float)
    made = World(Known(responses[:12], strata, margins[:12]), responses[12:], margins[12:])
    assert made.truth.min() > made.known.responses.mean(1).max()  # extrapolation
    return made


@pytest.fixture(scope="module")
def small(world: World) -> World:
    """The same with an archive of four."""
    return replace(world, known=world.known.without(np.arange(4, 12)))


@pytest.mark.parametrize("name", UNBIASED)
def test_no_bias_and_honest_intervals(name: str, world: World) -> None:
    values, errors = world.estimate(estimators.get(name).fit(world.known), DRAWS)
    missed = values - world.truth
    assert abs(missed.mean()) < 4 * missed.mean(1).std() / DRAWS**0.5
    # nearest neighbours jump with the sample, which their residuals do not tell
    lowest = 0.84 if name == "anchors" else 0.92
    assert lowest < np.mean(np.abs(missed) < 1.96 * errors) < 0.98


def test_differences_of_children_that_share_a_sample(world: World) -> None:
    fitted = estimators.get("margins").fit(world.known)
    held = []
    for number in range(DRAWS):
        found = fitted.estimate_many(world.sample(world.draw(number)))
        gap = found.difference(0, 1)
        low, high = gap.interval()
        held.append(low <= world.truth[0] - world.truth[1] <= high)
        assert gap.error < found.errors[0] + found.errors[1]
    assert 0.9 < np.mean(held) <= 0.99


def test_prediction_saves_items(world: World) -> None:
    def error(name: str) -> float:
        values, _ = world.estimate(estimators.get(name).fit(world.known), 100)
        return float(np.mean((values - world.truth) ** 2))

    random = world.responses.var(1).mean() / ASKED * (1 - ASKED / SIZE)
    stratified, regression, margins = map(error, ("stratified", "regression", "margins"))
    assert margins < 0.6 * regression < 0.6 * stratified < 0.6 * random


def test_models_alone_are_biased_where_children_beat_the_archive(world: World) -> None:
    def bias(name: str) -> float:
        values, _ = world.estimate(estimators.get(name).fit(world.known), 50)
        return float((values - world.truth).mean())

    plain, composite, unbiased = map(bias, ("p_irt plain", "p_irt composite", "p_irt"))
    assert plain < -0.04
    assert plain + 0.01 < composite < unbiased - 0.01
    assert abs(unbiased) < 0.015


@pytest.mark.parametrize("name", estimators.names())
def test_exact_when_every_item_is_asked(name: str, small: World) -> None:
    items = seeds.generator("all").permutation(SIZE)
    found = estimators.get(name).fit(small.known).estimate_many(small.sample(items))
    assert found.values == pytest.approx(small.truth, abs=1e-12)
    assert found.errors == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", estimators.names())
def test_one_is_as_one_of_many(name: str, small: World) -> None:
    fitted = estimators.get(name).fit(small.known)
    sample = small.sample(small.draw("one"))
    many = fitted.estimate_many(sample)
    assert sample.margins is not None
    one = fitted.estimate(Sample(sample.items, sample.responses[2], sample.margins[2]))
    assert (one.value, one.error) == pytest.approx((many.values[2], many.errors[2]), abs=1e-9)


@pytest.mark.parametrize("name", ["mean", "stratified", "control_variate", "regression"])
def test_shift_and_scale(name: str, world: World) -> None:
    """Accuracy in per cent, or nats from another zero, is the same estimate."""

    def moved(responses: np.ndarray) -> np.ndarray:
        return 100 * responses - 7

    items, strata = world.draw("moved"), world.known.strata
    fitted = estimators.get(name).fit(Known(world.known.responses, strata))
    here = fitted.estimate_many(Sample(items, world.responses[:, items]))
    fitted = estimators.get(name).fit(Known(moved(world.known.responses), strata))
    there = fitted.estimate_many(Sample(items, moved(world.responses[:, items])))
    assert there.values == pytest.approx(moved(here.values))
    assert there.errors == pytest.approx(100 * here.errors)


def test_margins_of_another_metric_are_not_used(world: World) -> None:
    other = seeds.generator("other").normal(size=world.known.responses.shape)
    known = Known(world.known.responses, world.known.strata, other)
    sample = world.sample(world.draw("other"))
    margins = estimators.get("margins").fit(known).estimate_many(sample)
    regression = estimators.get("regression").fit(known).estimate_many(sample)
    assert margins.values == pytest.approx(regression.values)


@pytest.mark.parametrize("name", estimators.names())
def test_next_to_nothing_is_known(name: str, small: World) -> None:
    for models, asked in ((0, 1), (0, 5), (1, 2), (2, 1), (2, 5)):
        known = Known(small.known.responses[:models], small.known.strata)
        fitted = estimators.get(name).fit(known)
        for responses in (np.ones(asked), np.arange(asked) % 2.0):
            found = fitted.estimate(Sample(np.arange(asked) * 7, responses))
            assert np.isfinite([found.value, found.error]).all()
            assert found.error > 0.05 or " " in name  # five answers never tell a mean


def test_equal_answers_are_no_certainty() -> None:
    known = Known(np.zeros((0, 500)), np.zeros(500, int))
    sample = Sample(np.arange(20), np.ones((2, 20)))
    found = estimators.get("stratified").fit(known).estimate_many(sample)
    assert found.values.tolist() == [1, 1]
    assert 0.07 < found.errors[0] * 1.96 < 0.17  # Clopper and Pearson's bound is 0.83
    assert 0.07 < found.difference(0, 1).error * 1.96 < 0.17


def test_stratified_mean_by_hand() -> None:
    strata = np.array([0] * 6 + [1] * 2 + [2] * 4)
    items = np.array([0, 1, 2, 6, 8, 9])  # stratum 1 has one item: collapsed with stratum 2
    design = Design(strata, items)
    assert design.size.tolist() == [6, 6]
    assert design.taken.tolist() == [3, 3]
    y = np.array([[1.0, 0, 1, 0, 0, 1]])
    found = estimators.get("stratified").fit(Known(np.zeros((0, 12)), strata))
    assert found.estimate(Sample(items, y[0])).value == pytest.approx(0.5 * 2 / 3 + 0.5 * 1 / 3)
    assert design.covariance(y) == pytest.approx(2 * 0.5**2 * (1 - 3 / 6) * (1 / 3) / 3)


def test_folds_are_random_and_even() -> None:
    items = np.arange(0, 80, 2)
    fold = Design(np.repeat([0, 1], 40), items).fold
    assert np.bincount(fold).tolist() == [4] * 10
    assert np.bincount(fold[:20]).tolist() == [2] * 10
    assert len({tuple(fold[n : n + 10]) for n in range(0, 40, 10)}) == 4


def test_item_response_parameters_are_recovered() -> None:
    rng = seeds.generator("2pl")
    a, b = rng.uniform(0.4, 2.0, 300), rng.normal(0, 1, 300)
    theta = rng.normal(0, 1, 60)
    chance = sigmoid(np.outer(theta, a) - b)
    fitted = fit_items((rng.random(chance.shape) < chance).astype(float), dimensions=1)
    assert np.corrcoef(fitted.b, b)[0, 1] > 0.93
    assert np.corrcoef(fitted.a[:, 0], a)[0, 1] > 0.7
    assert np.corrcoef(fitted.theta[:, 0], theta)[0, 1] > 0.98
    shares = fit_items(chance, dimensions=1)  # continuous responses carry more
    assert np.corrcoef(shares.a[:, 0], a)[0, 1] > 0.97
    assert np.sqrt(np.mean((shares.probability(shares.theta) - chance) ** 2)) < 0.03


def test_item_response_models_refuse_nats(world: World) -> None:
    with pytest.raises(InputError, match=r"between 0 and 1.*'regression'"):
        estimators.get("p_irt").fit(Known(world.margins, world.known.strata))


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="did you mean 'regression'"):
        estimators.get("regresion")
    with pytest.raises(InputError, match="estimator: unknown name 'mean plain'"):
        estimators.get("mean plain")
