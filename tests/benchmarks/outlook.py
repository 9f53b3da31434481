"""Announced time left against what it was, decile by decile, replayed from the journals of runs that are done.

    python tests/benchmarks/outlook.py RUN_DIR...

The announcement is made anew after every event, from what the journal held by then; the truth is when the final
table came. Prints the ratio at each tenth of each run, and exits with 1 where one is beyond a factor of two.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evomerge.evolution.outlook import Outlook
from evomerge.record.events import (
    JOURNAL,
    BatchLine,
    EndLine,
    EvaluationLine,
    SessionLine,
    fold,
    read_lines,
)
from evomerge.run.course import course_of
from evomerge.run.preflight import prepare
from evomerge.run.spec import load_run


def announced(folder: Path, slots: int) -> tuple[float, list[tuple[float, float]]]:
    """When the table came, and (time, seconds left as announced) after every event; from the start, in seconds."""
    run = prepare(load_run(folder))
    search = run.search()
    outlook = Outlook(course_of(run, search), slots=slots, lag=run.spec.lag)
    began, end, found = None, 0.0, list[tuple[float, float]]()
    for number, line in enumerate(read_lines(folder / JOURNAL), start=1):
        fold(search.history, line, run.template, folder / JOURNAL, number)
        if isinstance(line, SessionLine):
            began = line.time if began is None else began
            outlook.begin(line.time)
        elif isinstance(line, EndLine):
            end = line.time
            break
        elif isinstance(line, EvaluationLine):
            batch = search.history.batches[line.batch]
            outlook.add(batch, line.evaluation, line.seconds, line.time)
        if isinstance(line, BatchLine | EvaluationLine) and began is not None:
            left = outlook.left(search.history, line.time)
            if left is not None:
                found.append((line.time - began, left))
    assert began is not None and end
    return end - began, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--all", action="store_true", help="every announcement")
    parser.add_argument("--workers", type=int, default=1, help="that the runs had (default: 1)")
    arguments = parser.parse_args()
    worst = 1.0
    tenths = [n / 10 for n in range(1, 10)]
    print("run", *(f"{tenth:.0%}" for tenth in tenths), "worst", sep="\t")
    for folder in arguments.runs:
        total, found = announced(folder, arguments.workers)
        cells, ratios = [], list[float]()
        for time, left in found:
            if arguments.all:
                print(f"{time:8.1f} announced {left:8.1f} truth {total - time:8.1f}")
            if 0.1 * total <= time and total - time > 5:
                ratios.append(left / (total - time))
        for tenth in tenths:
            now = tenth * total
            before = [(time, left) for time, left in found if time <= now]
            if not before:
                cells.append("-")
                continue
            time, left = before[-1]
            cells.append(f"{max(1.0, left - (now - time)) / (total - now):.2f}")
        least, most = min(ratios), max(ratios)
        worst = max(worst, most, 1 / least)
        print(f"{folder.name} ({total:.0f} s)", *cells, f"{least:.2f}-{most:.2f}", sep="\t")
    return int(worst > 2)


if __name__ == "__main__":
    sys.exit(main())
