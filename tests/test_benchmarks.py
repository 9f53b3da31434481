"""The benchmark of searches: every tier at its tiniest, and what its figures are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.run.spec import load_run
from tests.benchmarks.scale.slots import busy
from tests.benchmarks.search import analytic, replay
from tests.benchmarks.search.controls import ANYTIME, CONTROLS
from tests.benchmarks.search.driving import Entry, drive
from tests.benchmarks.search.families import noisy
from tests.benchmarks.search.frontier_known import GRIDS, arguments, neighbours, points
from tests.benchmarks.search.frontier_picture import picture
from tests.benchmarks.search.frontier_rows import FLOORS, Reached, Scale, Winners, best
from tests.benchmarks.search.frontier_rows import tables as frontier_tables
from tests.benchmarks.search.ground import Ground, Point, hypervolume
from tests.benchmarks.search.landscapes import Landscape
from tests.benchmarks.search.results import Row, load, paired, reached, save, tables
from tests.benchmarks.search.run import ITEMS, PRICED, Plan, run

LANDSCAPE = Landscape(0)
CMA = "cma, sigma0 .1"


def middle(ground: Ground, form: str) -> Point:
    genes = np.linspace(0.3, 0.6, len(ground.dims(form)))
    return Point(form, tuple(genes.tolist()))


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("form", ["groups", "places", "mixed"])
def test_a_landscapes_slope_is_the_derivative_of_its_loss(seed: int, form: str) -> None:
    ground, step = Landscape(seed), 1e-5
    point, items = middle(ground, form), ground.draw(20, "slope")
    slopes = ground.slope(point, items)
    for axis, dim in enumerate(ground.dims(form)):
        if dim.kind != "real":
            assert not slopes[:, axis].any()
    axis = 3
    losses = []
    for sign in (1, -1):
        genes = list(point.genome)
        genes[axis] += sign * step
        losses.append(ground.loss(Point(form, tuple(genes)), items))
    assert slopes[:, axis] == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-6)
    assert slopes[:, axis].any()


def test_answers_of_items_do_not_depend_on_who_else_is_asked() -> None:
    point = middle(LANDSCAPE, "groups")
    few, many = LANDSCAPE.draw(5, "x"), LANDSCAPE.draw(30, "x")
    assert set(few) <= set(many), "a larger draw only adds"
    everything = LANDSCAPE.answers(point, many)
    assert (LANDSCAPE.answers(point, few) == everything[np.isin(many, few)]).all()
    near = Point(point.form, tuple(gene + 0.01 for gene in point.genome))
    assert (LANDSCAPE.answers(near, many) == everything).mean() > 0.9, "common random numbers"


def test_landscapes_have_cliffs_room_above_known_recipes_and_truth_elsewhere() -> None:
    for seed in range(3):
        ground = Landscape(seed)
        known = {name: ground.true(point).mean() for name, point in ground.known().items()}
        far = Point("groups", (1.0,) * len(ground.dims("groups")))
        assert ground.true(far).mean() < 0.6 * max(known.values()), "it collapses beyond a norm"
        assert known["uniform"] > max(known[f"parent {k}"] for k in range(ground.parents))
        items = np.arange(len(ground.tasks))
        point = ground.known()["uniform"]
        seen = ground.scores(ground.answers(point, items), items).mean()
        assert seen != known["uniform"]
        assert seen == pytest.approx(known["uniform"], abs=0.05)


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_keep_to_their_budget_and_name_their_own_best(name: str) -> None:
    budget = 20 * ITEMS
    trace = CONTROLS[name](LANDSCAPE, 1, budget, ITEMS)
    assert 0.8 * budget < trace.spent <= budget
    items = [moment.items for moment in trace.moments]
    assert items == sorted(items)
    assert trace.answer(budget) == trace.moments[-1]
    assert 1 <= len(trace.front) <= 8
    again = CONTROLS[name](LANDSCAPE, 1, budget, ITEMS)
    assert again.moments == trace.moments, "the seed says it all"
    if name in ANYTIME:
        longer = CONTROLS[name](LANDSCAPE, 1, 2 * budget, ITEMS)
        assert longer.answer(0.8 * budget) == trace.answer(0.8 * budget)


def test_drivers_spend_what_they_are_given_and_climb() -> None:
    budget = 60 * ITEMS
    trace = drive(Entry("cma", options=(("sigma0", 0.1),)), LANDSCAPE, 0, budget, ITEMS)
    assert 0.9 * budget < trace.spent <= budget
    known = LANDSCAPE.known()["uniform"]
    end = trace.answer(budget)
    assert end is not None and end.claimed is not None
    assert LANDSCAPE.true(end.point).mean() > LANDSCAPE.true(known).mean() - 0.01


@pytest.mark.parametrize("kind", analytic.KINDS)
def test_analytic_functions_are_best_at_their_optimum(kind: str) -> None:
    ground = analytic.Analytic(kind, 3)
    cells = (ground._right + 0.5) / analytic.OPTIONS
    more = {"mixed": cells, "conditional": cells[:1]}.get(kind, cells[:0])
    best = Point("groups", (*ground._optimum.tolist(), *more.tolist()))
    assert ground.true(best)[0] == pytest.approx(1)
    assert max(ground.true(point)[0] for point in ground.known().values()) < 0.95
    away = ground.slope(Point("groups", (0.99,) * len(best.genome)), np.arange(400))[0]
    assert kind == "rastrigin" or (away[:3] > 0).all(), "the loss rises away from the optimum"


def test_replay_names_better_candidates_than_chance() -> None:
    matrix = replay.frozen()
    for name, policy in replay.POLICIES.items():
        found = []
        for seed in range(4):
            rows = replay.draw(matrix, seed)
            chosen, claimed = policy(matrix, rows, seed, 4000)
            assert chosen in rows
            assert 0 <= claimed <= 1
            found.append(matrix.truth[chosen] - np.quantile(matrix.truth[rows], 0.8))
        assert np.mean(found) > 0, name


def test_the_noisy_familys_noise_is_as_large_as_its_task_vectors(tmp_path: Path) -> None:
    from evomerge.checkpoint import Checkpoint, ModelRef

    run_yaml = noisy(tmp_path)
    spec = load_run(run_yaml)
    base = Checkpoint.open(ModelRef("embedded:base"))
    for name in ("chat", "sea"):
        clean = Checkpoint.open(ModelRef(f"embedded:{name}"))
        made = Checkpoint.open(spec.model(name))
        for key in (clean.names[1], clean.names[-2]):
            delta = clean.tensor(key).float() - base.tensor(key).float()
            noise = made.tensor(key).float() - clean.tensor(key).float()
            assert noise.norm() / delta.norm() == pytest.approx(1, abs=0.1), "rounded as stored"
            cosine = (noise * delta).sum() / (noise.norm() * delta.norm())
            assert abs(cosine) < 0.2
    stamp = run_yaml.stat().st_mtime_ns
    assert noisy(tmp_path).stat().st_mtime_ns == stamp, "made once"


def test_hypervolume() -> None:
    assert hypervolume([(1, 2), (2, 1), (0.5, 0.5)], (0, 0)) == pytest.approx(3)
    assert hypervolume([(1, 1, 1), (2, 2, 0.5), (-1, 9, 9)], (0, 0, 0)) == pytest.approx(2.5)
    assert hypervolume([], (0, 0)) == 0


def test_a_finished_seed_is_not_run_again_and_rows_make_tables(tmp_path: Path) -> None:
    plan = Plan(
        out=tmp_path,
        tiers=("t0", "t1", "t3"),
        seeds=(0, 1),
        evaluations=(30,),
        contestants=(CMA, "random", "best observed"),
        kinds=("sphere",),
    )
    rows = run(plan)
    assert {(row.tier, row.contestant) for row in rows} == {
        *(("t0", CMA), ("t0", "random"), ("t1", CMA), ("t1", "random")),
        ("t3", "best observed"),
    }
    kept = tmp_path / "t1" / "landscapes" / "seed-1" / "random.json"
    changed = json.loads(kept.read_text())
    changed[0]["true"] = 0.1234
    kept.write_text(json.dumps(changed))
    again = run(plan)
    assert [row.true for row in again if row.tier == "t1" and row.contestant == "random"][1] == (
        0.1234
    )
    wider = run(replace(plan, evaluations=(30, 40)))
    assert len(wider) == 2 * len(rows)
    save(rows, tmp_path / "rows.jsonl")
    loaded = load(tmp_path / "rows.jsonl")
    assert len(loaded) == len(rows)
    text = tables(loaded)
    assert "**T1, simulated landscapes: landscapes, 30 evaluations** (2 seeds)" in text
    assert f"| {CMA} - this |" in text


def test_paired_intervals_and_when_the_hero_passes() -> None:
    def row(name: str, seed: int, true: float, curve: tuple[float, ...] = ()) -> Row:
        return Row("t1", "x", name, seed, 10, 900, {}, true, curve=curve)

    noise = [0.0, 0.3, 0.1]
    rows = [row("a", seed, each + 0.02, (each, each + 0.015)) for seed, each in enumerate(noise)]
    rows += [row("b", seed, each + 0.01) for seed, each in enumerate(noise)]
    mean, half, count = paired(rows, "a", "b")
    assert (mean, count) == (pytest.approx(0.01), 3)
    assert half == pytest.approx(0, abs=1e-9), "the seeds' own level cancels"
    assert reached(rows, "a", "b") == 1.0


FRONTIER = [
    Reached("parent", {"model": "chat"}, 1.0, 0.5, 0.4, 0.2),
    Reached("parent", {"model": "sea"}, 0.5, 0.8, 0.2, 0.0),
    Reached("widen", {"a": 1}, 0.98, 0.6, 0.5, 0.3),
    Reached("widen", {"a": 2}, 0.97, 0.7, 0.5, 0.2),
    Reached("search", {"rows": False, "floor": 98.0, "seed": 0}, 0.98, 0.76, 0.7, 0.6, 6800),
    Reached("search", {"rows": False, "floor": 98.0, "seed": 1}, 0.97, 0.76, 0.8, 0.6, 6900),
]


def test_a_floor_is_a_share_of_what_chat_has_and_leads_are_at_a_winners_own() -> None:
    scale, (winners,) = Scale.of(FRONTIER), Winners.of(FRONTIER)
    known = [row for row in FRONTIER if row.source == "widen"]
    at_floor = {floor: best(known, scale, floor, scale.kept) for floor in FLOORS}
    assert at_floor[98.0] == FRONTIER[2], "exactly at the floor holds it"
    assert at_floor[97.0] == FRONTIER[3] and at_floor[99.0] is None
    assert best(known, scale, 97.0, scale.combined) == FRONTIER[2], (
        "each value has a best of its own"
    )
    assert winners.held(scale) == 1
    mean, half = winners.lead([*FRONTIER[:2], *known], scale, scale.kept)
    assert mean == pytest.approx(((76 - 60) + (76 - 70)) / 2 / 0.8)
    assert half > 0
    text = frontier_tables(FRONTIER)
    assert "| WIDEN | 2 | 87.5 / 0.400 |" in text
    assert "| 98 % | 1 of 2 |" in text


def test_the_frontiers_picture_is_a_drawing_with_every_mark() -> None:
    from xml.etree import ElementTree

    drawn = list(ElementTree.fromstring(picture(FRONTIER)).iter())
    circles = [each for each in drawn if each.tag.endswith("circle")]
    assert len(circles) == 2 + 1, "the searches' mean in each panel, and in the legend"
    lines = [each for each in drawn if each.tag.endswith("polyline")]
    assert len(lines) == 2, "the stairs of the only method"


@pytest.mark.parametrize("method", GRIDS)
def test_known_methods_settings_are_valid_and_finer_ones_are_new(method: str) -> None:
    from evomerge import methods

    models = ("chat", "sea")
    for grid in GRIDS[method]:
        coarse = list(points(method, grid, models))
        finer = list(neighbours(method, grid, coarse[0], 0.5))
        for settings in [*coarse, *finer]:
            assert not list(methods.get(method).problems(arguments(settings), models))
        assert finer and coarse[0] not in finer


@pytest.mark.slow
def test_real_models_controls_and_fine_tuning_are_judged_alike(
    run_folder: Callable[..., Path], small: dict[str, Any], tmp_path: Path
) -> None:
    fitness = {**small["fitness"], "objectives": {"sums": {"task": "sums"}}}
    source = run_folder(**{**small, "lag": 1, "fitness": fitness}) / "run.yaml"
    plan = Plan(
        out=tmp_path / "out",
        tiers=("t2",),
        seeds=(0,),
        evaluations=(12,),
        families=("embedded",),
        cache=tmp_path / "truths",
        items=6,
        source=source,
        contestants=(
            *PRICED,
            *("known recipes", "mergekit-evolve", "mergenetic", "fine-tuning, 0.001"),
        ),
    )
    rows = {row.contestant: row for row in run(plan)}
    assert set(plan.contestants) - set(rows) <= {"auto"}, "where there is no such optimizer"
    price = next(rows[name] for name in PRICED if name in rows)
    assert price.held_out is not None and price.claimed is not None
    for name in ("known recipes", "mergekit-evolve", "mergenetic"):
        assert rows[name].items <= price.items
        assert 0 <= rows[name].true <= 1
    assert rows["fine-tuning, 0.001"].held_out is not None
    truths = list((tmp_path / "truths").glob("*/*.json"))
    assert truths, "answers are kept by recipe"
    assert tables(list(rows.values())).count("\n| ") == 2 + len(rows)


def test_simulated_slots_are_as_busy_as_what_is_under_way_and_the_driver_allow() -> None:
    assert busy(4, 4, 1, 0.0, sigma=0.0) == pytest.approx(1), "all take as long as each other"
    assert busy(8, 4, 1, 0.0, sigma=0.0) == pytest.approx(0.5), "half of them are asked nothing"
    shares = [busy(16, 8, lag, 0.0, rounds=100) for lag in (2, 4, 8, 16)]
    assert shares == sorted(shares) and shares[0] < 0.5 < shares[-1], "stragglers hold up others"
    assert busy(16, 8, 64, 0.25, sigma=0.0) == pytest.approx(4 / 16, rel=0.05), "one at a time"
