"""A front is confirmed, like a winner: on items that no search has seen, and reported as a set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge import config, merge
from evomerge.cli import main
from evomerge.commands.score import score_model
from evomerge.commands.search import search
from evomerge.evolution.history import Phase
from evomerge.recipe import Recipe
from evomerge.record.record import Record
from evomerge.report.slider import Slider
from evomerge.report.text import interval_text

FITNESS = Path(__file__).parents[2] / "fitness" / "demo_tasks"
# English questions against words of other languages: what one parent gains the other loses
WANTED = {
    "include": [str(FITNESS)],
    "objectives": {
        "chat": {"task": "demo_chat_en"},
        "sea": {"task": "demo_plain_sea"},
        "both": {"task": "demo_chat_sea", "weight": 0},
    },
    "combine": "mean",
    "items": {"search": 40, "select": 60, "report": 60, "candidate": [20, 40]},
    "front": 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("front")
    (folder / "fitness.yaml").write_text(config.dump(WANTED))
    job = {
        "models": {
            "base": "embedded:base",
            "sources": {"chat": "embedded:chat", "sea": "embedded:sea"},
            "tokenizer": "chat",
        },
        "space": {"methods": ["task_arithmetic"], "groups": {"layers": 2}},
        "fitness": "fitness.yaml",
        "optimizer": {"name": "random", "population": 8},
        "budget": {"evaluations": 34},
        "dtype": "float32",
    }
    (folder / "run.yaml").write_text(config.dump(job))
    search(folder)
    return folder


@pytest.mark.slow
def test_a_confirmed_front_is_reported_exported_merged_and_scored_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record(folder)
    assert record.table is not None
    front = {m.candidate: m.probability for m in record.history.verdicts[-1].front}
    assert 1 < len(front) <= 4 and all(0.5 < chance <= 1 for chance in front.values())
    assert record.history.chosen[0] == record.table.winner and {*front} <= {*record.history.chosen}
    rows = {row.candidate: row for row in record.table.rows}
    assert {id: rows[id].front for id in front} == front, "all of them are on the report"
    out = tmp_path / "front"
    assert main(["export", str(folder), "--pareto", str(out)]) == 0
    *files, table, slide = sorted(out.iterdir())
    assert [path.stem for path in files] == [f"candidate-{id:05d}" for id in sorted(front)]
    text = table.read_text()
    assert "| candidate | origin | score | chat | sea | on the front |" in text
    covered = record.table.volume
    assert covered.keys() == {"front", "parents"} and covered["front"].value > 0
    assert f"front {interval_text(covered['front'])}, parents " in text
    slider = Slider.load(slide)
    assert {stop.recipe for stop in slider.stops} == {*files}
    best = {name: slider.choose({name: 1}).recipe for name in ("chat", "sea")}
    select = {e.candidate: e.values for e in record.history.elites(Phase.SELECT)}
    for name, recipe in best.items():
        value = select[int(recipe.stem[-5:])][name]
        assert value == max(select[id][name] for id in front), "by the items that confirmed it"
    for path in files:
        recipe = Recipe.load(path)
        row = rows[recipe.provenance["candidate"]]
        [stop] = [stop for stop in slider.stops if stop.recipe == path]
        assert stop.digest == recipe.digest and stop.values == row.objectives
        merged = merge(recipe, tmp_path / path.stem)
        found = score_model(str(merged), folder / "fitness.yaml", "report", again=True)
        for name, interval in row.objectives.items():
            assert found["objectives"][name]["value"] == interval.value, "figures are reproduced"
    said = tmp_path / "unconfirmed"
    assert main(["export", str(folder), "--unconfirmed", str(said)]) == 0
    others = {int(path.stem[-5:]) for path in said.glob("*.yaml")} - set(front)
    assert others, "search estimates call more of them members"
    assert not any((out / f"candidate-{id:05d}.yaml").exists() for id in others)
    capsys.readouterr()
    assert main(["status", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["table"]["rows"]
    assert {row["candidate"]: row["front"] for row in shown if row["front"]} == front


def test_a_front_of_one_objective_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {**WANTED, "objectives": {"chat": {"task": "demo_chat_en"}}}
    (tmp_path / "fitness.yaml").write_text(config.dump(content))
    assert main(["check", str(tmp_path / "fitness.yaml")]) == 2
    assert "front: needs two objectives with a weight; there is one" in capsys.readouterr().err
