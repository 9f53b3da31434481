"""A search with row weights: what it writes down, and that a killed one resumes to the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.commands.check import check
from evomerge.commands.search import search
from evomerge.errors import ConfigError, InputError
from evomerge.evolution.history import Phase
from evomerge.evolution.pulled import ROW_PARTS, ways
from evomerge.merging import open_parents
from evomerge.pool.serial import SerialPool
from evomerge.record.events import JOURNAL, RESPONSES, DecisionLine
from evomerge.record.record import Record
from evomerge.record.vectors import FOLDER, Vectors
from evomerge.testing.trajectory import trajectory

RunFolder = Callable[..., Path]
STEPS = 3


@pytest.fixture
def by_rows(small: dict[str, Any]) -> dict[str, Any]:
    """A search of a few seconds that ends with a descent on row weights."""
    return {
        **small,
        "space": {
            **{"methods": ["task_arithmetic"], "start": ["uniform"]},
            "rows": {"steps": STEPS, "rate": 0.2},
        },
        "optimizer": {"name": "cma", "population": 2},
        "budget": {"evaluations": 12},
        "lag": 2,
    }


_kept: dict[str, Path] = {}


@pytest.fixture
def undisturbed(
    run_folder: RunFolder, by_rows: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished one, made once."""
    if not _kept:
        folder = run_folder("undisturbed", **by_rows)
        search(folder)
        _kept["run"] = folder.rename(tmp_path_factory.mktemp("rows") / "run")
    return _kept["run"]


def vectors(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / FOLDER).iterdir()}


def test_a_descent_comes_behind_the_search(undisturbed: Path) -> None:
    record = Record(undisturbed)
    batches = [batch for batch in record.history.batches if batch.phase == Phase.ROWS]
    assert len(batches) == STEPS + 1
    assert [len(batch.candidates) for batch in batches] == [1] * STEPS + [2]
    assert batches[0].number > max(
        batch.number for batch in record.history.batches if batch.phase == Phase.SEARCH
    )
    assert record.history.searched <= 12
    kept = Vectors(undisturbed)
    before: np.ndarray | None = None
    for batch in batches[:-1]:
        rows = batch.candidates[0].recipe.body.rows
        evaluation = record.history.evaluations(batch.number)[batch.candidates[0].id]
        assert rows is not None and evaluation.vectors is not None
        slopes = kept.slopes(evaluation.vectors)
        assert list(slopes) == ["sums"] and len(slopes["sums"]) == rows.size
        assert np.abs(slopes["sums"]).max() > 0
        if before is None:
            assert (rows.flat == 1).all()
        else:
            assert not np.array_equal(rows.flat, before)
            assert (rows.flat >= 0).all() and (rows.flat <= 2).all()
        before = rows.flat
    # both sides of the comparison can be chosen
    select = next(b for b in record.history.batches if b.phase == Phase.SELECT)
    digests = {candidate.recipe.digest for candidate in select.candidates}
    assert {candidate.recipe.digest for candidate in batches[-1].candidates} <= digests


def test_the_journal_holds_names_not_numbers(undisturbed: Path) -> None:
    lines = (undisturbed / JOURNAL).read_text().splitlines()
    assert max(len(line) for line in lines[1:]) < 5000
    for line in map(json.loads, lines):
        for candidate in line.get("candidates", ()):
            if rows := candidate["body"].get("rows"):
                assert (undisturbed / rows["file"]).is_file()
    decided = [event["text"] for event in map(json.loads, lines) if event["event"] == "decision"]
    assert sum(text.startswith("row weights, ") for text in decided) == 1


def cut(whole: Path, folder: Path, size: int) -> None:
    """What a search leaves in ``folder`` that is killed when its journal has ``size`` bytes."""
    journal = (whole / JOURNAL).read_bytes()[:size]
    (folder / JOURNAL).write_bytes(journal)
    (folder / RESPONSES).write_bytes((whole / RESPONSES).read_bytes())
    (folder / FOLDER).mkdir()
    for name, content in vectors(whole).items():
        sha = [line for line in journal.splitlines() if name.split(".")[0].encode() in line]
        if sha:
            (folder / FOLDER / name).write_bytes(content)


def test_a_killed_one_resumes_to_the_same(
    run_folder: RunFolder, by_rows: dict[str, Any], undisturbed: Path
) -> None:
    """Killed before and behind each line of the descent, and within one."""
    lines = (undisturbed / JOURNAL).read_bytes().splitlines(keepends=True)
    ends = np.cumsum([len(line) for line in lines])
    rows = [
        number
        for number, line in enumerate(lines)
        if b'"phase":"rows"' in line or b'"vectors":"' in line or b'"text":"row weights' in line
    ]
    assert len(rows) == 2 * STEPS + 2
    sizes = [int(ends[number]) for number in (rows[0] - 1, rows[0], rows[1], rows[5], rows[-2])]
    sizes.append(int(ends[rows[2]]) - 7)
    for place, size in enumerate(sizes):
        folder = run_folder(f"cut{place}", **by_rows)
        cut(undisturbed, folder, size)
        search(folder)
        assert trajectory(folder) == trajectory(undisturbed)
        assert vectors(folder) == vectors(undisturbed)


def test_workers_make_no_difference(
    run_folder: RunFolder, by_rows: dict[str, Any], undisturbed: Path
) -> None:
    """Jobs bring the row weights: a worker need not see the run's folder."""
    folder = run_folder("elsewhere", **by_rows)

    class Blind(SerialPool):
        def submit(self, job: Any) -> None:
            rows = job["recipe"].get("rows")
            if rows:
                rows = {**rows, "file": "/nowhere/at/all"}
                job = {**job, "recipe": {**job["recipe"], "rows": rows}}
            super().submit(job)

    search(folder, Blind)
    assert trajectory(folder) == trajectory(undisturbed)


def test_a_vector_that_changed_is_refused(
    run_folder: RunFolder, by_rows: dict[str, Any], undisturbed: Path
) -> None:
    lines = (undisturbed / JOURNAL).read_bytes().splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if b'"vectors":"' in line)
    folder = run_folder("changed", **by_rows)
    cut(undisturbed, folder, sum(map(len, lines[: first + 1])))
    name = json.loads(lines[first])["vectors"][:32]
    file = folder / FOLDER / f"{name}.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="is not what was written"):
        search(folder)
    file.unlink()
    with pytest.raises(InputError, match="the journal names this file"):
        search(folder)


def test_an_extended_search_descends_again(
    run_folder: RunFolder, by_rows: dict[str, Any], undisturbed: Path
) -> None:
    """From what it recommends then; what it decided is told once, whether it was killed between or not."""
    lines = (undisturbed / JOURNAL).read_bytes().splitlines(keepends=True)
    stops = [len(lines), next(n for n, line in enumerate(lines) if b'"phase":"rows"' in line) + 2]
    for number, stop in enumerate(stops):
        folder = run_folder(f"extended{number}", **by_rows)
        cut(undisturbed, folder, sum(map(len, lines[:stop])))
        search(folder, extension={"evaluations": "+8"})
        record = Record(folder)
        assert record.budget["evaluations"] == 20 and 12 < record.history.searched <= 20
        compared = [b for b in record.history.batches if b.phase == Phase.ROWS and b.fresh]
        assert len(compared) == 2 - number
        told = [line.text for line in record.lines if isinstance(line, DecisionLine)]
        assert sum(text.startswith("row weights, ") for text in told) == len(compared)
        search(folder)
        assert len(Record(folder).lines) == len(record.lines)


def test_export_takes_them_along(undisturbed: Path, tmp_path: Path) -> None:
    record = Record(undisturbed)
    batch = next(b for b in record.history.batches if b.phase == Phase.ROWS and b.fresh)
    from evomerge.cli import main
    from evomerge.recipe import Recipe

    number = batch.candidates[-1].id
    out = tmp_path / "out" / "mine.yaml"
    assert main(["export", str(undisturbed), "--candidate", str(number), "-o", str(out)]) == 0
    loaded = Recipe.load(out)
    assert loaded.digest == record.recipe(number).digest
    assert loaded.body.rows is not None and loaded.body.rows.path == out.parent / "mine.rows.safetensors"  # fmt: skip
    assert loaded.body.rows.read()


def test_check_says_what_they_are(run_folder: RunFolder, by_rows: dict[str, Any]) -> None:
    said = "\n".join(check(run_folder(**by_rows)))
    assert "coefficients; this is careful fine-tuning in a small subspace" in said
    assert (
        f"a tensor's rows: they take {STEPS} steps by slopes from what the optimizer recommends"
        in said
    )


def test_under_a_floor_they_are_moved_towards_its_model_too(
    run_folder: RunFolder, by_rows: dict[str, Any]
) -> None:
    objectives = {**by_rows["fitness"]["objectives"]}
    objectives["sums"] = {**objectives["sums"], "floor": "50% of chat"}
    fitness = {**by_rows["fitness"], "objectives": objectives}
    folder = run_folder(**{**by_rows, "fitness": fitness})
    search(folder)
    record = Record(folder)
    select = next(b for b in record.history.batches if b.phase == Phase.SELECT)
    moved = {c.origin: c for c in select.candidates if c.origin.startswith("row weights, ")}
    assert set(moved) == {f"row weights, {way}" for _, _, way in ways(["chat"], ROW_PARTS)}
    # each in a file of the run, as those that the descent went through
    for candidate in moved.values():
        rows = candidate.recipe.body.rows
        assert rows is not None and rows.path.parent == folder / FOLDER and rows.read()


def test_columns_that_follow_the_best_parent(
    run_folder: RunFolder, by_rows: dict[str, Any]
) -> None:
    """DAM: weights a column, by how close the merge stays to each parent on its own tasks."""
    rows = {**by_rows["space"]["rows"], "by": "columns"}
    fitness = {**by_rows["fitness"], "slopes": {"loss": "kl"}}
    folder = run_folder(
        **{**by_rows, "space": {**by_rows["space"], "rows": rows}, "fitness": fitness}
    )
    assert "a tensor's columns" in "\n".join(check(folder))
    search(folder)
    last = [b for b in Record(folder).history.batches if b.phase == Phase.ROWS][-1]
    found = last.candidates[-1].recipe.body.rows
    assert found is not None and found.by == "columns"
    assert not (found.flat == 1).all()
    name = "model.layers.0.mlp.down_proj.weight"
    columns = open_parents(last.candidates[-1].recipe).shape("base", name)[1]
    assert {len(each) for each in found.vectors[name].values()} == {columns}


def test_what_they_cannot_refine_is_refused(run_folder: RunFolder, by_rows: dict[str, Any]) -> None:
    for number, (methods, reason) in enumerate(
        ((["ties"], "ties is not linear in its weights"), (["linear"], "fix normalize: false"))
    ):
        folder = run_folder(f"m{number}", **{**by_rows, "space": {"methods": methods, "rows": True}})  # fmt: skip
        with pytest.raises(ConfigError, match=f"run.yaml.*rows: .*{reason}"):
            search(folder)
    tight = {**by_rows, "budget": {"evaluations": 7}}
    with pytest.raises(InputError, match="and the descent on row weights alone take at least"):
        search(run_folder("tight", **tight))
