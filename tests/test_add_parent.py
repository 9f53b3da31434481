"""``evomerge add-parent``: a search that goes on with a source more, or a recipe that adds one."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge import Recipe, config
from evomerge.cli import main
from evomerge.commands.search import search
from evomerge.evolution.history import Phase
from evomerge.record.events import JOURNAL
from evomerge.record.record import Record
from evomerge.run.spec import load_run

RunFolder = Callable[..., Path]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def third(family: dict[str, Path], tmp_path: Path) -> Path:
    """Another parent."""
    return shutil.copytree(family["sea"], tmp_path / "models" / "third")


@pytest.fixture
def first(run_folder: RunFolder, small: dict[str, Any]) -> Path:
    """A finished search in ``runs/first``."""
    folder = run_folder("runs/first", **small)
    search(folder)
    return folder


def test_a_search_goes_on_with_a_source_more(
    first: Path, third: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in first.iterdir() if path.is_file()}
    monkeypatch.chdir(first.parent)
    assert main(["add-parent", "first", "more=../models/third", "--best", "5"]) == 0
    told = capsys.readouterr().out.splitlines()
    new = first.parent / "first-more"
    assert f"wrote {new / 'run.yaml'}" in told
    assert {path.name: path.read_bytes() for path in first.iterdir() if path.is_file()} == before

    old, spec = load_run(first), load_run(new)
    assert tuple(spec.sources) == ("chat", "sea", "more")
    assert spec.sources["more"].portable == str(third)
    assert spec.space.start[:-1] == old.space.start
    assert spec.suite.include == old.suite.include, "references are valid where they are now"
    assert [s.target for s in spec.suite.scorers] == [s.target for s in old.suite.scorers]
    assert (spec.seed, spec.lag, spec.evaluations) == (old.seed, old.lag, old.evaluations)

    content = config.read(new / "run.yaml").plain
    content["budget"] = {"evaluations": 20}
    (new / "run.yaml").write_text(config.dump(content))
    command = shlex.split(told[-1].split("go on with: evomerge ")[1])
    assert command == ["search", str(new)]
    assert main([*command, "--ray", "off", "--quiet"]) == 0
    history = Record(new).history
    start = next(batch for batch in history.batches if batch.phase == Phase.START)
    assert sum(c.origin.endswith(" of first") for c in start.candidates) == 5
    found = [c for c in history.candidates.values() if c.origin == "cma"]
    assert found and all(
        c.recipe.groups[0].values["weight"].keys() == {*spec.sources} for c in found
    )


def test_what_a_space_in_a_file_starts_with_comes_along_where_it_can(
    run_folder: RunFolder, small: dict[str, Any], third: Path, capsys: Captured
) -> None:
    folder = run_folder("runs/first", **small)
    recipe = folder.parent.parent / "mine.yaml"
    space = folder.parent.parent / "space.yaml"
    search(folder)
    Record(folder).recipe(4).save(recipe)
    content = {
        "methods": ["task_arithmetic", "ties"],
        "models": {"ties": ["chat", "sea"]},
        "start": ["uniform", "mine.yaml", "ties"],
    }
    space.write_text(config.dump(content))
    plain = config.read(folder / "run.yaml").plain["fitness"]
    plain["objectives"]["text"] = {"text": str(folder / "texts.jsonl")}
    plain["include"] = [str((folder / each).resolve()) for each in plain["include"]]
    (space.parent / "fitness.yaml").write_text(config.dump(plain))
    job = {**small, "space": "../../space.yaml", "calibration": {"file": "others.txt", "items": 1}}
    second = run_folder("runs/second", **job)
    named = {**config.read(second / "run.yaml").plain, "fitness": "../../fitness.yaml"}
    (second / "run.yaml").write_text(config.dump(named))
    (second / "others.txt").write_text("what nobody is asked\n\nand more of it\n")
    search(second)
    out = folder.parent / "elsewhere" / "third run"
    assert main(["add-parent", str(second), f"more={third}", "-o", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"note: mine.yaml under space.start: left out; {second} scored them" in told
    assert "note: space.models of ties does not list more: add it" in told
    assert shlex.quote(str(out)) in told.splitlines()[-1]
    spec = load_run(out)
    assert spec.space.start[:2] == ("uniform", "ties") and len(spec.space.start) == 3
    assert spec.calibration is not None and spec.calibration.path.resolve() == second / "others.txt"
    assert main(["check", str(out)]) == 0


def test_one_recipe_adds_a_parent_to_the_winner(
    first: Path, third: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["add-parent", str(first), f"more={third}", "--method", "opcm"]) == 0
    told = capsys.readouterr().out.splitlines()
    file = first.parent / "first-more" / "recipe.yaml"
    assert told[0] == f"wrote {file}"
    recipe = Recipe.load(file)
    assert recipe.groups[0].method == "opcm"
    assert recipe.groups[0].models == ("winner", "more") and recipe.tokenizer == "winner"
    winner = Recipe.load(recipe.models["winner"].portable)
    history = Record(first).history
    assert history.winner is not None
    assert winner.digest == history.candidates[history.winner].recipe.portable().digest
    assert main(["check", str(file)]) == 0
    assert main(["merge", str(file), "-o", str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged" / "tokenizer.json").is_file()


def test_what_cannot_be_added_is_refused_and_nothing_is_written(
    run_folder: RunFolder,
    small: dict[str, Any],
    family: dict[str, Path],
    third: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: Captured,
) -> None:
    folder = run_folder("runs/first", **small)

    def refused(parent: str, *options: str, run: Path = folder) -> str:
        assert main(["add-parent", str(run), parent, *options]) == 2
        assert [path.name for path in folder.parent.iterdir()] == ["first"]
        return capsys.readouterr().err

    assert "nothing was searched here yet" in refused(f"more={third}")
    assert "not the folder of a run" in refused(f"more={third}", run=tmp_path / "nowhere")
    search(folder)
    journal = (folder / JOURNAL).read_bytes()
    assert "expected NAME=MODEL" in refused(str(third))
    assert "expected NAME=MODEL" in refused(f"={third}")
    assert f"sea: {folder} has a model of this name already (base = " in refused(f"sea={third}")
    assert "base: " in refused(f"base={third}")
    assert "has this model already, as sea; name one" in refused(f"more={family['sea']}")
    assert "no such folder" in refused(f"more={tmp_path / 'nowhere'}")
    told = refused(f"more={model_folder}")
    assert f"more ({model_folder}) and base ({family['base']}): depths differ" in told
    assert "exists already" in refused(f"more={third}", "-o", str(folder))
    assert "say with -o which to make" in refused(f"a/b={third}")
    assert "--best: expected a whole number in 1..1000, found 0" in refused(
        f"more={third}", "--best", "0"
    )
    assert "--best 3: nothing is scored first where --method opcm" in refused(
        f"more={third}", "--best", "3", "--method", "opcm"
    )
    assert "choose another name" in refused(f"winner={third}", "--method", "opcm")
    lines = journal.splitlines(keepends=True)
    (folder / JOURNAL).write_bytes(b"".join(lines[:3]))
    assert "no merge was scored there yet" in refused(f"more={third}")
    assert "has no winner yet" in refused(f"more={third}", "--method", "opcm")
