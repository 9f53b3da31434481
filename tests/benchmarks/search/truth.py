"""The truth about recipes: their scores on every item of a suite, and on the items that a search did not see.

    python -m tests.benchmarks.search.truth RUN_DIR... [--json FILE] [--jobs 2]
    python -m tests.benchmarks.search.truth --recipe RECIPE.yaml... [--run RUN.yaml]

A run's row: item-forwards by phase; the true score (plain mean of the objectives that count, all items) of
what the search would have recommended after 10, 25, 50 and 100 % of them; its winner's true and held-out score,
and how much more the table on the report split claims for it, and the search itself (if it scored it).

Held-out are the items none of whose sources, near-duplicates included, has an item in the run's search or
select split. One cut is harder than another: what the known merges of the job (``start``) score more on all items
than on those, on average and objective by objective, is added. Answers are kept on disk by recipe.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from evomerge import config
from evomerge.cache import cache_folder, name_of
from evomerge.evolution.core import Search
from evomerge.evolution.history import Phase
from evomerge.recipe import Recipe
from evomerge.record.events import JOURNAL, EndLine, Survey, read_lines
from evomerge.record.record import Record
from evomerge.run.ground import Ground
from evomerge.run.loop import Listener, _Loop
from evomerge.run.preflight import Run, prepare
from evomerge.run.spec import load_run
from evomerge.suite.duplicates import find_duplicates
from evomerge.suite.objectives import counting
from evomerge.suite.scorer import Items, Results, column
from evomerge.suite.splits import Split
from evomerge.worker import Job, Setup, Worker

DEMO = Path(__file__).parents[3] / "runs" / "demo" / "run.yaml"
SHARES = (0.10, 0.25, 0.50, 1.00)  # of a run's item-forwards

Columns = dict[str, list[Any]]  # measured objective -> value of each item, None where it has none
Values = dict[str, float]

_worker: Worker | None = None


class Truth:
    """Scores recipes on every item of a job's suite, each recipe once in the life of the cache.

    Args:
        job: its models, scorers and dtype make the truth; splits, seed, budget and optimizer do not.
        cache: a folder; default is the user's cache.
        jobs: processes that score; 0 scores in this one.
    """

    def __init__(self, job: Run, *, cache: Path | None = None, jobs: int = 0) -> None:
        self.job, self.jobs = job, jobs
        self.items: Items = {
            name: [item.id for item in scorer.items()] for name, scorer in job.suite.scorers.items()
        }
        made_of = {
            "models": {name: model.fingerprint for name, model in job.models.items()},
            "scorers": {name: s.fingerprint for name, s in job.suite.scorers.items()},
            "measured": [[o.name, o.scorer, o.metric] for o in job.suite.measured],
            "scoring": job.scoring,
        }
        self.folder = (cache or cache_folder("truth")) / name_of(made_of)
        self._known: dict[str, Columns | None] = {}

    def learn(self, recipes: Iterable[Recipe]) -> None:
        """Score those that the cache lacks."""
        recipes = [recipe.portable() for recipe in recipes]
        wanted = list({r.digest: r for r in recipes if not self._read(r.digest)}.values())
        if not wanted:
            return
        setup, answers = self.job.worker("cpu").argument, [r.plain for r in wanted]
        if self.jobs and len(wanted) > 1:
            count = min(self.jobs, len(wanted))
            with ProcessPoolExecutor(count, get_context("spawn"), _start, [setup]) as pool:
                found = pool.map(_answer, answers, [self.items] * len(wanted))
                for recipe, plain in zip(wanted, found, strict=True):
                    self._write(recipe.digest, plain)
        else:
            worker = self._resident
            for recipe in wanted:
                self._write(recipe.digest, _outcome(worker, recipe.plain, self.items))

    def values(self, recipe: Recipe, items: Mapping[str, set[str]] | None = None) -> Values | None:
        """Values of all objectives over all ``items`` (default: every one); None if the recipe fails."""
        self.learn([recipe])
        columns = self._known[recipe.portable().digest]
        return None if columns is None else self.valued(columns, items)

    def valued(self, columns: Columns, items: Mapping[str, set[str]] | None = None) -> Values:
        """Values of all objectives from ``columns``, over ``items`` (default: every one)."""
        suite, found = self.job.suite, {}
        for objective in suite.measured:
            values, ids = columns[objective.name], self.items[objective.scorer]
            if items is not None:
                pairs = zip(ids, values, strict=True)
                values = [value for id, value in pairs if id in items[objective.scorer]]
            found[objective.name] = suite.scorers[objective.scorer].aggregate(
                objective.metric, values
            )
        return suite.with_derived(found)

    def columns(self, results: Results) -> Columns:
        """What ``valued`` takes, from responses to every item."""
        for objective in self.job.suite.measured:
            assert results[objective.scorer]["items"] == self.items[objective.scorer]
        return {o.name: column(results[o.scorer], o.metric) for o in self.job.suite.measured}

    def score(self, recipe: Recipe) -> float:
        """The plain mean over all items; -inf if the recipe fails."""
        return self.mean(self.values(recipe))

    def mean(self, values: Values | None) -> float:
        """The plain mean of the objectives that count, maximised; -inf of nothing."""
        if values is None:
            return -math.inf
        return statistics.fmean(
            o.sign * values[o.name] for o in counting(self.job.suite.objectives)
        )

    @cached_property
    def _resident(self) -> Worker:
        return Worker(Setup.from_plain(self.job.worker("cpu").argument))

    def _read(self, digest: str) -> bool:
        """Whether the answers of a recipe are known."""
        path = self.folder / f"{digest}.json"
        if digest not in self._known and path.is_file():
            self._known[digest] = json.loads(path.read_text())["columns"]
        return digest in self._known

    def _write(self, digest: str, answered: Mapping[str, Any]) -> None:
        results = answered["results"]
        columns = None if results is None else self.columns(results)
        self._known[digest] = columns
        text = json.dumps({"columns": columns, "error": answered["error"]})
        config.write_text(self.folder / f"{digest}.json", text)


def _start(setup: Mapping[str, Any]) -> None:
    global _worker
    os.environ["OMP_NUM_THREADS"] = "1"
    _worker = Worker(Setup.from_plain(setup))


def _answer(recipe: Mapping[str, Any], items: Items) -> dict[str, Any]:
    assert _worker is not None
    return _outcome(_worker, recipe, items)


def _outcome(worker: Worker, recipe: Mapping[str, Any], items: Items) -> dict[str, Any]:
    outcome = worker(Job("truth", recipe, items))
    return {"results": outcome.results, "error": outcome.error}


@dataclass(frozen=True)
class Cut:
    """What a run left unseen.

    Attributes:
        items: scorer -> held-out ids.
        shift: objective -> by how much all items are easier, for known merges.
    """

    items: dict[str, set[str]]
    shift: Values

    @classmethod
    def of(cls, truth: Truth, job: Run) -> Cut:
        """The cut of a ``job``, whose items and models are those of ``truth``."""
        items = unseen(job)
        known = list(job.space.starts().values())
        truth.learn(known)
        pairs = [(truth.values(recipe), truth.values(recipe, items)) for recipe in known]
        shift = {
            o.name: statistics.fmean(
                every[o.name] - held[o.name] for every, held in pairs if every and held
            )
            for o in job.suite.objectives
        }
        return cls(items, shift)

    def values(self, truth: Truth, recipe: Recipe) -> Values | None:
        """Held-out values of a recipe, made comparable with those over all items."""
        found = truth.values(recipe, self.items)
        return found and {name: value + self.shift[name] for name, value in found.items()}


def unseen(job: Run) -> dict[str, set[str]]:
    """Scorer -> items of which no source, nor a near-duplicate of it, is in the search or select split."""
    inventory = {name: scorer.items() for name, scorer in job.suite.scorers.items()}
    leader = {s: group.leader for group in find_duplicates(inventory) for s in group.sources}
    splits = job.suite.splits
    seen = {
        leader.get(item.source, item.source)
        for name, items in inventory.items()
        for item in items
        if item.id in {*splits[Split.SEARCH][name], *splits[Split.SELECT][name]}
    }
    return {
        name: {item.id for item in items if leader.get(item.source, item.source) not in seen}
        for name, items in inventory.items()
    }


@dataclass(frozen=True)
class Judgement:
    """The truth about a run.

    Attributes:
        run: its folder.
        optimizer: by name.
        seed: of the run.
        spent: phase -> item-forwards; a slope counts what its backward passes cost.
        shares: share of the item-forwards -> true score of what was recommended then.
        values: of the winner, objective by objective, over all items.
        true, held_out: the winner's mean over all items; over those unseen, shifted.
        claimed: the mean that the table on the report split gives for it.
        searched: the mean that the search itself saw for it, if it was ever scored there.
        held_items: how many items were unseen.
        seconds: worked.
    """

    run: str
    optimizer: str
    seed: int
    spent: dict[str, int]
    shares: dict[str, float]
    values: Values
    true: float
    held_out: float
    claimed: float
    searched: float | None
    held_items: int
    seconds: float = field(compare=False, default=0.0)

    @property
    def total(self) -> int:
        return sum(self.spent.values())


class Replay:
    """A search that was made, asked again what it would have recommended after some of its batches."""

    def __init__(self, folder: Path) -> None:
        self.record, self.job = Record(folder), prepare(load_run(folder))
        self._search: Search | None = None
        self._told = 0

    @property
    def costs(self) -> list[int]:
        """Item-forwards of the first 1, 2, ... batches."""
        costs, total = [], 0
        for batch in self.record.history.batches:
            found = self.record.history.evaluations(batch.number).values()
            total += sum(evaluation.items for evaluation in found)
            costs.append(total)
        return costs

    @property
    def winner(self) -> Recipe:
        history = self.record.history
        if history.winner is None:
            raise SystemExit(f"{self.record.folder}: the search has no winner (yet)")
        return history.candidates[history.winner].recipe

    def after(self, count: int) -> Recipe:
        """What the first ``count`` batches recommend; ask for rising counts.

        The winner once the shortlist is judged; before, what the optimizer recommends; before it was told
        anything, the best of what was scored. The base, if that is nothing.
        """
        history = self.record.history
        batches = history.batches[:count]
        if history.verdicts[-1:] and history.verdicts[-1].batch < count:
            return self.winner
        if any(batch.phase == Phase.SEARCH for batch in batches):
            told = len([batch for batch in batches if batch.phase.searched])
            if genomes := self._told_first(told).optimizer.recommend(1):
                return self.job.space.decode(genomes[0])
        elites = [e for e in history.elites(*Phase) if e.batch < count]
        best = max(elites, key=lambda e: e.score.rank, default=None)
        first = history.batches[0].candidates[0].id
        return history.candidates[first if best is None else best.candidate].recipe

    def _told_first(self, count: int) -> Search:
        """A search with the whole history, whose optimizer was told the first ``count`` batches."""
        if self._search is None or count < self._told:
            # as a resumed search stands there; all that is told comes from the journal and the responses
            store = self.record.open_responses()
            path = self.record.folder / JOURNAL
            survey = Survey.of(read_lines(path))
            journal: Any = _Finished(path)
            self._search = _Loop(
                self.job, journal, survey, store, Listener(), {}, Ground(self.job)
            ).search
        self._told = count
        self._search._tell(count)
        return self._search


@dataclass(frozen=True)
class _Finished:
    """The journal of a finished run: nothing is added to it."""

    path: Path

    def append(self, event: object) -> None:
        raise SystemExit(f"{self.path}: the search is not finished; resume it first")


def judge(folder: Path, truths: Truths) -> Judgement:
    """The truth about a finished run.

    Raises:
        InputError: the run cannot be read.
    """
    replay = Replay(folder)
    record, job = replay.record, replay.job
    truth = truths.of(job)
    costs = replay.costs
    counts = {share: sum(cost <= share * costs[-1] for cost in costs) for share in SHARES}
    recipes = {share: replay.after(count) for share, count in counts.items()}
    winner = replay.winner
    truth.learn([*recipes.values(), winner])
    cut = Cut.of(truth, job)
    values = truth.values(winner)
    assert values is not None
    spent: dict[str, int] = {}
    for batch in record.history.batches:
        found = record.history.evaluations(batch.number).values()
        spent[batch.phase.value] = spent.get(batch.phase.value, 0) + sum(e.items for e in found)
    claimed = -math.inf
    if any(isinstance(line, EndLine) for line in record.lines) and record.table:
        row = record.table.winner_row
        if row is not None:
            claimed = truth.mean({name: each.value for name, each in row.objectives.items()})
    seen = [e for e in record.history.merges() if e.candidate == record.history.winner]
    return Judgement(
        run=str(folder),
        optimizer=job.spec.optimizer,
        seed=job.spec.seed,
        spent=spent,
        shares={f"{share:.0%}": truth.score(recipe) for share, recipe in recipes.items()},
        values=values,
        true=truth.mean(values),
        held_out=truth.mean(cut.values(truth, winner)),
        claimed=claimed,
        searched=truth.mean(dict(seen[-1].values)) if seen else None,
        held_items=sum(map(len, cut.items.values())),
        seconds=record.seconds,
    )


class Truths:
    """One ``Truth`` for each set of models and scorers."""

    def __init__(self, cache: Path | None = None, jobs: int = 0) -> None:
        self._cache, self._jobs = cache, jobs
        self._found: dict[Path, Truth] = {}

    def of(self, job: Run) -> Truth:
        fresh = Truth(job, cache=self._cache, jobs=self._jobs)
        return self._found.setdefault(fresh.folder, fresh)


def table(rows: Sequence[Judgement]) -> str:
    """Markdown: a row a run, then means with 95% intervals over runs (Student's t)."""
    from evomerge.inference.intervals import student

    phases = list(dict.fromkeys(phase for row in rows for phase in row.spent))
    shares = list(rows[0].shares)
    names = [*shares, "true", "held-out", "claimed - true", "searched - true"]
    lines = [
        f"| run | optimizer | {' | '.join(phases)} | items | {' | '.join(names)} |",
        f"| --- | --- |{' ---: |' * (len(phases) + 1 + len(names))}",
    ]
    columns: dict[str, list[float]] = {name: [] for name in (*phases, "items", *names)}
    for row in rows:
        figures: dict[str, float] = {phase: row.spent.get(phase, 0) for phase in phases}
        figures |= {"items": row.total, **row.shares, "true": row.true, "held-out": row.held_out}
        figures["claimed - true"] = row.claimed - row.true
        figures["searched - true"] = math.nan if row.searched is None else row.searched - row.true
        for name, figure in figures.items():
            columns[name].append(figure)
        cells = [_cell(name, figure, names) for name, figure in figures.items()]
        lines.append(f"| {Path(row.run).name} | {row.optimizer} | {' | '.join(cells)} |")
    if len(rows) > 1:
        cells = []
        for name, column_ in columns.items():
            known = [figure for figure in column_ if math.isfinite(figure)]
            cell = _cell(name, statistics.fmean(known), names) if known else "-"
            if name in names and len(known) > 1:
                reach = student(len(known) - 1, 0.95) / math.sqrt(len(known))
                cell += f" ± {reach * statistics.stdev(known):.3f}"
            cells.append(cell)
        lines.append(f"| mean | | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(name: str, figure: float, scores: Sequence[str]) -> str:
    if not math.isfinite(figure):
        return "-"
    return f"{figure:.3f}" if name in scores else f"{figure:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished searches")
    parser.add_argument("--recipe", nargs="*", type=Path, default=[], help="recipe files instead")
    parser.add_argument("--run", type=Path, default=DEMO, help="whose suite judges recipe files")
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: this one)")
    parser.add_argument("--cache", type=Path, help="folder of known answers")
    parser.add_argument("--json", type=Path, help="write what was found here, too")
    options = parser.parse_args()
    if not options.runs and not options.recipe:
        parser.error("name the folder of a run, or a recipe file after --recipe")
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    found: list[Any] = []
    if options.recipe:
        job = prepare(load_run(options.run))
        truth = Truth(job, cache=options.cache, jobs=options.jobs)
        cut = Cut.of(truth, job)
        recipes = [Recipe.load(path) for path in options.recipe]
        truth.learn(recipes)
        names = [o.name for o in job.suite.objectives]
        print(f"| recipe | true | held-out | {' | '.join(names)} |")
        print(f"| --- | ---: | ---: |{' ---: |' * len(names)}")
        for path, recipe in zip(options.recipe, recipes, strict=True):
            values, held = truth.values(recipe), truth.mean(cut.values(truth, recipe))
            cells = [f"{values[name]:.3f}" if values else "failed" for name in names]
            print(f"| {path} | {truth.mean(values):.3f} | {held:.3f} | {' | '.join(cells)} |")
            found.append({"recipe": str(path), "values": values, "held_out": held})
    if options.runs:
        truths, rows = Truths(options.cache, options.jobs), []
        for folder in options.runs:
            rows.append(judge(folder, truths))
            print(f"{folder}: {rows[-1].true:.3f}", file=sys.stderr, flush=True)
        print(table(rows))
        found += [asdict(row) for row in rows]
    if options.json:
        config.write_text(options.json, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
