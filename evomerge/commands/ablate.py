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
from evomerge.record.ablation import FILE, Ablation, Loss
from evomerge.record.record import Record
from evomerge.report import files
from evomerge.run.identity import check_same
from evomerge.run.preflight import Run, prepare
from evomerge.run.spec import load_run
from evomerge.suite.scorer import Results
from evomerge.suite.splits import Split
from evomerge.worker import Job, Outcome

LEAST = 2  # evaluations: the winner, and something to compare it with


def ablate(
    run_dir: str | Path,
    most: int,
    *,
    device: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[str, int], None] = lambda name, total: None,
) -> Ablation:
    """Score the winner and variants of it, ``most`` evaluations in all, and keep what came of it beside the journal.

    Args:
        run_dir: of a search that has a winner.
        most: evaluations; the first is of the winner itself.
        device: of the worker.
        say: is told of each stage, and before it begins what it will take.
        progress: is told what was scored, and of how many.

    Returns:
        What stands in ``ablation.json``; ``report.md`` is written anew with it.

    Raises:
        InputError: there is no winner, ``most`` is too small, or the run is not what was searched.
        RunError: the winner gives no finite answers, or the files cannot be written.
    """
    if most < LEAST:
        raise InputError(f"--ablate: expected at least {LEAST} evaluations, found {most}")
    record = Record(run_dir)
    winner = record.history.winner
    if winner is None or not record.history.done:
        raise InputError(f"{record.folder}: has no winner yet, whose parts could be left out")
    run = prepare(load_run(run_dir), say=say, device=device)
    check_same(record.head, run, record.path)
    recipe = record.history.candidates[winner].recipe
    items = run.suite.splits[Split.SELECT]

    def answers(name: str, asked: Any, total: int) -> Results | str:
        job = Job(name, asked.portable().plain, items)
        outcome = Outcome.from_plain(worker(job.plain))
        progress(name, total)
        return outcome.results if outcome.results is not None else str(outcome.error)

    chosen = variants(recipe, run.parents.frame.layers, most - 1)
    total, count = 1 + len(chosen), sum(map(len, items.values()))
    say(
        f"{total} evaluations of {count:,} select items each: the winner, and {len(chosen)} variants of it"
    )
    worker = run.worker(device).build()
    ours = answers("winner", recipe, total)
    if isinstance(ours, str):
        raise RunError(f"the winner cannot be scored: {ours}")
    losses = []
    for variant in chosen:
        theirs = answers(variant.without, variant.recipe, total)
        if isinstance(theirs, str):
            losses.append(Loss(variant.kind, variant.without, failed=theirs))
        else:
            differences = _differences(run, record, ours, theirs)
            losses.append(Loss(variant.kind, variant.without, *differences))
    asked = {name: len(ids) for name, ids in items.items()}
    found = Ablation(winner, recipe.digest, total, asked, losses)
    text = json.dumps(found.plain, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        write_text(record.folder / FILE, f"{text}\n")
    except OSError as error:
        raise RunError(f"{record.folder / FILE}: cannot be written: {error.strerror}") from None
    files.write(record)
    return found


def _differences(
    run: Run, record: Record, ours: Results, theirs: Results
) -> tuple[Interval | None, dict[str, Interval | None]]:
    """Winner less variant: the score to first order, and every measured objective."""
    suite, history = run.suite, record.history
    values = suite.values(ours)
    shares = suite.shares(values, history.references(0), history.gains, floors=False)
    objectives = {
        objective.name: _interval(lead(suite, {objective.name: 1.0}, ours, theirs))
        for objective in suite.measured
    }
    return _interval(lead(suite, shares, ours, theirs)), objectives


def _interval(found: tuple[float, float] | None) -> Interval | None:
    return None if found is None else Interval.around(*found)
