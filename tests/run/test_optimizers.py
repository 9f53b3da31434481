"""Optimizers that need more than a score, in whole searches: told the same before and after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import main
from evomerge.commands.search import search
from evomerge.optimizers import Told, get
from evomerge.record.events import JOURNAL, RESPONSES
from evomerge.record.record import Record
from evomerge.testing.trajectory import trajectory

RunFolder = Callable[..., Path]
Tells = list[tuple[int, int, list[Told]]]

# few weights and two batches under way: recipes come again, and some are asked while older batches wait
FEW: dict[str, Any] = {
    "space": {
        "methods": ["task_arithmetic"],
        "parameters": {"weight": {"choices": [0.0, 0.5, 1.0]}, "lambda": 1.0},
        "start": ["uniform"],
    },
    "fitness": {
        "include": ["."],
        "objectives": {"sums": {"task": "sums"}, "text": {"text": "texts.jsonl"}},
        "items": {"probe": 2, "search": 10, "select": 4, "report": 4, "candidate": 4},
        "measures": {"text": {"low": 0, "high": 20, "cells": 4}},
    },
    "budget": {"evaluations": 20},
    "lag": 2,
}


@pytest.fixture
def tells(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Tells:
    """What the optimizer of the test is told; cleared by the test."""
    kind, seen = get(request.node.callspec.params["name"]), []
    tell = kind.tell

    def listening(self: Any, batch: int, before: int, told: Sequence[Told]) -> None:
        seen.append((batch, before, list(told)))
        tell(self, batch, before, told)

    monkeypatch.setattr(kind, "tell", listening)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["map_elites", "cycleqd", "m2n2", "greedy_soup", "kinship", "model_glue"]
)
def test_a_journal_cut_anywhere_tells_the_same(
    run_folder: RunFolder, tells: Tells, name: str
) -> None:
    job = {**FEW, "optimizer": {"name": name, "population": 4}}
    if name in ("kinship", "model_glue"):  # any average may be wanted
        job["space"] = {"methods": ["linear"], "weights": "simplex", "start": ["uniform"]}
    folder = run_folder("whole", **job)
    search(folder)
    whole, told = trajectory(folder), [*tells]
    assert [batch for batch, _, _ in told][-4:] == [2, 3, 4, 5]
    journal, responses = (folder / JOURNAL).read_bytes(), (folder / RESPONSES).read_bytes()
    line_ends = [at + 1 for at, byte in enumerate(journal) if byte == ord("\n")]
    select = next(at for at, line in enumerate(journal.splitlines()) if b'"phase":"select"' in line)
    for cut in (line_ends[9], line_ends[len(line_ends) // 2], line_ends[select - 1] - 3):
        again = run_folder(f"cut at {cut}", **job)
        (again / JOURNAL).write_bytes(journal[:cut])
        (again / RESPONSES).write_bytes(responses)
        tells.clear()
        search(again)
        assert trajectory(again) == whole, cut
        assert tells == told, cut


@pytest.mark.parametrize("name", ["m2n2"])
def test_answers_are_those_known_when_the_batch_was_complete(
    run_folder: RunFolder, tells: Tells, name: str
) -> None:
    folder = run_folder("whole", **FEW, optimizer={"name": name, "population": 4})
    search(folder)
    record = Record(folder)
    split = {item for _, _, told in tells for each in told for item in each.answers["sums"]}
    history, asked, sizes = record.history, dict[str, set[str]](), []
    evaluations = {(e["batch"], e["candidate"]): e for e in trajectory(folder)[1]}
    for batch, _, told in tells:
        for candidate in history.batches[batch].candidates:
            block = evaluations[batch, candidate.id]["block"] or {}
            known = asked.setdefault(candidate.recipe.digest, set())
            known.update(block.get("sums", {"items": ()})["items"])
        for each, candidate in zip(told, history.batches[batch].candidates, strict=True):
            # a later candidate of the batch may be the same recipe and have asked nothing
            assert set(each.answers["sums"]) == asked[candidate.recipe.digest] & split
            assert {*each.answers["sums"].values()} <= {0.0, 1.0}
            assert all(0 <= worth <= 1 for worth in each.answers["text"].values())
            values = history.evaluations(batch)[candidate.id].values
            assert values is not None and each.measures == (values["text"],)
            sizes.append(len(each.answers["sums"]))
    assert 4 < len(split) <= 10 and min(sizes) == 4 < max(sizes)


@pytest.mark.parametrize("name", ["greedy_soup", "kinship", "model_glue"])
def test_a_space_without_averages_is_refused(
    run_folder: RunFolder, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = run_folder(space={"methods": ["ties"]}, optimizer={"name": name})
    assert main(["check", str(folder)]) == 2
    message = f"{name} averages the sources, but the space does not hold the average"
    assert message in capsys.readouterr().err
    assert main(["search", str(folder), "--ray", "off"]) == 2
    assert not (folder / JOURNAL).exists()
