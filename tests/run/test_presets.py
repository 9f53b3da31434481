"""The shipped searches for a front and under a floor, and the shipped spaces, with a small budget, end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge import config, merge
from evomerge.cli import main
from evomerge.commands.check import check
from evomerge.commands.score import score_model
from evomerge.commands.search import search
from evomerge.errors import ConfigError
from evomerge.recipe import Recipe
from evomerge.record.record import Record
from evomerge.report.slider import FILE, Slider
from evomerge.run.spec import load_run
from evomerge.space.start import Published

ROOT = Path(__file__).parents[2]
SPACES = ROOT / "search_spaces"
Make = Callable[[str], Path]
RunFolder = Callable[..., Path]


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


def models(family: dict[str, Path], **more: Any) -> dict[str, Any]:
    sources = {name: str(family[name]) for name in ("chat", "sea")}
    return {"base": str(family["base"]), "sources": sources, "tokenizer": "chat", **more}


@pytest.mark.parametrize("space", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_check_accepts_a_run_of_each_space(
    family: dict[str, Path], run_folder: RunFolder, space: Path
) -> None:
    roles = dict(zip(config.read(space).plain.get("roles", ()), ("chat", "sea"), strict=False))
    folder = run_folder(models=models(family, roles=roles), space=str(space))
    assert f"{folder}: ok" in check(folder)


def test_a_chain_of_merges(family: dict[str, Path], run_folder: RunFolder, small: Any) -> None:
    """A stage's winner, as exported, is a source of the next stage."""
    space = {**config.read(SPACES / "sealion_chain.yaml").plain}
    first = run_folder("first", **{**small, "space": space})
    search(first)
    stage = first.parent / "stage.yaml"
    assert main(["export", str(first), "-o", str(stage)]) == 0
    given = models(family)
    given["sources"]["stage"] = str(stage)
    second = run_folder("second", models=given, space=space)
    assert any(line.startswith("models: ") and "stage = " in line for line in check(second))
    starts = load_run(second).space.start
    assert [each.name for each in starts if isinstance(each, Published)] == [
        "DARE-TIES",
        "Consensus-TA",
    ]


def test_a_soup_knows_what_its_models_lose(run_folder: RunFolder, small: Any) -> None:
    """LM-Cocktail's weights come of what base and parents scored, in the order of the journal."""
    space = {
        **config.read(SPACES / "soup.yaml").plain,
        "start": [
            *config.read(SPACES / "soup.yaml").plain["start"],
            {
                "name": "by bits",
                "recipe": {"method": "lm_cocktail", "models": ["base", "$siblings"]},
                "losses": "text",
            },
        ],
    }
    folder = run_folder(**{**small, "space": space})
    search(folder)
    history = Record(folder).history
    references = history.references(0)
    recipes = {c.origin: c.recipe for c in history.batches[1].candidates}
    scores = {name: history.score(0, values).value for name, values in references.items()}
    least = min(-score for score in scores.values())
    [group] = recipes["LM-Cocktail"].groups
    assert (group.models, group.values["temperature"]) == (("chat", "sea"), 0.2)
    expected = {
        name: pytest.approx(-scores[name] - min(least, 0), abs=1e-4) for name in group.models
    }
    assert group.values["loss"] == expected
    [group] = recipes["by bits"].groups
    bits = {name: pytest.approx(references[name]["text"], abs=1e-4) for name in group.models}
    assert group.values["loss"] == bits, "less is better of it: the loss itself"
    assert len(set(bits)) == 3 and set(recipes) >= {"uniform", "ties", "dare_ties"}


def test_what_lies_between_two_extremes(
    family: dict[str, Path], run_folder: RunFolder, small: Any
) -> None:
    """An objective with a target: whoever is nearer to it ranks higher, above it or below."""
    fitness = {**small["fitness"]}
    fitness["objectives"] = {
        "sums": {"task": "sums", "weight": 0},
        "near": {"distance_of": ["sums"], "target": 0.5, "floor": 0.6},
        "text": {"text": "texts.jsonl", "weight": 0.5},
    }
    space = str(SPACES / "balance_two_extremes.yaml")
    given = models(family, roles={"over": "chat", "under": "sea"})
    folder = run_folder(**{**small, "space": space, "fitness": fitness, "models": given})
    said = check(folder)
    assert any("near (how far sums is from 0.5, minimised)" in line for line in said), said
    assert "floor: near, where less is better: at most 0.6" in said
    result = search(folder)
    history = Record(folder).history
    for values in history.references(0).values():
        assert values["near"] == pytest.approx(abs(values["sums"] - 0.5))
    for row in result.table.rows:
        near, sums = row.objectives["near"], row.objectives["sums"]
        assert near.value == pytest.approx(abs(sums.value - 0.5)) and 0 <= near.low <= near.high
    assert "near" in (folder / "report.md").read_text()


def test_losses_of_no_objective_are_refused(run_folder: RunFolder, small: Any) -> None:
    start = [{"name": "it", "recipe": {"method": "lm_cocktail"}, "losses": "txt"}]
    folder = run_folder(**{**small, "space": {"methods": ["linear"], "start": start}})
    with pytest.raises(ConfigError) as caught:
        load_run(folder)
    assert (
        "start.it.losses: 'txt' is no objective of the fitness file (did you mean 'text'?)"
        in str(caught.value)
    )
