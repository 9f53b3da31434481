"""The frontier of a constrained search: how much of sea is kept while most of chat is?

    python -m tests.benchmarks.search.frontier --out DIR [--seeds 0:20] [--rows] [--floor 98] [--jobs 2]
    python -m tests.benchmarks.search.frontier --out DIR --known [METHOD...] [--seconds 1200]
    python -m tests.benchmarks.search.frontier --out DIR [--save] [--table] [--picture FILE.svg]

The first searches the embedded family once a seed, as ``runs/demo-constrained`` says (or ``--run``), for the floor that is
asked, and gives the truth about each winner: its values over all items. The second gives the truth about known
recipes, at many settings. Each adds rows to DIR/frontier.jsonl; what is there is not made again. Tables and
picture are of those rows and of the frozen ones, to which ``--save`` adds.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from evomerge import config
from tests.benchmarks.search.frontier_rows import (
    NAMES,
    ROWS,
    Reached,
    Scale,
    Winners,
    load,
    save,
    tables,
)
from tests.benchmarks.search.run import ROOT, seeds_from, write_job

RUN = ROOT / "runs" / "demo-constrained" / "run.yaml"
FLOOR = 98.0
ROWS_AS = {"steps": 60, "rate": 0.1}
ASKED = {False: (95.5, 0.68), True: (97.0, 0.74)}  # by row -> percent of sea's words, combination


def searched(
    source: Path, out: Path, cache: Path | None, floor: float, by_row: bool, seed: int
) -> Reached:
    """The truth about the winner of a search; one that was begun goes on.

    Args:
        source: the job's run.yaml.
        out: folder of the runs.
        cache: of truths; None is the user's.
        floor: percent of chat's English that the search is to keep.
        by_row: with row weights.
        seed: of the search, and of the cut of the items.
    """
    import torch

    from evomerge.commands.search import search
    from evomerge.record.record import Record
    from evomerge.run.preflight import prepare
    from evomerge.run.spec import load_run
    from tests.benchmarks.search.truth import Truth

    torch.set_num_threads(1)
    place = out / f"{'rows' if by_row else 'tensors'}-{floor:g}" / f"seed-{seed}"
    write_job(source, place, seed, {})
    job = config.read(place / "run.yaml").plain
    job["fitness"]["objectives"]["chat_en"]["floor"] = f"{floor:g}% of chat"
    job["space"]["rows"] = ROWS_AS if by_row else False
    if by_row:
        # the descent behind the search takes none of what the search alone has
        budget = int(job["budget"]["items"])
        config.write_text(
            place / "run.yaml", config.dump({**job, "budget": {"items": 10 * budget}})
        )
        reserve = prepare(load_run(place)).reserve.items
        job["budget"] = {"items": budget + reserve}
    config.write_text(place / "run.yaml", config.dump(job))
    winner = search(place).winner
    values = Truth(prepare(load_run(place)), cache=cache).values(winner) if winner else None
    history = Record(place).history
    spent = sum(
        evaluation.items
        for batch in history.batches
        for evaluation in history.evaluations(batch.number).values()
    )
    settings = {"rows": by_row, "floor": floor, "seed": seed}
    return Reached("search", settings, **Reached.values_of(values or {}), items=spent)


def told(row: Reached, scale: Scale) -> str:
    """A line about the winner of a search."""
    floor = float(row.settings["floor"])
    return (
        f"seed {row.settings['seed']}: chat_en {row.chat_en:.3f} "
        f"({'holds' if scale.holds(row, floor) else 'MISSES'} {floor:g} %), "
        f"plain_sea {row.plain_sea:.3f} ({scale.kept(row):.1f} % of sea's), chat_sea {row.chat_sea:.3f}, "
        f"write_sea {row.write_sea:.3f} (mean {scale.combined(row):.3f}), {row.items:,} item-forwards"
    )


def counted(winners: Winners, scale: Scale) -> str:
    """In how many seeds what was asked is reached."""
    kept, combined = ASKED[winners.by_row]
    held = [row for row in winners.rows if scale.holds(row, winners.floor)]
    far = [row for row in held if scale.kept(row) >= kept]
    both = [row for row in far if scale.combined(row) >= combined]
    return (
        f"{'row weights' if winners.by_row else 'a weight a tensor'}, floor {winners.floor:g} %: of "
        f"{len(winners.rows)} seeds the floor holds in {len(held)}; with at least {kept:g} % of sea's words in "
        f"{len(far)}; and a combination of at least {combined:g} in {len(both)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.search.frontier",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("bench-search"), help="of rows and runs")
    parser.add_argument("--seeds", help="search: how many, or FIRST:END")
    parser.add_argument("--rows", action="store_true", help="search with row weights")
    parser.add_argument("--floor", type=float, default=FLOOR, help="percent (default: %(default)g)")
    parser.add_argument("--run", type=Path, default=RUN, help="the job that is searched")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    parser.add_argument("--known", nargs="*", metavar="METHOD", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, help="of CPU for known recipes (default: all)")
    parser.add_argument("--cache", type=Path, help="folder of known answers")
    parser.add_argument("--save", action="store_true", help=f"add the rows to {ROWS.name}")
    parser.add_argument("--table", action="store_true", help="print the tables")
    parser.add_argument("--picture", type=Path, help="write the picture here")
    options = parser.parse_args()
    if unknown := set(options.known or ()) - set(NAMES):
        parser.error(f"--known: no grid for {', '.join(sorted(unknown))}; there are {list(NAMES)}")
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    path = out / ROWS.name
    rows = load(ROWS, path)
    if options.known is not None or (options.seeds and not rows):
        rows += _known(rows, path, options)
    if options.seeds:
        rows += _searched(rows, path, options)
    if options.save:
        save(rows, ROWS)
    if options.table:
        print(tables(rows))
    if options.picture:
        from tests.benchmarks.search.frontier_picture import picture

        config.write_text(options.picture, picture(rows))


def _known(rows: Sequence[Reached], path: Path, options: argparse.Namespace) -> list[Reached]:
    """What is missing of known recipes; of parents alone, unless methods are asked for."""
    import torch

    from evomerge.run.preflight import prepare
    from evomerge.run.spec import load_run
    from tests.benchmarks.search.frontier_known import Known
    from tests.benchmarks.search.truth import Truth

    torch.set_num_threads(1)
    truth = Truth(prepare(load_run(options.run)), cache=options.cache)
    known = Known(truth, rows, options.seconds)
    wanted = options.known or list(NAMES)
    found = known.parents() if options.known is None else known.fill(wanted)
    return list(_appended(found, path))


def _searched(rows: Sequence[Reached], path: Path, options: argparse.Namespace) -> list[Reached]:
    """The winners that are missing; all that are there are told and counted."""
    scale, floor, by_row = Scale.of(rows), options.floor, options.rows
    there = {row.settings["seed"]: row for row in rows if _is_of(row, floor, by_row)}
    seeds = seeds_from(options.seeds)
    missing = [seed for seed in seeds if seed not in there]
    search = partial(
        searched, options.run.resolve(), path.parent / "runs", options.cache, floor, by_row
    )
    for seed in seeds:
        if seed in there:
            print(told(there[seed], scale), flush=True)
    found: list[Reached] = []
    with ExitStack() as stack:
        each: Callable[..., Iterator[Reached]] = map
        if options.jobs > 1:
            each = stack.enter_context(ProcessPoolExecutor(options.jobs, get_context("spawn"))).map
        for row in _appended(each(search, missing), path):
            print(told(row, scale), flush=True)
            found.append(row)
    of = [row for row in (*there.values(), *found) if row.settings["seed"] in seeds]
    print(counted(Winners(floor, by_row, tuple(of)), scale))
    return found


def _is_of(row: Reached, floor: float, by_row: bool) -> bool:
    settings = row.settings
    return row.source == "search" and (settings["floor"], settings["rows"]) == (floor, by_row)


def _appended(rows: Iterable[Reached], path: Path) -> Iterator[Reached]:
    """The same, each written down as it comes."""
    for row in rows:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        yield row


if __name__ == "__main__":
    main()
