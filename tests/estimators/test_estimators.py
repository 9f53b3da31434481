"""Estimators by simulation: no bias, honest intervals, exact where everything is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evomerge import estimators, seeds
from evomerge.errors import InputError
from evomerge.estimators import Known, Sample
from evomerge.estimators.design import Design
from evomerge.estimators.irt import fit_items
from evomerge.estimators.logistic import sigmoid
from evomerge.estimators.margins import Margins
from evomerge.estimators.regression import Regression
from evomerge.testing.estimators import ASKED, DRAWS, SIZE, EstimatorContract, World


@pytest.fixture(scope="module")
def world() -> World:
    return World.make()


@pytest.mark.parametrize("name", estimators.names())
class TestEveryForm(EstimatorContract):
    """Of those that come with evomerge."""

    @pytest.fixture(autouse=True)
    def named(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TestEveryForm, "estimator", name, raising=False)
        monkeypatch.setattr(TestEveryForm, "biased", " " in name)
        if name == "anchors":
            # nearest neighbours jump with the sample, which their residuals do not tell
            monkeypatch.setattr(TestEveryForm, "least", 0.84)


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


@pytest.mark.parametrize("predictor", [Regression, Margins])
def test_all_folds_at_once_are_one_after_the_other(
    predictor: type[Regression | Margins], world: World
) -> None:
    made, sample = predictor(world.known), world.sample(world.draw(0))
    fold = np.arange(len(sample.items)) % 7
    kept = np.unique(fold)[:, None] != fold
    together = made.predict_folds(sample, kept)
    assert together is not None
    for part, found in zip(kept, together, strict=True):
        np.testing.assert_allclose(found, made.predict(sample.take(part)), atol=1e-12)


@pytest.mark.parametrize("predictor", [Regression, Margins])
def test_all_that_are_left_out_at_once_are_one_after_the_other(
    predictor: type[Regression | Margins], world: World
) -> None:
    known, items = world.known, world.sample(world.draw(0)).items
    assert known.margins is not None
    each = [np.array([model]) for model in range(len(known.responses))]
    parts: Any = [predictor(known.without(out)) for out in each]
    answers = Sample(items, known.responses[:, items], known.margins[:, items])
    found = predictor.together(parts).predict(answers)  # type: ignore[union-attr]
    assert found is not None
    for part, out, row in zip(parts, each, found, strict=True):
        own = Sample(items, answers.responses[out], known.margins[out][:, items])
        np.testing.assert_allclose(row, part.predict(own)[0], atol=1e-10)


def test_what_cannot_be_told_at_once_is_told_one_by_one(world: World) -> None:
    margins = world.known.margins
    assert margins is not None
    holes = margins.copy()
    holes[0, 0] = np.nan
    known, sample = replace(world.known, margins=holes), world.sample(world.draw(0))
    parts = [Margins(known.without(np.array([model]))) for model in range(len(holes))]
    assert Margins.together(parts) is None
    whole = [Margins(world.known.without(np.array([model]))) for model in range(len(holes))]
    together = Margins.together(whole)
    assert together is not None
    assert together.predict(Sample(sample.items[:3], margins[:, sample.items[:3]])) is None
    assert Regression.together([Regression(world.known), Regression(known.without([0, 1]))]) is None  # type: ignore[arg-type]


def test_folds_that_lack_margins_are_predicted_one_by_one(world: World) -> None:
    sample = world.sample(world.draw(0))
    assert sample.margins is not None
    few = np.ones((1, len(sample.items)), bool)
    plain = Sample(sample.items, sample.responses)
    found = Margins(world.known).predict_folds(plain, few)
    assert found is not None
    np.testing.assert_allclose(found[0], Margins(world.known).predict(plain), atol=1e-12)
    holes = sample.margins.copy()
    holes[:, 0] = np.nan
    assert Margins(world.known).predict_folds(replace(sample, margins=holes), few) is None
    few[:, 3:] = False
    assert Margins(world.known).predict_folds(sample, few) is None


def test_item_response_models_refuse_nats(world: World) -> None:
    with pytest.raises(InputError, match=r"between 0 and 1.*'regression'"):
        estimators.get("p_irt").fit(Known(world.margins, world.known.strata))


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="did you mean 'regression'"):
        estimators.get("regresion")
    with pytest.raises(InputError, match="estimator: unknown name 'mean plain'"):
        estimators.get("mean plain")
