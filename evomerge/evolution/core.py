"""The search core: proposes batches. No files, clocks, threads or Ray.

``propose`` is a function of what the history has folded so far, so a resumed search that folds the
journal stands exactly where the interrupted one stood.

Batches come in phases (see ``history.Phase``); where the budget is extended after the shortlist or the
report, the search goes on with all that it was told, and another shortlist and report follow. The ask for
batch b sees exactly the tells of batches up to b - lag (the first two batches are always seen), however
early results arrive. The same batches decide what is left of the budgets.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evomerge.evolution.archive import Elite
from evomerge.evolution.archive.best import best
from evomerge.evolution.archive.front import knees, spread
from evomerge.evolution.candidate import Candidate
from evomerge.evolution.floors import chance, safe
from evomerge.evolution.history import OUT_OF_HOURS, SLOPE_COST, Batch, Cost, History, Phase
from evomerge.evolution.pulled import ROW_PARTS, pulled, pulled_rows, ways
from evomerge.evolution.row_descent import RowDescent, Slope
from evomerge.optimizers import Optimizer, Told
from evomerge.params import Genome
from evomerge.recipe import Recipe
from evomerge.rows import Array
from evomerge.space import SearchSpace
from evomerge.space.start import SCORE
from evomerge.suite.objectives import Objective, Score, Values, counting, derived

Credit = Callable[[tuple[int, int]], Mapping[str, Mapping[str, float]]]
Lead = Callable[[tuple[int, int]], tuple[float, float] | None]
Margin = Callable[[tuple[int, int]], float]
RowSlopes = Callable[[str], Mapping[str, Array]]
# Workers are 95 percent busy if so many times as many candidates may be under way: where all take about as
# long as each other (log-normal, sigma 0.3), and where some take many times as long (sigma 1).
ENOUGH, ENOUGH_FOR_UNEQUAL = 2, 16
STEADY = 8  # so many candidates tell together how a descent stands to a floor
RECOMMENDED = 3  # most that an optimizer puts on the shortlist, where no front is wanted


@dataclass(frozen=True)
class Plan:
    """How far a search goes, and in which steps.

    Attributes:
        evaluations: candidates before the shortlist; None for no limit.
        population: candidates of a batch.
        lag: in batches.
        items, tokens: other limits on what is spent before the shortlist.
        cost: items that a candidate is asked when a part (0 to 1) of the search is over.
        patience: in generations: the search is given up once so many populations of candidates in a row did
            not lead the best before them by what counts; None never gives up.
        slope: what an item of a slope costs, in items.
        reserve: what the descent on row weights takes of the budgets, its tokens left out.
    """

    evaluations: int | None
    population: int
    lag: int = 1
    items: int | None = None
    tokens: int | None = None
    cost: Callable[[float], int] = lambda progress: 1
    patience: int | None = None
    slope: int = SLOPE_COST
    reserve: Cost = field(default_factory=Cost)

    @property
    def together(self) -> int:
        """Candidates that may be under way at a time."""
        return self.population * self.lag

    def extended(self, limits: Mapping[str, float | None]) -> Plan:
        """With the budgets that ``limits`` names, if it names any."""
        if not limits:
            return self
        evaluations, items, tokens = (
            None if (limit := limits[name]) is None else int(limit)
            for name in ("evaluations", "items", "tokens")
        )
        return replace(self, evaluations=evaluations, items=items, tokens=tokens)


@dataclass
class _Stall:
    """How long nothing got better, in the first ``told`` batches; a fold over them.

    Attributes:
        best: the last that led the one before by what counts: its candidate and its score.
        count: candidates of the search.
        since: how many there were with ``best``, or at an extension.
    """

    told: int = 0
    best: tuple[int, Score] | None = None
    count: int = 0
    since: int = 0


@dataclass(frozen=True)
class _Budget:
    """``used`` of ``allowed`` (None: unlimited), ``start`` of it by batches 0 and 1.

    ``price`` is what a candidate takes when a part of the search is over.
    """

    allowed: int | None
    used: float
    start: float
    price: Callable[[float], float]

    def progress(self, population: int) -> float:
        """The part of the search that is over: 0 at its first generation, 1 at its last."""
        if self.allowed is None:
            return 0.0
        steps = self.allowed - self.start - population * self.price(1.0)
        return min(1.0, (self.used - self.start) / max(1.0, steps))

    def left(self, progress: float) -> int:
        """Candidates that it still pays for."""
        if self.allowed is None:
            return sys.maxsize
        return int(max(0.0, self.allowed - self.used) / max(self.price(progress), 1e-9))


class Search:
    """A history, and what to ask next.

    Args:
        space: maps genomes and recipes.
        optimizer: freshly made; it is told what the history holds.
        plan: budget and batch size.
        history: of this search, empty or folded.
        objectives: of the suite; the front is over those that count.
        front: how many members of the front join the shortlist, to be confirmed; 0 wants no front: its
            knees join, to be chosen from like any other.
        starts: known recipes by label; default: the space's.
        lead: (batch, candidate) -> by how much it leads the first of its batch there, with the error.
        credit: (batch, candidate) -> what its answers are worth, for optimizers that are told of single
            items (``Told.answers``).
        margin: (batch, candidate) -> by how much its score must lead another's to count.
        row_slopes: ``Evaluation.vectors`` -> objective -> its derivative by every row weight.
    """

    def __init__(
        self,
        space: SearchSpace,
        optimizer: Optimizer,
        plan: Plan,
        history: History,
        *,
        objectives: Sequence[Objective] = (),
        front: int = 0,
        starts: Mapping[str, Recipe] | None = None,
        lead: Lead = lambda at: None,
        credit: Credit = lambda at: {},
        margin: Margin = lambda at: 0.0,
        row_slopes: RowSlopes = lambda sha256: {},
    ) -> None:
        self.space, self.optimizer, self.plan, self.history = space, optimizer, plan, history
        self._objectives, self._front = counting(objectives), front  # of which some may be idle
        self._floored = [objective for objective in objectives if objective.floor]
        self._signs = {objective.name: objective.sign for objective in objectives}
        self._starts = space.starts() if starts is None else starts
        self._lead, self._margin, self._credit = lead, margin, credit
        self._row_slopes = row_slopes
        self._stall = _Stall()
        self._told = 0  # batches told to the optimizer
        self._rows: RowDescent | None = None
        self._searched = 0  # batches that the descent on row weights began behind
        self._descended = 0  # batches that it knows
        self._said: list[str] = []  # of each descent on row weights, what came of it
        self._heard = 0  # batches that this is of

    def propose(self) -> Batch | None:
        """The next batch; None while results are awaited, and when the search is done."""
        history = self.history
        number = len(history.batches)
        if number == 0:
            return self._batch(Phase.REFERENCES, self._named(self.space.references()))
        if history.phase == Phase.REPORT and not (history.reported and history.reopened):
            return None
        if history.phase == Phase.SELECT and not (
            history.reopened and history.complete() and history.unjudged is None
        ):
            return self._after_select()
        if history.phase == Phase.ROWS and not history.reopened:
            return self._after_search()
        if number == 1:
            return (
                self._batch(Phase.START, self._named(self._known())) if history.complete() else None
            )
        seen = self._seen
        if not history.complete(seen):
            return None
        count, progress = (0, 1.0) if history.closed else self._outlook(seen)
        if count <= 0:
            return self._after_search()
        self._tell(seen)
        asked = self.optimizer.ask(count, number)
        first = len(history.candidates)
        name = self.optimizer.name
        candidates = [
            # as drawn, not canonical: CMA-ES learns from its own points, not from rounded ones
            Candidate(
                first + i,
                ask.origin or name,
                self.space.decode(ask.genome),
                ask.genome,
                ask.slope,
            )
            for i, ask in enumerate(asked)
        ]
        fresh = any(ask.fresh for ask in asked)
        return Batch(number, Phase.SEARCH, tuple(candidates), progress, seen, fresh)

    @property
    def _seen(self) -> int:
        """How many batches the next ask sees."""
        return max(2, len(self.history.batches) - self.plan.lag + 1, self.history.behind)

    def refusal(self, limits: Mapping[str, float | None]) -> str:
        """Why an extension of the budgets to ``limits`` would change nothing; empty if it would not."""
        batches = self.history.batches
        if not batches or batches[-1].phase.searched:
            return ""
        count, _ = self._outlook(1 + max(b.number for b in batches if b.phase.searched), limits)
        if count > 0:
            return ""
        return "it does not pay for another candidate. Allow more, of every budget that there is"

    def stalled(self) -> str | None:
        """Why the search phase is to be closed now, since nothing gets better; None if it is not.

        It depends on the batches alone that the next ask sees. Told from one to the next, the score to
        beat is that of the last candidate that led the one before it by what counts (``margin``), so that
        small steps add up.
        """
        history, plan, stall = self.history, self.plan, self._stall
        if plan.patience is None or history.closed or history.phase != Phase.SEARCH:
            return None
        seen = self._seen
        if not history.complete(seen):
            return None
        for batch in history.batches[stall.told : seen]:
            if batch.number in history.extensions:
                stall.since = stall.count
            self._compare(batch)
        stall.told = max(stall.told, seen)
        if history.extensions and stall.told <= history.extensions[-1]:
            return None
        waited = stall.count - stall.since
        if stall.best is None or waited < plan.patience * plan.population:
            return None
        id, score = stall.best
        return (
            f"no gain: {waited} candidates in a row did not lead #{id} ({score.value:.3f}) by more than the error "
            "of a score, and one item"
        )

    def _compare(self, batch: Batch) -> None:
        """Fold a batch into the stall."""
        stall = self._stall
        if batch.phase not in (Phase.START, Phase.SEARCH):
            return
        # points of a descent are glanced at: their scores decide nothing
        scored = [candidate for candidate in batch.candidates if not candidate.slope]
        stall.count += len(scored) if batch.phase == Phase.SEARCH else 0
        for candidate in scored:
            score = self.history.scores(batch.number)[candidate.id]
            if score is not None and self._leads((batch.number, candidate.id), score):
                stall.best, stall.since = (candidate.id, score), stall.count

    def _leads(self, at: tuple[int, int], score: Score) -> bool:
        """Whether a candidate leads the one to beat by what counts."""
        if self._stall.best is None:
            return True
        _, known = self._stall.best
        if score.feasible != known.feasible:
            return score.feasible
        lead = score.rank[1] - known.rank[1]
        return lead > 0 and lead > self._margin(at)

    def _outlook(
        self, seen: int, limits: Mapping[str, float | None] | None = None
    ) -> tuple[int, float]:
        """How many candidates come next, and which part of the search is over before them.

        ``limits`` are budgets other than those that there are.

        What the first ``seen`` batches cost counts as it was, what later ones will cost as it is
        expected, so early results change nothing. The first budget that runs out ends the search.
        """
        history = self.history
        plan = self.plan.extended(history.limits if limits is None else limits)
        spent, known = history.cost(seen), history.cost(2)
        rate = spent.tokens / max(1, spent.items)
        ahead = sum(
            plan.slope * plan.cost(0.0) if c.slope else plan.cost(b.progress)
            for b in history.batches[seen:]
            for c in b.candidates
        )
        kept = plan.reserve

        def allowed(limit: int | None, reserve: float) -> int | None:
            return None if limit is None else max(0, limit - round(reserve))

        budgets = [
            _Budget(
                allowed(plan.evaluations, kept.evaluations),
                history.searched,
                known.evaluations,
                lambda progress: 1,
            ),
            _Budget(allowed(plan.items, kept.items), spent.items + ahead, known.items, plan.cost),
            _Budget(
                allowed(plan.tokens, rate * kept.items),
                spent.tokens + rate * ahead,
                known.tokens,
                lambda p: rate * plan.cost(p),
            ),
        ]
        progress = max(budget.progress(plan.population) for budget in budgets)
        if history.extensions:  # more is left than was thought, but no candidate is asked less
            newest_first = reversed(history.batches)
            before = next((b.progress for b in newest_first if b.phase == Phase.SEARCH), 0.0)
            progress = max(progress, before)
        count = min(plan.population, *(budget.left(progress) for budget in budgets))
        newest = history.evaluations(seen - 1).values() if seen > max(2, history.behind) else ()
        cost = "tokens" if plan.items is None else "items"
        if plan.evaluations is None and newest and not any(getattr(e, cost) for e in newest):
            count = 0  # nothing new was asked, as nothing is left to ask: no budget would run out
        return count, progress

    def _batch(self, phase: Phase, candidates: Iterable[Candidate]) -> Batch:
        return Batch(len(self.history.batches), phase, tuple(candidates))

    def _known(self) -> Mapping[str, Recipe]:
        """The known recipes; those that weigh models by their losses know them now, from base and parents."""
        found = dict(self._starts)
        for label, of in self.space.losses.items():
            if label in found:
                found[label] = self.space.with_losses(found[label], self._losses(of))
        return found

    def _losses(self, of: str) -> dict[str, float]:
        """What base and parents lose: what they lack of the best of them, or their values where less is better."""
        references = self.history.references(0)
        if of == SCORE:
            lost = {
                name: -self.history.score(0, values).value for name, values in references.items()
            }
        else:
            lost = {name: -self._signs[of] * values[of] for name, values in references.items()}
        least = min(0.0, *lost.values())
        return {name: value - least for name, value in lost.items()}

    def _named(self, recipes: Mapping[str, Recipe]) -> list[Candidate]:
        first = len(self.history.candidates)
        return [
            Candidate(first + i, label, recipe, self.space.encode(recipe))
            for i, (label, recipe) in enumerate(recipes.items())
        ]

    def _tell(self, count: int) -> None:
        """Tell the optimizer the first ``count`` batches, once each, in order."""
        for batch in self.history.batches[self._told : count]:
            told = [
                self._what_came_of(batch, candidate, candidate.genome)
                for candidate in batch.candidates
                if candidate.genome is not None
            ]
            if told and batch.phase.searched:
                self.optimizer.tell(batch.number, batch.seen, told)
        self._told = max(self._told, count)

    def _what_came_of(self, batch: Batch, candidate: Candidate, genome: tuple[float, ...]) -> Told:
        """Values in yardstick units, so that objectives compare with each other; 0 of an idle one."""
        evaluation = self.history.evaluations(batch.number)[candidate.id]
        score = self.history.scores(batch.number)[candidate.id]
        if score is None or evaluation.values is None:
            return Told(genome, None)
        errors = evaluation.errors or {}
        gains = self.history.gains
        found = [(o, errors.get(o.name)) for o in self._objectives]
        slopes = evaluation.slopes or {}
        steady = self._steadied(batch.number, evaluation.values) if slopes else {}
        shares = self.history.shares(batch.number, steady) if slopes else {}
        return Told(
            genome,
            score.value,
            tuple(
                o.sign * evaluation.values[o.name] / gains[o.name] if o.name in gains else 0.0
                for o in self._objectives
            ),
            tuple(
                0.0 if o.name not in gains else None if error is None else error / gains[o.name]
                for o, error in found
            ),
            score.violation,
            tuple(evaluation.values[m.name] for m in self.optimizer.problem.measures),
            answers=self._credit((batch.number, candidate.id)) if self.optimizer.ANSWERS else {},
            slope=_blended(slopes, shares) if slopes else None,
            slopes=tuple(
                _blended(slopes, derived(o, evaluation.values, self._per_yardstick(o)))
                for o in self._objectives
            )
            if slopes
            else (),
            lead=self._lead((batch.number, candidate.id)) if batch.fresh else None,
        )

    def _steadied(self, number: int, values: Values) -> Values:
        """``values``, those that have a floor averaged over the newest candidates that a slope was taken of.

        One is scored on few items: its own luck is not to decide whether a floor is missed.
        """
        names = [o.name for o in self._floored if not o.of]
        batches = (self.history.batches[at] for at in range(number, 1, -1))
        found = (
            each.values
            for batch in (batches if names else ())
            if batch.slopes
            for each in self.history.evaluations(batch.number).values()
            if each.values is not None
        )
        newest = list(itertools.islice(found, STEADY))
        return {**values, **{n: math.fsum(each[n] for each in newest) / len(newest) for n in names}}

    def _per_yardstick(self, objective: Objective) -> float:
        """What one unit of an objective counts, more being better; 0 of an idle one."""
        gain = self.history.gains.get(objective.name)
        return objective.sign / gain if gain else 0.0

    # -- row weights ----------------------------------------------------------------------------

    @property
    def decisions(self) -> Sequence[str]:
        """What the optimizer decided so far, and what came of row weights, in words."""
        if self.space.rows:
            for batch in self.history.batches[self._heard :]:
                if batch.phase == Phase.ROWS and batch.fresh:
                    if not self.history.scores(batch.number):
                        break
                    self._said.append(self._what_came_of_rows(batch))
                self._heard = batch.number + 1
        return [*self.optimizer.decisions, *self._said]

    def _after_search(self) -> Batch | None:
        """The next step of the descent on row weights, where there are any; then the shortlist."""
        history = self.history
        if not history.complete():
            return None
        descent = (
            self._descent_so_far() if self.space.rows and history.closed != OUT_OF_HOURS else None
        )
        if descent is None or descent.over:
            return self._select_batch()
        number, first = len(history.batches), len(history.candidates)
        fresh = descent.comparing
        asked = (
            [("row weights: before", descent.start), ("row weights", descent.found)]
            if fresh
            else [(f"row weights, step {descent.steps + 1}", descent.point)]
        )
        candidates = [
            Candidate(first + i, origin, recipe, None, not fresh)
            for i, (origin, recipe) in enumerate(asked)
        ]
        return Batch(number, Phase.ROWS, tuple(candidates), 1.0, number, fresh)

    def _descent_so_far(self) -> RowDescent | None:
        """The descent behind all that was searched, of what is complete; None where it has no start."""
        batches = self.history.batches
        searched = 1 + max(b.number for b in batches if b.phase in (Phase.START, Phase.SEARCH))
        if self._rows is None or self._searched != searched:
            self._tell(len(batches))
            genomes = self.optimizer.recommend(1)
            if not genomes:
                return None
            self._rows = RowDescent(self.space, self.space.decode(genomes[0]))
            self._searched = self._descended = searched
        for batch in batches[self._descended :]:
            if batch.fresh:
                self._rows.end()
            else:
                self._rows.move(self._row_slope(batch))
        self._descended = len(batches)
        return self._rows

    def _what_came_of_rows(self, compared: Batch) -> str:
        """In words."""
        found = compared.candidates[-1]
        rows = found.recipe.body.rows
        said = f"row weights, {rows.size if rows else 0:,} of them"
        lead = self._lead((compared.number, found.id))
        if lead is None:
            return f"{said}: they could not be compared with what they refine"
        return (
            f"{said}: they lead what they refine by {lead[0]:+.3f} ± {lead[1]:.3f} on fresh items; the shortlist "
            "decides"
        )

    def _is_row_step(self, elite: Elite) -> bool:
        batch = self.history.batches[elite.batch]
        return batch.phase == Phase.ROWS and not batch.fresh

    def _row_slope(self, batch: Batch) -> Slope | None:
        """The derivative of the score by every row weight of the batch's one candidate."""
        evaluation = self.history.evaluations(batch.number)[batch.candidates[0].id]
        if evaluation.values is None or evaluation.vectors is None:
            return None
        shares = self.history.shares(batch.number, self._steadied(batch.number, evaluation.values))
        slopes = self._row_slopes(evaluation.vectors)
        total = np.zeros(len(next(iter(slopes.values()))))
        for name, slope in slopes.items():
            total += shares.get(name, 0.0) * slope.astype(np.float64)
        return total

    def _select_batch(self) -> Batch:
        """Shortlist: references, baselines, the best observed, also of those that likely hold their
        floors, the front, the recommendation, and what an earlier shortlist chose."""
        history = self.history
        self._tell(len(history.batches))
        chosen = [c for c in history.batches[0].candidates]
        chosen += [history.candidates[i] for i in (*history.baselines, *history.chosen)]
        # a step on row weights is scored on few items; what all steps led to stands for them
        merges = [e for e in history.merges() if not self._is_row_step(e)]
        distinct = {
            history.candidates[e.candidate].digest: e for e in best(merges, len(merges))[::-1]
        }
        elites = list(distinct.values())
        chosen += [history.candidates[e.candidate] for e in best(elites, self.optimizer.observed)]
        if self._floored:
            chosen += [history.candidates[e.candidate] for e in safe(elites, self._chance)]
        chosen += [history.candidates[e.candidate] for e in self._of_front(elites)]
        failed = {
            e.candidate
            for batch in history.batches
            for e in history.evaluations(batch.number).values()
            if e.values is None
        }
        # what a descent on row weights led to, the second of its comparison
        found_by_rows = (
            b.candidates[-1] for b in history.batches if b.phase == Phase.ROWS and b.fresh
        )
        refined = [candidate for candidate in found_by_rows if candidate.id not in failed]
        chosen += refined
        for model, part, way in ways(self.guards if refined else (), ROW_PARTS):
            recipe = pulled_rows(refined[-1].recipe, self.space.places, model, part)
            moved = self._refined(f"{refined[-1].origin}, {way}", recipe, chosen)
            if moved.id not in failed:
                chosen.append(moved)
        for genome, origin in self._recommendations():
            found = self._recommended(self.space.canonical(genome), origin, chosen)
            if found.id not in failed:
                chosen.append(found)
        unique = {c.digest: c for c in reversed(chosen)}
        return self._batch(Phase.SELECT, sorted(unique.values(), key=lambda c: c.id))

    def _recommendations(self) -> Iterator[tuple[Genome, str]]:
        """What the optimizer puts on the shortlist; where there are floors, of its first find also what lies
        nearer to their models, and farther."""
        canonical, said = self.space.canonical, f"{self.optimizer.name} recommends"
        genomes = self.optimizer.recommend(max(RECOMMENDED, self._front))
        yield from ((genome, said) for genome in genomes)
        mixtures = self.space.mixtures
        if not (genomes and mixtures):
            return
        given = {canonical(c.genome) for c in self._given if c.genome is not None}
        found = next((genome for genome in genomes if canonical(genome) not in given), genomes[0])
        for model, part, way in ways(self.guards):
            yield pulled(found, mixtures, model, part), f"{said}, {way}"

    @property
    def guards(self) -> list[str]:
        """Models that floors name."""
        return list(dict.fromkeys(o.floor.of for o in self._floored if o.floor and o.floor.of))

    @property
    def _given(self) -> list[Candidate]:
        """Base, parents and known recipes."""
        return [c for batch in self.history.batches[:2] for c in batch.candidates]

    def _chance(self, elite: Elite) -> float:
        """How likely a candidate holds its floors, by its search scores."""
        errors = self.history.evaluations(elite.batch)[elite.candidate].errors or {}
        return chance(self._floored, elite.values, errors, self.history.references(elite.batch))

    def _of_front(self, elites: Sequence[Elite]) -> list[Elite]:
        ranking = [o for o in self._objectives if o.name not in self.history.idle]
        if self._front:
            return spread(elites, ranking, self._front)
        return knees(elites, ranking) if len(ranking) > 1 and self.optimizer.observed else []

    def _recommended(self, genome: Genome, origin: str, others: Sequence[Candidate]) -> Candidate:
        """The candidate of a canonical genome: a known one if it was drawn before, or if its recipe is
        among ``others``."""
        given = {candidate.id for candidate in self._given}
        recipe = self.space.decode(genome)
        for known in self.history.candidates.values():
            # a drawn one's recipe is that of its genome; a known recipe's may be written otherwise
            if known.genome is None or (known.digest != recipe.digest and known.id not in given):
                continue
            if self.space.canonical(known.genome) == genome:
                return known
        return self._among(others, origin, recipe, genome)

    def _refined(self, origin: str, recipe: Recipe, others: Sequence[Candidate]) -> Candidate:
        """The candidate of a recipe that has no genome: a known one, if there is any."""
        known = self.history.candidates.values()
        return self._among([*known, *others], origin, recipe, None)

    def _among(
        self, others: Sequence[Candidate], origin: str, recipe: Recipe, genome: Genome | None
    ) -> Candidate:
        """The one of ``others`` that has the recipe; else a new one, behind all there are and those of them
        that are new themselves."""
        for other in others:
            if other.digest == recipe.digest:
                return other
        number = len(self.history.candidates)
        number += len({candidate.id for candidate in others if candidate.id >= number})
        return Candidate(number, origin, recipe, genome)

    def _after_select(self) -> Batch | None:
        """The next round for who is left, or the report; None until the newest round is judged."""
        history = self.history
        newest = history.batches[-1]
        verdict = history.verdicts[-1] if history.verdicts else None
        if verdict is None or verdict.batch != newest.number:
            return None
        if verdict.last:
            return self._report_batch()
        out = {each.candidate for each in verdict.dropped}
        out |= {
            e.candidate for e in history.evaluations(newest.number).values() if e.values is None
        }
        return self._batch(Phase.SELECT, [c for c in newest.candidates if c.id not in out])

    def _report_batch(self) -> Batch:
        history = self.history
        members = {c.id for c in history.batches[0].candidates}
        members |= {*history.baselines, *history.chosen}
        return self._batch(Phase.REPORT, [history.candidates[i] for i in sorted(members)])


def _blended(slopes: Mapping[str, Genome], shares: Mapping[str, float]) -> Genome:
    """The sum of ``slopes``, each with its share; 0 for what has none."""
    size = len(next(iter(slopes.values())))
    return tuple(
        math.fsum(shares.get(name, 0.0) * slope[at] for name, slope in slopes.items())
        for at in range(size)
    )
