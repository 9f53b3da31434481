"""The best merges of another run as known recipes: which, under which names, and that they stay what they were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import main
from evomerge.commands.search import search
from evomerge.errors import InputError
from evomerge.evolution.history import Phase
from evomerge.record.events import JOURNAL, RESPONSES
from evomerge.record.record import Record
from evomerge.run.others import best_merges
from evomerge.testing.stopping import Stopper
from evomerge.testing.trajectory import trajectory

RunFolder = Callable[..., Path]


def stopped(folder: Path, after: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        search(folder, listener=Stopper(after))
    return folder


def starting_from(small: dict[str, Any], *entries: Any, **changes: Any) -> dict[str, Any]:
    """Changes to ``run_folder``: the small search, with these entries in front under ``start``."""
    return {"space": {**small["space"], "start": [*entries, "uniform"]}, **changes}


def models(family: dict[str, Path], **sources: Path) -> dict[str, Any]:
    named = {name: str(folder) for name, folder in sources.items()}
    return {"base": str(family["base"]), "sources": named, "tokenizer": next(iter(named))}


def known_recipes(folder: Path) -> dict[str, Any]:
    """Label -> candidate of a run's known recipes."""
    batches = Record(folder).history.batches
    start = next(batch for batch in batches if batch.phase == Phase.START)
    return {candidate.origin: candidate for candidate in start.candidates}


def test_what_a_run_would_recommend_comes_first(
    run_folder: RunFolder, small: dict[str, Any]
) -> None:
    folder = run_folder("first", **small)
    search(folder)
    history = Record(folder).history
    found = list(best_merges(history))
    assert found[0] == history.winner
    merges = {elite.candidate: elite.score.value for elite in history.merges()}
    parents = {candidate.id for candidate in history.batches[0].candidates}
    listed = {candidate.id for batch in history.rounds for candidate in batch.candidates} - parents
    assert len(found) == len(set(found)) and set(found) == {*merges, *listed}
    shortlisted = found[: len(listed)]
    assert set(shortlisted) == listed
    last = [elite.candidate for elite in history.ranked(history.rounds[-1].number)]
    assert shortlisted[0] in last and [id for id in found if id in last] == [
        id for id in last if id not in parents
    ]
    rest = [merges[id] for id in found[len(shortlisted) :]]
    assert rest and rest == sorted(rest, reverse=True)


def test_a_run_with_a_source_more_starts_from_it_under_other_names(
    run_folder: RunFolder, small: dict[str, Any], family: dict[str, Path], tmp_path: Path
) -> None:
    first = run_folder("first", **small)
    search(first)
    third = shutil.copytree(family["sea"], tmp_path / "third")
    named = models(family, talk=family["chat"], more=third, chat=family["sea"])  # chat is another
    changes = starting_from(small, {"run": "../first", "best": 6}, models=named)
    second = run_folder("second", **{**small, **changes})
    search(second)
    record = Record(first)
    recipes = known_recipes(second)
    labels = [f"#{id} of first" for id in best_merges(record.history)][:6]
    assert set(recipes) == {*labels, "uniform"}, "the best six, and what this run has itself"
    joined = 0
    for label in labels:
        candidate = recipes[label]
        theirs = record.history.candidates[int(label.split()[0].removeprefix("#"))].recipe
        if theirs.groups[0].method != "task_arithmetic":  # the average, as it was: no genome has it
            assert candidate.recipe.groups[0].models == ("talk", "chat")
            assert candidate.genome is None
            continue
        joined += 1
        for before, now in zip(theirs.groups, candidate.recipe.groups, strict=True):
            was = before.values["weight"]
            assert now.values["weight"] == {"talk": was["chat"], "more": 0.0, "chat": was["sea"]}
            assert now.layers == before.layers
        assert candidate.genome is not None, "the optimizer is told of it"
    assert joined >= 4


ROWS = {"rows": {"steps": 2, "rate": 0.1}}


@pytest.mark.parametrize("rows", [{}, ROWS], ids=["plain", "rows"])
def test_it_is_resumed_as_it_was_begun_whatever_became_of_the_other_run(
    rows: dict[str, Any], run_folder: RunFolder, small: dict[str, Any], family: dict[str, Path]
) -> None:
    job = {**small, "space": {**small["space"], **rows}, "budget": {"evaluations": 12}}
    first = run_folder("first", **job)
    search(first)
    named = models(family, b=family["sea"], a=family["chat"])
    changes = {**small, **starting_from(small, {"run": "../first", "best": 30}, models=named)}
    changes["budget"] = {"evaluations": 26}
    whole = run_folder("whole", **changes)
    search(whole)
    if rows:
        assert any(c.recipe.body.rows for c in known_recipes(whole).values())
    undisturbed = trajectory(whole)
    begun = stopped(run_folder("begun", **changes), 1)
    search(first, extension={"evaluations": "+8"})
    changed = stopped(run_folder("changed", **changes), 5)
    assert known_recipes(changed).keys() != known_recipes(whole).keys(), "it did change"
    shutil.rmtree(first)
    assert main(["check", str(begun)]) == 0
    search(begun)
    journal = (whole / JOURNAL).read_bytes().splitlines(keepends=True)
    assert trajectory(begun) == undisturbed
    for lines in (1, len(journal) // 2):
        cut = run_folder(f"cut after {lines}", **changes)
        (cut / JOURNAL).write_bytes(b"".join(journal[:lines]))
        shutil.copy(whole / RESPONSES, cut)
        if rows:
            shutil.copytree(whole / "vectors", cut / "vectors")
        search(cut)
        assert trajectory(cut) == undisturbed


def test_a_run_that_was_killed_midway_gives_what_it_has(
    run_folder: RunFolder, small: dict[str, Any]
) -> None:
    killed = stopped(run_folder("killed", **small), 9)
    with (killed / JOURNAL).open("ab") as journal:
        journal.write(b'{"event":"evaluation","time":17')
    before = (killed / JOURNAL).read_bytes()
    history = Record(killed).history
    scored = [elite.candidate for elite in history.merges()]
    assert not history.verdicts and len(scored) >= 2
    changes = {**small, **starting_from(small, {"run": "../killed"})}
    search(run_folder("next", **changes))
    best = history.best
    assert best is not None
    first, *others = known_recipes(killed.parent / "next")
    labels = {f"#{id} of killed" for id in scored}
    assert {f"#{best.candidate} of killed", "uniform"} & {first, *others}
    assert {first, *others} - {"uniform"} <= labels and others
    assert (killed / JOURNAL).read_bytes() == before, "it is read, and not touched"


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        search(folder)
    assert not (folder / JOURNAL).exists()
    return str(error.value)


def test_a_run_that_cannot_be_a_start_is_refused(
    run_folder: RunFolder, small: dict[str, Any], family: dict[str, Path], tmp_path: Path
) -> None:
    entry = {"run": "../other"}
    changes = {**small, **starting_from(small, entry)}
    folder = run_folder("run", **changes)
    told = refused(folder)
    assert f"{folder / 'run.yaml'}:" in told and "space.start: " in told
    assert f"{tmp_path / 'other' / JOURNAL}: no such file: nothing was searched here yet" in told

    other = stopped(run_folder("other", **small), 1)
    assert "no merge was scored there yet" in refused(folder)

    shutil.rmtree(other)
    stopped(run_folder("other", **small), 7)
    alone = run_folder("alone", **{**changes, "models": models(family, talk=family["chat"])})
    told = refused(alone)
    assert (
        f"it merges sea ({family['sea']}); this run's sources are talk ({family['chat']})" in told
    )
    assert "add them under models.sources" in told

    copy = shutil.copytree(family["base"], tmp_path / "copy")
    named = {**models(family, chat=family["chat"], sea=family["sea"]), "base": str(copy)}
    told = refused(run_folder("rebased", **{**changes, "models": named}))
    assert f"its base is {family['base']}; this run's is {copy}" in told

    head = json.loads((tmp_path / "other" / JOURNAL).read_bytes().splitlines()[0])
    assert head["given"] == {}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([{"run": "../a", "best": 0}], r"start\[0\].best: expected a whole number in 1\.\.1000"),
        ([{"best": 3}], r"start\[0\].run: missing; expected text"),
        (["uniform", {"run": "../a", "bests": 3}], r"start\[1\].bests: unknown key .*did you mean"),
        ([{"run": "../a"}, {"run": "../a", "best": 2}], r"start\[1\].run: '../a' stands twice"),
        ([{"run": "../a"}, {"run": "../a/."}], r"start\[1\].run: '../a/.' stands twice"),
        ([7], r"start: expected names of known recipes, .*\{run: FOLDER, best: N\}, found 7"),
    ],
)
def test_entries_are_read_strictly(
    entries: list[Any], says: str, run_folder: RunFolder, small: dict[str, Any]
) -> None:
    folder = run_folder("run", **{**small, "space": {**small["space"], "start": entries}})
    with pytest.raises(InputError, match=says):
        search(folder)
