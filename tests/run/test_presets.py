"""The shipped searches for a front and under a floor, with a small budget, end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge import config, merge
from evomerge.cli import main
from evomerge.commands.check import check
from evomerge.commands.score import score_model
from evomerge.commands.search import search
from evomerge.recipe import Recipe
from evomerge.record.record import Record
from evomerge.report.slider import FILE, Slider

ROOT = Path(__file__).parents[2]
Make = Callable[[str], Path]


@pytest.fixture
def job(tmp_path: Path) -> Make:
    """The shipped job of a name, with a budget of seconds."""

    def make(name: str) -> Path:
        content = config.read(ROOT / "runs" / name / "run.yaml").plain
        fitness = config.read(ROOT / "fitness" / Path(content["fitness"]).name).plain
        fitness["include"] = [str(ROOT / "fitness" / folder) for folder in fitness["include"]]
        fitness["items"] = {"search": 40, "select": 60, "report": 60, "candidate": [10, 20]}
        space = str(ROOT / "search_spaces" / Path(content["space"]).name)
        content |= {"space": space, "fitness": "fitness.yaml", "budget": {"evaluations": 36}}
        content["optimizer"]["population"] = 12
        (tmp_path / "fitness.yaml").write_text(config.dump(fitness))
        (tmp_path / "run.yaml").write_text(config.dump(content))
        return tmp_path

    return make


@pytest.mark.slow
def test_three_recipes_of_the_front_reproduce_their_figures(job: Make, tmp_path: Path) -> None:
    folder = job("demo-pareto")
    result = search(folder)
    out = tmp_path / "front"
    assert main(["export", str(folder), "--pareto", str(out)]) == 0
    slider = Slider.load(out / FILE)
    assert slider.objectives == ("chat_en", "plain_sea", "asked_sea")
    recipes = sorted(out.glob("candidate-*.yaml"))
    assert len(recipes) >= 3, "the front has three members"
    rows = {row.candidate: row for row in result.table.rows}
    for path in recipes[:3]:
        recipe = Recipe.load(path)
        merged = merge(recipe, tmp_path / path.stem)
        found = score_model(str(merged), folder / "fitness.yaml", "report", again=True)
        row = rows[recipe.provenance["candidate"]]
        [stop] = [stop for stop in slider.stops if stop.recipe == path]
        for name, interval in row.objectives.items():
            assert found["objectives"][name]["value"] == interval.value == stop.values[name].value


@pytest.mark.slow
def test_a_floor_is_confirmed_on_select_and_told_on_report(job: Make) -> None:
    folder = job("demo-constrained")
    fitness = folder / "fitness.yaml"
    fitness.write_text(fitness.read_text().replace("confidence: 0.7", "confidence: 0.75"))
    result = search(folder)
    record, table = Record(folder), result.table
    verdict = record.history.verdicts[-1]
    assert verdict.floors[table.winner] == table.trust.floors
    assert verdict.confidence == table.trust.confidence == 0.75
    best = max(chance for id, chance in verdict.floors.items())
    assert table.trust.floors >= min(0.75, best), "who is sure goes before who scores higher"
    row = table.winner_row
    assert row is not None
    [floor] = row.floors
    chat = next(row for row in table.rows if row.label == "chat").objectives["chat_en"].value
    assert (floor.objective, floor.floor) == ("chat_en", "98% of chat")
    assert floor.bound == pytest.approx(0.98 * chat)
    assert floor.margin.value == pytest.approx(row.objectives["chat_en"].value - floor.bound)
    assert not next(row for row in table.rows if row.label == "sea").floors[0].held
    report = (folder / "report.md").read_text()
    assert (
        "the winner's floors: " in report
        and "resamples; asked: 75%)" in report
        and "FLOOR MISSED: sea: chat_en" in report
    )
    assert "floor held: " in report or "FLOOR MISSED: winner: " in report
    bound = 0.98 * record.history.references(0)["chat"]["chat_en"]
    words = "floor: chat_en: at least 98% of chat's (it may lose 2 percent)"
    assert f"{words}: {bound:.3f} on the search items" in check(folder)
