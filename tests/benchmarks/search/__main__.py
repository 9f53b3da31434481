"""The benchmark of searches.

    python -m tests.benchmarks.search [--seeds 20] [--jobs 2] [--tier t0 t1 t2 t3] [--out DIR]

Settings are chosen on the first twenty seeds; a claim is confirmed on a block of fresh ones (``--seeds 100:120``). A seed
that is finished is not run again. Prints tables in Markdown; ``--save`` also writes the rows from which
``docs/search.md`` is generated. ``--hero`` names whose differences to the others are shown.

Tiers: t0 analytic functions; t1 simulated landscapes; t2 the embedded models and their noisy twins, at the price of
what evomerge spent, all phases; t3 replay of the frozen matrix.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.benchmarks.search.results import Row, load, save, tables
from tests.benchmarks.search.run import FAMILIES, TIERS, Plan, run, seeds_from

RESULTS = Path(__file__).with_name("results.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", default="20", help="how many, or FIRST:END")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--tier", nargs="+", choices=TIERS, default=list(TIERS))
    parser.add_argument("--out", type=Path, default=Path("bench-search"), help="of rows and runs")
    parser.add_argument("--evaluations", nargs="+", type=int, default=[100, 300, 1000])
    parser.add_argument("--contestant", nargs="+", default=[], help="only these")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--hero", help="default: auto, or cma where that is not")
    parser.add_argument("--save", action="store_true", help=f"add the rows to {RESULTS.name}")
    options = parser.parse_args()
    plan = Plan(
        out=options.out.resolve(),
        tiers=tuple(options.tier),
        seeds=tuple(seeds_from(options.seeds)),
        evaluations=tuple(options.evaluations),
        contestants=tuple(options.contestant),
        families=tuple(options.family),
    )
    rows = run(plan, options.jobs)
    if options.save:
        known = {_key(row): row for row in load(RESULTS)} if RESULTS.is_file() else {}
        save({**known, **{_key(row): row for row in rows}}.values(), RESULTS)
    print(tables(rows, options.hero))


def _key(row: Row) -> tuple[str, str, str, int, int]:
    return row.tier, row.ground, row.contestant, row.seed, row.evaluations


if __name__ == "__main__":
    main()
