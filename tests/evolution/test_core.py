"""The search without files, workers or models: a scorer that is a formula."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge import optimizers
from evomerge.checkpoint import ModelRef
from evomerge.errors import RunError
from evomerge.evolution.archive import Elite
from evomerge.evolution.archive.front import knees
from evomerge.evolution.candidate import Candidate
from evomerge.evolution.core import STEADY, Plan, Search
from evomerge.evolution.history import (
    Batch,
    Dropped,
    Evaluation,
    History,
    Phase,
    Verdict,
)
from evomerge.evolution.pulled import PARTS
from evomerge.optimizers import Ask, Measure, Optimizer, Problem, Told
from evomerge.optimizers.random import Random
from evomerge.params import Genome
from evomerge.recipe import Body, Recipe
from evomerge.space import SearchSpace, SpaceSpec
from evomerge.suite.objectives import Floor, Objective, Score, combine, yardsticks

SOURCES = ("chat", "sea")
OBJECTIVES = (Objective("skill", "quadratic", "value"),)
FIXED = {"base": 0.0, "chat": 0.4, "sea": 0.5}
KNOWN = 3 + 7  # references; uniform and the task-arithmetic sweep

Event = Batch | Evaluation | Verdict | str | dict[str, float | None]
Judge = Callable[[Search], Verdict]


def space() -> SearchSpace:
    template = Recipe(
        ModelRef("b"),
        {name: ModelRef(name[0]) for name in SOURCES},
        Body(()),
        "float32",
        0,
        "chat",
    )
    return SearchSpace(SpaceSpec(("task_arithmetic",), blocks=2), template, 4)


SPACE = space()


class Spy(Random):
    """Random search that remembers what had been told when it was asked."""

    name: ClassVar[str] = "spy"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tells: list[tuple[int, int, list[Told]]] = []
        self.told_at: dict[int, int] = {}  # batch asked for -> number of tells before

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        super().tell(batch, seen, told)
        self.tells.append((batch, seen, list(told)))

    def ask(self, count: int, batch: int) -> list[Ask]:
        self.told_at[batch] = len(self.tells)
        return super().ask(count, batch)


class Fixed(Spy):
    """Asks for one genome again and again and recommends another."""

    ASKED, BELIEVED = 0.25, 0.6

    def ask(self, count: int, batch: int) -> list[Ask]:
        return [Ask((self.ASKED,) * len(self.dims))] * count

    def recommend(self, count: int) -> list[Genome]:
        return [(self.BELIEVED,) * len(self.dims)]


def make(
    optimizer: type[Optimizer] | str = "cma",
    *,
    evaluations: int | None = 40,
    population: int = 5,
    lag: int = 1,
    measures: Sequence[Measure] = (),
    credit: Callable[[tuple[int, int]], dict[str, dict[str, float]]] = lambda at: {},
    **limits: Any,
) -> Search:
    kind = optimizers.get(optimizer) if isinstance(optimizer, str) else optimizer
    return Search(
        SPACE,
        kind(
            Problem(SPACE.dims, ("skill",), tuple(measures)),
            seed=7,
            population=population,
            **({"guard": 0} if kind.name == "cma" else {}),
        ),
        Plan(evaluations, population, lag, **limits),
        empty(),
        objectives=OBJECTIVES,
        credit=credit,
    )


def empty(objectives: Sequence[Objective] = OBJECTIVES) -> History:
    return History(
        lambda v, r, g: combine(objectives, "retention", v, r, g),
        lambda r: yardsticks(objectives, r),
    )


def skill(candidate: Candidate) -> float:
    """A quadratic with its top at 0.6 on every axis."""
    if candidate.origin in FIXED:
        return FIXED[candidate.origin]
    if candidate.genome is None:
        return 0.45
    return 1 - sum((gene - 0.6) ** 2 for gene in candidate.genome)


def in_one_round(search: Search) -> Verdict:
    return Verdict(search.history.batches[-1].number, last=True)


def drive(
    search: Search,
    order: random.Random | None = None,
    *,
    fails: Callable[[Candidate], bool] = lambda candidate: False,
    seen: Sequence[Event] = (),
    close_after: int | None = None,
    judge: Judge = in_one_round,
    cost: Callable[[Batch, Candidate], int] = lambda batch, candidate: 0,
) -> list[Event]:
    """Run ``search`` to its end as the loop does, from where the events ``seen`` left it.

    Evaluations arrive in the order of the batches, or as ``order`` draws them. Returns all events.
    """
    events: list[Event] = list(seen)
    for event in events:
        if isinstance(event, Batch):
            search.history.open(event)
        elif isinstance(event, Evaluation):
            search.history.observe(event)
        elif isinstance(event, Verdict):
            search.history.judge(event)
        elif isinstance(event, dict):
            search.history.extend(event)
        else:
            search.history.close(event)
    if search.history.reported and search.history.reopened:
        search.history.end()
    while not search.history.done:
        while True:
            if search.history.unjudged is not None:
                verdict = judge(search)
                search.history.judge(verdict)
                events.append(verdict)
            if why := search.stalled():
                search.history.close(why)
                events.append(why)
            batch = search.propose()
            if batch is None:
                break
            search.history.open(batch)
            events.append(batch)
        awaited = [
            (b.number, c) for b in search.history.batches for c in search.history.awaited(b.number)
        ]
        number, candidate = order.choice(awaited) if order else awaited[0]
        failed = fails(candidate)
        evaluation = Evaluation(
            number,
            candidate.id,
            None if failed else {"skill": skill(candidate)},
            "NotFinite" if failed else None,
            items=cost(search.history.batches[number], candidate),
            tokens=7 * cost(search.history.batches[number], candidate),
        )
        search.history.observe(evaluation)
        events.append(evaluation)
        if close_after is not None and len(events) >= close_after and not search.history.closed:
            search.history.close("hours")
            events.append("hours")
    return events


def phases(search: Search) -> list[str]:
    return [batch.phase for batch in search.history.batches]


def test_a_search_goes_through_its_phases_and_learns() -> None:
    search = make(evaluations=120, population=10)
    drive(search)
    assert phases(search) == [Phase.REFERENCES, "start", *["search"] * 11, "select", "report"]
    assert search.history.winner is not None and search.history.best is not None
    assert search.history.winner >= KNOWN, "better than every known recipe"
    assert skill(search.history.candidates[search.history.winner]) > 0.95
    report = {c.origin for c in search.history.batches[-1].candidates}
    assert {*FIXED, "uniform"} < report and search.history.winner in search.history.evaluations(
        len(phases(search)) - 1
    )


@pytest.mark.parametrize("lag", [1, 2, 3])
@pytest.mark.parametrize("key", [0, 1, 2])
def test_an_ask_sees_exactly_the_tells_that_its_lag_allows(lag: int, key: int) -> None:
    search = make(Spy, evaluations=60, lag=lag)
    drive(search, random.Random(key), fails=lambda c: c.id % 7 == 0 and c.id >= KNOWN)
    spy = search.optimizer
    assert isinstance(spy, Spy)
    elites = search.history.elites(Phase.REFERENCES, Phase.START, Phase.SEARCH)
    scored = {(e.batch, e.candidate): e.score for e in elites}

    def expected(last: int) -> list[tuple[int, int, list[Told]]]:
        tells = []
        for batch in search.history.batches[: last + 1]:
            known = [(c.genome, scored.get((batch.number, c.id))) for c in batch.candidates]
            told = [
                Told(genome, score.value, (score.value,), (None,)) if score else Told(genome, None)
                for genome, score in known
                if genome is not None
            ]
            if told:
                tells.append(
                    (batch.number, max(0, batch.number - lag + 1) * (batch.number > 1), told)
                )
        return [(n, max(2, seen) if n > 1 else 0, told) for n, seen, told in tells]

    asked = [b.number for b in search.history.batches if b.phase == Phase.SEARCH]
    assert list(spy.told_at) == asked and len(asked) == 10
    for number, count in spy.told_at.items():
        assert spy.tells[:count] == expected(max(1, number - lag)), number
    assert spy.tells == expected(asked[-1]), "all is told before the recommendation"
    assert any(each.score is None for _, _, told in spy.tells for each in told)


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_batches_under_way_are_as_many_as_the_lag(lag: int) -> None:
    search = make(Spy, evaluations=60, lag=lag)
    for phase in (Phase.REFERENCES, "start"):
        batch = search.propose()
        assert batch is not None and batch.phase == phase
        search.history.open(batch)
        assert search.propose() is None
        for candidate in batch.candidates:
            search.history.observe(
                Evaluation(batch.number, candidate.id, {"skill": skill(candidate)})
            )
    opened = []
    while (batch := search.propose()) is not None:
        search.history.open(batch)
        opened.append(batch.number)
    assert opened == list(range(2, 2 + lag))


@settings(max_examples=10, deadline=None)
@given(order=st.randoms(use_true_random=False), lag=st.integers(1, 3))
def test_the_order_of_completion_changes_nothing(order: random.Random, lag: int) -> None:
    plain, shuffled = make(evaluations=30, lag=lag), make(evaluations=30, lag=lag)
    drive(plain)
    drive(shuffled, order)
    assert shuffled.history.batches == plain.history.batches
    assert shuffled.history.winner == plain.history.winner


@settings(max_examples=10, deadline=None)
@given(data=st.data(), lag=st.integers(1, 3))
def test_any_prefix_of_the_events_goes_on_alike(data: st.DataObject, lag: int) -> None:
    whole = make(evaluations=30, lag=lag)
    events = drive(whole, random.Random(lag), fails=lambda c: c.id % 9 == 0 and c.id >= KNOWN)
    cut = data.draw(st.integers(0, len(events)), label="cut")
    resumed = make(evaluations=30, lag=lag)
    drive(
        resumed,
        data.draw(st.randoms(use_true_random=False)),
        fails=lambda c: c.id % 9 == 0 and c.id >= KNOWN,
        seen=events[:cut],
    )
    assert resumed.history.batches == whole.history.batches
    assert resumed.history.winner == whole.history.winner


@settings(max_examples=30, deadline=None)
@given(evaluations=st.integers(KNOWN + 1, 60), population=st.integers(2, 17), lag=st.integers(1, 3))
def test_the_budget_is_kept_exactly(evaluations: int, population: int, lag: int) -> None:
    search = make(Spy, evaluations=evaluations, population=population, lag=lag)
    drive(search)
    assert search.history.searched == evaluations
    sizes = [len(b.candidates) for b in search.history.batches if b.phase == Phase.SEARCH]
    assert all(size == population for size in sizes[:-1]) and 0 < sizes[-1] <= population


@settings(max_examples=10, deadline=None)
@given(broken=st.sets(st.integers(KNOWN, 39), max_size=30), key=st.integers(0, 99))
def test_failures_never_win(broken: set[int], key: int) -> None:
    search = make()
    drive(search, random.Random(key), fails=lambda c: c.id in broken)
    assert search.history.winner not in broken
    shortlist = {c.id for c in search.history.batches[-2].candidates}
    assert not shortlist & broken
    assert not {e.candidate for e in search.history.merges()} & broken


def test_if_every_merge_fails_there_is_no_winner() -> None:
    search = make()
    drive(search, fails=lambda c: c.origin not in FIXED)
    assert search.history.done and search.history.winner is None and search.history.best is None
    assert [c.origin for c in search.history.batches[-1].candidates] == list(FIXED)


@pytest.mark.parametrize("name", FIXED)
def test_without_base_and_parents_there_is_no_search(name: str) -> None:
    with pytest.raises(RunError, match=f"{name} itself could not be scored: NotFinite"):
        drive(make(), fails=lambda c: c.origin == name)


@pytest.mark.parametrize("after", [1, 4, 15, 20, 26])
@pytest.mark.parametrize("lag", [1, 3])
def test_a_closed_search_goes_on_to_the_shortlist(after: int, lag: int) -> None:
    search = make(lag=lag)
    events = drive(search, random.Random(after), close_after=after)
    closed = events.index("hours")
    assert all(e.phase != Phase.SEARCH for e in events[closed:] if isinstance(e, Batch))
    assert search.history.closed == "hours" and search.history.searched < 40
    assert phases(search)[-2:] == ["select", "report"] and search.history.winner is not None
    resumed = make(lag=lag)
    drive(resumed, seen=events[: closed + 1])
    assert resumed.history.batches == search.history.batches


def test_the_shortlist_holds_each_recipe_once_and_the_recommendation() -> None:
    search = make(Fixed)
    drive(search)
    shortlist = search.history.batches[-2].candidates
    digests = [c.recipe.digest for c in shortlist]
    assert len(set(digests)) == len(digests)
    assert [c.id for c in shortlist] == sorted(c.id for c in shortlist)
    asked = SPACE.decode(SPACE.canonical((Fixed.ASKED,) * len(SPACE.dims)))
    assert [c.id for c in shortlist if c.recipe.digest == asked.digest] == [KNOWN]
    recommended = shortlist[-1]
    assert recommended.id == 40 and recommended.origin == "spy recommends"
    assert recommended.recipe == SPACE.decode(SPACE.canonical((Fixed.BELIEVED,) * len(SPACE.dims)))
    assert search.history.winner == 40, "scored on the select split like any other"


def test_recommendations_of_one_recipe_leave_no_number_out() -> None:
    class Twice(Fixed):
        def recommend(self, count: int) -> list[Genome]:
            believed = super().recommend(count)
            return [*believed, *believed, (0.9,) * len(self.dims)]

    search = make(Twice)
    drive(search)
    numbers = sorted(search.history.candidates)
    assert numbers == list(range(len(numbers))) and len(numbers) == 42


def test_the_shortlist_goes_towards_the_model_of_a_floor() -> None:
    """What is recommended sits on the floor; nearer to the model that the floor names it holds more surely."""
    floored = (Objective("skill", "quadratic", "value", floor=Floor(share=0.9, of="chat")),)
    optimizer = Fixed(Problem(SPACE.dims, ("skill",)), seed=7, population=5)
    search = Search(SPACE, optimizer, Plan(KNOWN + 10, 5), empty(floored), objectives=floored)
    drive(search)
    shortlist = {c.origin: c for c in search.history.batches[-2].candidates}
    recommended = shortlist["spy recommends"]
    for part in PARTS:
        way = "nearer to" if part > 0 else "farther from"
        candidate = shortlist[f"spy recommends, {abs(part):.0%} {way} chat"]
        pairs = zip(recommended.recipe.body.groups, candidate.recipe.body.groups, strict=True)
        for group, moved in pairs:
            weight, shifted = cast(Any, group.values["weight"]), cast(Any, moved.values["weight"])
            for source, end in (("chat", 1.0), ("sea", 0.0)):
                between = weight[source] + part * (end - weight[source])
                assert shifted[source] == pytest.approx(between, abs=1e-3)


def test_measures_and_answers_are_told_where_they_are_wanted() -> None:
    class Keen(Spy):
        ANSWERS: ClassVar[bool] = True

    for kind in (Spy, Keen):
        search = make(
            kind,
            evaluations=30,
            measures=[Measure("skill", 0, 1, 4)],
            credit=lambda at: {"skill": {"item": at[1] / 100}},
        )
        drive(search)
        spy = search.optimizer
        assert isinstance(spy, Spy)
        history = search.history
        told = {each.genome: each for _, _, all in spy.tells for each in all}
        for candidate in history.batches[3].candidates:
            found = told[candidate.genome or ()]
            assert found.measures == (skill(candidate),)
            worth = {"skill": {"item": candidate.id / 100}}
            assert found.answers == (worth if kind is Keen else {})


def test_a_recommendation_that_was_scored_keeps_its_number() -> None:
    search = make(Spy)  # random search recommends the best that it was told
    drive(search)
    assert search.history.best is not None
    assert search.history.best.candidate in {c.id for c in search.history.batches[-2].candidates}
    assert len(search.history.candidates) == 40


def test_a_parent_may_be_called_like_a_known_recipe() -> None:
    """Scores refer to the parents themselves, whatever other candidates are called."""
    history = empty()
    recipe = SPACE.uniform()
    base, parent, soup = (
        Candidate(n, o, recipe) for n, o in enumerate(("base", "uniform", "uniform"))
    )
    history.open(Batch(0, Phase.REFERENCES, (base, parent)))
    for candidate, value in ((base, 0.0), (parent, 0.5)):
        history.observe(Evaluation(0, candidate.id, {"skill": value}))
    history.open(Batch(1, Phase.SELECT, (base, parent, soup)))
    for candidate in (base, parent):
        history.observe(Evaluation(1, candidate.id, {"skill": 0.2 * candidate.id}))
    assert history.observe(Evaluation(1, soup.id, None, "NotFinite")), "a soup is no reference"
    assert history.unjudged == 1
    history.judge(Verdict(1, last=True))
    assert history.winner is None


# -- budgets -------------------------------------------------------------------------------------


def price(progress: float) -> int:
    return round(10 * 4**progress)


def charge(batch: Batch, candidate: Candidate) -> int:
    """Whole items for what is known; a tenth of a merge's items if it collapses on the probe."""
    if batch.phase != "search":
        return 30 if batch.phase.searched else 0
    return price(batch.progress) // (10 if candidate.id % 5 == 0 else 1)


@pytest.mark.parametrize("lag", [1, 2, 3])
@pytest.mark.parametrize("budget", ["items", "tokens"])
def test_a_budget_ends_the_search_whatever_the_order(budget: str, lag: int) -> None:
    allowed = 2000 * (7 if budget == "tokens" else 1)
    limits: dict[str, Any] = {"evaluations": None, budget: allowed, "cost": price, "lag": lag}
    plain, shuffled = make(Spy, **limits), make(Spy, **limits)
    drive(plain, cost=charge)
    drive(shuffled, random.Random(lag), cost=charge)
    assert shuffled.history.batches == plain.history.batches
    spent, unit = getattr(plain.history.spent, budget), allowed // 2000
    assert allowed - 2 * unit * price(1.0) < spent <= allowed + lag * unit * 5
    progress = [b.progress for b in plain.history.batches if b.phase == Phase.SEARCH]
    assert progress[0] == 0 and progress == sorted(progress) and progress[-1] > 0.9


@pytest.mark.parametrize("lag", [1, 3])
def test_progress_goes_from_nothing_to_all_of_the_evaluations(lag: int) -> None:
    search = make(evaluations=KNOWN + 30, lag=lag)
    drive(search)
    progress = [b.progress for b in search.history.batches if b.phase == Phase.SEARCH]
    assert progress == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


def test_what_costs_nothing_any_more_ends_the_search() -> None:
    """All recipes have all answers: a budget in items would never run out."""
    search = make(Spy, evaluations=None, items=10_000, cost=price)
    drive(search, cost=lambda batch, candidate: charge(batch, candidate) if batch.number < 5 else 0)
    assert phases(search)[-3:] == ["search", "select", "report"]
    assert len(search.history.batches) == 2 + 4 + 2


# -- giving up, and going on --------------------------------------------------------------------


class Climber(Spy):
    """Is better than what is known, and from batch to batch comes nearer to the top, until ``LAST``."""

    LAST = 5

    def ask(self, count: int, batch: int) -> list[Ask]:
        self.told_at[batch] = len(self.tells)
        return [Ask((0.5 + 0.02 * min(batch, self.LAST),) * len(self.dims))] * count


def limits(evaluations: int) -> dict[str, float | None]:
    return {"evaluations": evaluations, "items": None, "tokens": None, "hours": None}


@pytest.mark.parametrize("lag", [1, 3])
def test_a_search_that_gains_nothing_is_given_up(lag: int) -> None:
    search, shuffled = (make(Climber, evaluations=500, lag=lag, patience=4) for _ in range(2))
    drive(search)
    drive(shuffled, random.Random(lag))
    assert shuffled.history.batches == search.history.batches
    sizes = [len(b.candidates) for b in search.history.batches if b.phase == Phase.SEARCH]
    # up to the last step, the patience after it, and what was under way when that was known
    assert len(sizes) == (Climber.LAST - 1) + 4 + (lag - 1)
    assert (
        search.history.closed and "20 candidates in a row did not lead #" in search.history.closed
    )
    assert phases(search)[-2:] == ["select", "report"]


def test_steps_that_are_no_larger_than_the_error_are_no_gain() -> None:
    def margin(at: tuple[int, int]) -> float:
        return 0.5

    plain, careful = (make(Climber, evaluations=500, patience=5) for _ in range(2))
    careful._margin = margin
    drive(plain)
    drive(careful)
    assert phases(plain).count(Phase.SEARCH) == (Climber.LAST - 1) + 5
    assert phases(careful).count(Phase.SEARCH) == 5


@pytest.mark.parametrize("lag", [1, 2, 4])
@pytest.mark.parametrize("at", [3, 20, 36, -1])
def test_an_extended_search_goes_on_from_what_it_knows(at: int, lag: int) -> None:
    """Wherever it is cut afterwards, and in whatever order answers come."""
    events = drive(make(lag=lag), random.Random(at))
    events = [*events[: len(events) if at < 0 else at], limits(60)]
    whole = make(lag=lag)
    known = len(events)
    events = drive(whole, random.Random(1), seen=events)
    assert whole.history.searched == 60 and whole.history.done
    assert phases(whole).count(Phase.REPORT) == (2 if at < 0 else 1)
    for cut in range(known, len(events), 11):
        resumed = make(lag=lag)
        drive(resumed, random.Random(cut), seen=events[:cut])
        assert resumed.history.batches == whole.history.batches, cut


def test_an_extension_that_pays_for_nothing_is_known_before() -> None:
    search = make(Spy, evaluations=40)
    drive(search)
    assert search.refusal(limits(40)) and not search.refusal(limits(41))
    search.history.end()
    with pytest.raises(ValueError, match="once more"):
        search.history.end()
    late = Batch(len(search.history.batches), Phase.SEARCH, search.history.batches[-1].candidates)
    with pytest.raises(ValueError, match="after its shortlist"):
        search.history.open(late)


# -- rounds of the shortlist ---------------------------------------------------------------------


def test_who_is_dropped_is_asked_no_more_and_the_last_round_decides() -> None:
    def judge(search: Search) -> Verdict:
        batch = search.history.batches[-1]
        ranked = [e.candidate for e in search.history.ranked(batch.number)]
        out = [id for id in ranked[2:] if id >= KNOWN][:2]
        drops = tuple(Dropped(id, ranked[0], 30.0, 10) for id in out)
        return Verdict(batch.number, not out, drops, {}, 100 * len(out))

    search = make()
    events = drive(search, judge=judge)
    rounds = [b for b in search.history.batches if b.phase == Phase.SELECT]
    sizes = [len(b.candidates) for b in rounds]
    assert len(sizes) > 1 and sizes == sorted(sizes, reverse=True)
    assert search.history.looks == sum(sizes) and search.history.saved == 100 * len(
        search.history.dropped
    )
    left = {c.id for c in rounds[0].candidates} - {c.id for c in rounds[-1].candidates}
    assert left == {dropped.candidate for dropped in search.history.dropped}
    assert search.history.winner in {c.id for c in rounds[-1].candidates}
    for cut in range(len(events)):
        resumed = make()
        drive(resumed, judge=judge, seen=events[:cut])
        assert (resumed.history.batches, resumed.history.verdicts) == (
            search.history.batches,
            search.history.verdicts,
        )


def test_the_front_joins_the_shortlist() -> None:
    """The best at one thing alone, and the knee, though others have better scores."""
    low, high = (Objective(name, "", "", weight=weight) for name, weight in (("a", 1), ("b", 0)))

    def elite(candidate: int, a: float, b: float) -> Elite:
        return Elite(candidate, 0, Score(a), {"a": a, "b": b})

    front = [elite(0, 0.0, 1.0), elite(1, 0.8, 0.7), elite(2, 1.0, 0.0), elite(3, 0.9, 0.2)]
    beaten = [elite(4, 0.7, 0.6), elite(5, 0.0, 0.9)]
    assert [e.candidate for e in knees([*beaten, *front], (low, high))] == [1, 2, 0]
    assert knees([], (low, high)) == []
    assert [e.candidate for e in knees(front[:1], (low, high))] == [0]


def test_an_invalid_merge_ranks_below_all_others() -> None:
    def judge(search: Search) -> Verdict:
        best = search.history.ranked(search.history.batches[-1].number)[0].candidate
        return Verdict(search.history.batches[-1].number, True, (), {best: ["answers were cut"]})

    search, plain = make(), make()
    drive(search, judge=judge)
    drive(plain)
    assert search.history.batches[:-1] == plain.history.batches[:-1]
    assert (
        list(search.history.invalid) == [plain.history.winner]
        and search.history.winner != plain.history.winner
    )
    second = plain.history.ranked(plain.history.batches[-2].number)[1].candidate
    assert search.history.winner == second


class Asking(Spy):
    """Asks for the slope of one genome again and again."""

    name: ClassVar[str] = "asking"

    def ask(self, count: int, batch: int) -> list[Ask]:
        return [Ask((0.25,) * len(self.dims), slope=True)]


def test_points_of_a_descent_do_not_count_as_no_gain() -> None:
    """They are scored on few items; a search that only descends ends with its budget."""
    problem = Problem(SPACE.dims, ("skill",))
    plan = Plan(KNOWN + 20, 1, patience=2)
    search = Search(
        SPACE, Asking(problem, seed=7, population=1), plan, empty(), objectives=OBJECTIVES
    )
    drive(search)
    assert search.history.closed is None and search.history.searched == KNOWN + 20


def test_whether_a_floor_is_missed_is_not_one_candidates_luck() -> None:
    """The price of a floor follows the mean of the newest candidates that a slope was taken of."""
    floored = (Objective("skill", "quadratic", "value", floor=Floor(value=0.5)),)
    history = History(
        lambda v, r, g: combine(floored, "retention", v, r, g),
        lambda r: yardsticks(floored, r),
        lambda v, r, g: {"skill": v["skill"]},
    )
    problem = Problem(SPACE.dims, ("skill",))
    spy = Asking(problem, seed=7, population=1)
    search = Search(SPACE, spy, Plan(KNOWN + 12, 1), history, objectives=floored)
    drawn: list[float] = []
    while len(drawn) < 12 and (batch := search.propose()):
        history.open(batch)
        for candidate in batch.candidates:
            value = skill(candidate)
            if candidate.slope:
                drawn.append(value := 0.1 * (len(drawn) % 3 + 1) + 0.01 * len(drawn))
            slopes = {"skill": (1.0,) * len(SPACE.dims)} if candidate.slope else None
            history.observe(Evaluation(batch.number, candidate.id, {"skill": value}, slopes=slopes))
    search.propose()
    told = [each.slope[0] for _, _, tells in spy.tells for each in tells if each.slope]
    assert len(told) >= 11
    for at, price in enumerate(told):
        newest = drawn[max(0, at + 1 - STEADY) : at + 1]
        assert price == pytest.approx(sum(newest) / len(newest))
