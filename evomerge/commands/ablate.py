"""Why did it win: the winner of a search once more, without each parent and without parts of what it merges.

This executes what the search did. All are scored on the select items, which the winner was chosen on: nothing is
chosen here, and the report items stay unseen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.config import write_text
from evomerge.errors import InputError, RunError
from evomerge.inference.intervals import Interval
from evomerge.judging.ablations import variants
from evomerge.judging.lead import lead
from evomerge.record.record import Record
from evomerge.run.preflight import Run, prepare
from evomerge.run.spec import load_run
from evomerge.suite.scorer import Results
from evomerge.suite.splits import Split
from evomerge.worker import Job, Outcome

FILE = "ablation.json"
LEAST = 2  # evaluations: the winner, and something to compare it with


def ablate(
    run_dir: str | Path,
    most: int,
    *,
    device: str | None = None,
    progress: Callable[[str, int], None] = lambda name, total: None,
) -> dict[str, Any]:
    """Score the winner and variants of it, ``most`` evaluations in all, and keep what came of it beside the journal.

    Args:
        run_dir: of a search that has a winner.
        most: evaluations; the first is of the winner itself.
        device: of the worker.
        progress: is told what was scored, and of how many.

    Returns:
        What stands in ``ablation.json``: for each variant the winner's score less its own, objective by
        objective, too, with the standard error of the paired difference.

    Raises:
        InputError: there is no winner, or ``most`` is too small.
        RunError: the winner gives no finite answers.
    """
    if most < LEAST:
        raise InputError(f"--ablate: expected at least {LEAST} evaluations, found {most}")
    record = Record(run_dir)
    winner = record.history.winner
    if winner is None:
        raise InputError(f"{record.folder}: has no winner yet, whose parts could be left out")
    run = prepare(load_run(run_dir), device=device)
    recipe = record.history.candidates[winner].recipe
    worker = run.worker(device).build()
    items = run.suite.splits[Split.SELECT]

    def answers(name: str, asked: Any, total: int) -> Results | str:
        job = Job(name, asked.portable().plain, items)
        outcome = Outcome.from_plain(worker(job.plain))
        progress(name, total)
        return outcome.results if outcome.results is not None else str(outcome.error)

    chosen = variants(recipe, run.parents.frame.layers, most - 1)
    total = 1 + len(chosen)
    ours = answers("winner", recipe, total)
    if isinstance(ours, str):
        raise RunError(f"the winner cannot be scored: {ours}")
    rows = []
    for variant in chosen:
        theirs = answers(variant.without, variant.recipe, total)
        found = {"kind": variant.kind, "without": variant.without}
        if isinstance(theirs, str):
            rows.append({**found, "failed": theirs})
        else:
            rows.append({**found, **_differences(run, record, ours, theirs)})
    told = {
        "winner": winner,
        "digest": recipe.digest,
        "evaluations": total,
        "split": Split.SELECT,
        "items": {name: len(ids) for name, ids in items.items()},
        "rows": rows,
    }
    write_text(record.folder / FILE, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return told


def _differences(run: Run, record: Record, ours: Results, theirs: Results) -> dict[str, Any]:
    """Winner less variant: the score to first order, and every measured objective."""
    suite, history = run.suite, record.history
    values = suite.values(ours)
    shares = suite.shares(values, history.references(0), history.gains, floors=False)
    objectives = {
        objective.name: _plain(lead(suite, {objective.name: 1.0}, ours, theirs))
        for objective in suite.measured
    }
    return {"score": _plain(lead(suite, shares, ours, theirs)), "objectives": objectives}


def _plain(found: tuple[float, float] | None) -> dict[str, Any] | None:
    return None if found is None else Interval.around(*found).plain
