"""The outlook: how long a search still takes, to its final table.

A fold over what arrived, with the seconds that workers took, and arithmetic on it. It decides nothing. What
is left is priced phase by phase:

    search    what remains of the budget that is nearest its end, by what the newest evaluations cost
    select    the shortlist that is to be expected, through the rounds that are left of its race
    report    base, parents, baselines and what was chosen, on the report split

in seconds of one worker, ``a + b items`` an evaluation (weighted least squares, the newest weigh most; a slope
by its own price), and those by how many workers are busy, and by what wall-clock time took lately beside their work.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evomerge.evolution.history import Batch, Evaluation, History, Phase

# so much of the seconds count of an evaluation that comes first: in a session, when caches and compilers are
# cold, and in a batch that asks many items anew, whose prompts are laid out once
WARMING = 0.5
LARGE = (Phase.REFERENCES, Phase.SELECT, Phase.REPORT)
HALF_LIFE = 10  # evaluations after which one weighs half
LEAST = 0.2  # of a mean price an item is at least
REMEMBERED = 64
DRIFTING = 4  # slopes that tell how fast the machine is
NEWEST = 16  # evaluations that prices of the search, and wall-clock time, are taken from
TABLE = 2.0  # seconds that the final table takes, resamples and all
LIKELY_STALLED = 0.5  # of the patience is over: the search may well be given up


@dataclass(frozen=True)
class Course:
    """What is known of a search before it begins.

    Attributes:
        limits: budgets by name (evaluations, items, tokens, hours); None is no limit.
        population: candidates of a batch.
        cost: items that a candidate is asked when a part (0 to 1) of the search is over.
        start: how many known recipes there are, and items that each is asked.
        whole: items of the search split, which base and parents are asked.
        select: items of the select split.
        rounds: shares of it, round by round; one round where there is no race.
        shortlist: merges to be expected on it, base and parents among them.
        report: items of the report split.
        reported: models in the report.
        first: candidates of the first batch that is no known recipe: descents ask one at a time.
        patience: candidates without gain after which the search is given up; None never.
        report_token: seconds that a token takes more in the report than before it: its dtype is that of export.
    """

    limits: Mapping[str, float | None]
    population: int
    cost: Callable[[float], float]
    start: tuple[int, int]
    whole: int
    select: int
    rounds: Sequence[float]
    shortlist: int
    report: int
    reported: int
    first: int = 1
    patience: int | None = None
    report_token: float = 0.0


@dataclass(frozen=True)
class _Taken:
    """An evaluation that a worker made: items as the budget counts them, seconds, when it came.

    As prices are taken from it, its seconds are what they would be of a warm worker in the dtype of the search.
    """

    items: int
    tokens: int
    seconds: float
    time: float
    sloped: bool
    together: int  # candidates of its batch


@dataclass
class Outlook:
    """A fold over evaluations; ``left`` reads it.

    Attributes:
        course: what was known before.
        slots: workers at a time.
        seconds: that earlier sessions worked.
        lag: batches that may be under way.
    """

    course: Course
    slots: int = 1
    seconds: float = 0.0
    lag: int = 1
    _plain: deque[_Taken] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _searched: deque[_Taken] = field(default_factory=lambda: deque(maxlen=NEWEST))
    _timed: deque[_Taken] = field(default_factory=lambda: deque(maxlen=NEWEST))  # in this session
    _report: list[float] = field(default_factory=list)  # seconds of its evaluations
    _early: list[float] = field(default_factory=list)  # seconds an item of the first slopes ...
    _late: deque[float] = field(default_factory=lambda: deque(maxlen=DRIFTING))  # ... and the last
    _asked: dict[int, int] = field(default_factory=dict)  # newest batches -> items of a candidate
    _line: tuple[float, float, float] | None = None  # see ``_fit``
    _newest: int = -1  # batch that something arrived of
    _began: float = 0.0  # when this session did

    def begin(self, time: float) -> None:
        """A session begins: what was timed before tells prices, but not how workers share their work now."""
        self._began = time
        self._timed.clear()

    def add(
        self, batch: Batch, evaluation: Evaluation, seconds: Mapping[str, float], time: float
    ) -> None:
        """Fold: an evaluation arrived.

        Args:
            batch: that it belongs to.
            evaluation: with the items that went through the model for it.
            seconds: of a worker, by what they were spent on; empty if nothing was asked.
            time: in seconds, by the clock of ``begin`` and ``left``.
        """
        if not seconds or not evaluation.items:
            return
        cold = not self._timed or (batch.phase in LARGE and batch.number != self._newest)
        spent = math.fsum(seconds.values())
        self._newest = batch.number
        sloped = batch.phase.searched and batch.slopes
        timed = _Taken(
            *(evaluation.items, evaluation.tokens, spent, time, sloped), len(batch.candidates)
        )
        self._timed.append(timed)
        reported = batch.phase == Phase.REPORT
        if reported and not cold:
            self._report.append(spent)
        more = self.course.report_token * evaluation.tokens if reported else 0.0
        usual = max(spent - more, LEAST * spent) * (WARMING if cold else 1.0)
        taken = replace(timed, seconds=usual)
        if sloped:
            price = taken.seconds / evaluation.items
            if len(self._early) < DRIFTING:
                self._early.append(price)
            self._late.append(price)
        else:
            self._plain.append(taken)
            self._line = None
            self._early.clear()
            self._late.clear()
        if batch.phase in (Phase.SEARCH, Phase.ROWS):
            self._searched.append(taken)
        if batch.phase != Phase.REFERENCES:
            self._asked[batch.number] = max(self._asked.get(batch.number, 0), evaluation.items)
            if len(self._asked) > REMEMBERED:
                del self._asked[min(self._asked)]

    def left(self, history: History, time: float) -> float | None:
        """Seconds to the final table; None while nothing can be said.

        Args:
            history: of the search, with all that was folded here.
            time: now.
        """
        if not (self._timed and self._plain):
            return None
        overhead = self._overhead()
        search, chosen = self._search(history), self._chosen(history)
        together = self._searched[-1].together if self._searched else self.course.first
        wall = search * overhead / self._at_once(together)
        hours = {**self.course.limits, **history.limits}.get("hours")
        if hours is not None:
            worked = self.seconds + time - self._began
            wall = min(wall, max(0.0, hours * 3600 - worked))
        wall += chosen * overhead / min(self.slots, self.course.reported) + TABLE
        since = max(0.0, time - self._timed[-1].time)
        return max(1.0, wall - since)

    # -- what is left, in seconds of one worker -------------------------------------------------

    def _search(self, history: History) -> float:
        """Up to the shortlist."""
        if history.phase is not None and not history.phase.searched and not history.reopened:
            return 0.0
        under_way = math.fsum(map(self._of_items, self._awaited(history)))
        known, asked = self.course.start
        to_start = len(history.batches) < 2
        if history.closed:
            return under_way
        given = under_way + (known * self._of_items(asked) if to_start else 0.0)
        return given + self._future(history, known if to_start else 0)

    def _awaited(self, history: History) -> list[float]:
        """Items that each evaluation under way is asked, before the shortlist."""
        return [
            self._items(batch)
            for batch in history.under_way
            if batch.phase.searched
            for _ in history.awaited(batch.number)
        ]

    def _future(self, history: History, starting: int) -> float:
        """Of candidates that were not asked yet, of the search alone."""
        limits, course = {**self.course.limits, **history.limits}, self.course
        awaited = self._awaited(history)
        spent, newest = history.spent, self._searched
        mean = math.fsum(e.items for e in newest) / len(newest) if newest else None
        price = self._price(newest)
        rate = spent.tokens / max(1, spent.items)
        # what a candidate takes of each budget: as lately, or as the plan says
        growth = self._mean_cost(history) / max(1e-9, course.cost(self._progress(history)))
        sloped = bool(newest) and all(e.sloped for e in newest)
        items = (mean or self._mean_cost(history)) * (growth if mean and not sloped else 1.0)
        counts = [math.inf]
        if (limit := limits.get("evaluations")) is not None:
            counts.append(limit - history.searched - starting)
        known = sum(awaited) + starting * course.start[1]
        if (limit := limits.get("items")) is not None:
            counts.append((limit - spent.items - known) / max(items, 1.0))
        if (limit := limits.get("tokens")) is not None:
            each = math.fsum(e.tokens for e in newest) / len(newest) if newest else rate * items
            counts.append((limit - spent.tokens - rate * known) / max(each, 1.0))
        if course.patience is not None and history.best is not None:
            since = max(0, len(history.candidates) - 1 - history.best.candidate)
            if since >= LIKELY_STALLED * course.patience:
                counts.append(course.patience - since)
        count = min(counts)
        if math.isinf(count):  # of hours alone
            return math.inf if limits.get("hours") else 0.0
        return max(0.0, count) * (items * price if price else self._of_items(items))

    def _chosen(self, history: History) -> float:
        """Of the shortlist and the report."""
        course, phase = self.course, history.phase
        each = self._reported()
        if phase == Phase.REPORT and not history.reopened:
            return len(history.awaited(len(history.batches) - 1)) * each
        # the first lays out its prompts, too
        report = course.reported * each + self._of_items(course.report)
        if phase != Phase.SELECT or history.reopened:
            return report + course.shortlist * math.fsum(
                self._of_items(course.select * step) for step in self._steps(0)
            )
        rounds = history.rounds
        newest, ahead = rounds[-1], self._steps(len(rounds))
        step = self._steps(len(rounds) - 1)
        awaited = len(history.awaited(newest.number))
        now = awaited * self._of_items(course.select * step[0]) if step else 0.0
        verdict = history.verdicts[-1] if history.verdicts else None
        if verdict is not None and verdict.batch == newest.number and verdict.last:
            ahead = []
        later = math.fsum(self._of_items(course.select * each) for each in ahead)
        return now + len(newest.candidates) * later + report

    def _reported(self) -> float:
        """A model of the report, in the dtype of export."""
        if self._report:
            return math.fsum(self._report) / len(self._report)
        usual = self._of_items(self.course.report)
        rate = sum(e.tokens for e in self._plain) / sum(e.items for e in self._plain)
        return max(usual + self.course.report_token * rate * self.course.report, LEAST * usual)

    def _steps(self, first: int) -> list[float]:
        """What the rounds from ``first`` on ask anew, in parts of the select split."""
        shares = [0.0, *self.course.rounds]
        return [b - a for a, b in itertools.pairwise(shares)][first:]

    def _items(self, batch: Batch) -> float:
        """That a candidate of an open batch is asked."""
        if batch.phase == Phase.REFERENCES:
            return self.course.whole
        if batch.phase == Phase.START:
            return self._asked.get(batch.number, self.course.start[1])
        newest = self._searched
        usual = newest[-1].items if newest else self.course.cost(batch.progress)
        return self._asked.get(batch.number, usual)

    def _progress(self, history: History) -> float:
        return history.batches[-1].progress if history.batches else 0.0

    def _mean_cost(self, history: History) -> float:
        """Items of a candidate, over what is left of the search."""
        now = self._progress(history)
        steps = [now + (1 - now) * part / 4 for part in range(5)]
        return math.fsum(map(self.course.cost, steps)) / len(steps)

    # -- prices ---------------------------------------------------------------------------------

    def _price(self, newest: Collection[_Taken]) -> float | None:
        """Seconds an item, of the ``newest`` evaluations of the search; None before there are some."""
        if not newest:
            return None
        return math.fsum(e.seconds for e in newest) / sum(e.items for e in newest)

    def _of_items(self, items: float) -> float:
        """Seconds of an evaluation without a slope: ``a + b items``."""
        x, y, b = self._line = self._line or self._fit()
        return self._drift() * max(y + b * (items - x), LEAST * y * items / x)

    def _drift(self) -> float:
        """By what factor the machine got slower since an evaluation without a slope was timed: as slopes did."""
        if len(self._early) < DRIFTING:
            return 1.0
        return math.fsum(self._late) / len(self._late) / (math.fsum(self._early) / DRIFTING)

    def _fit(self) -> tuple[float, float, float]:
        """Mean items, mean seconds, and seconds an item more takes, the newest weighing most."""
        weights = [0.5 ** (age / HALF_LIFE) for age in range(len(self._plain))][::-1]
        total = math.fsum(weights)
        pairs = list(zip(weights, self._plain, strict=True))
        x = math.fsum(w * e.items for w, e in pairs) / total
        y = math.fsum(w * e.seconds for w, e in pairs) / total
        spread = math.fsum(w * (e.items - x) ** 2 for w, e in pairs) / total
        if spread <= 0.01 * x * x:  # all are about as long: in proportion
            return x, y, y / x
        slope = math.fsum(w * (e.items - x) * (e.seconds - y) for w, e in pairs) / total
        return x, y, min(max(slope / spread, LEAST * y / x), y / x)

    def _overhead(self) -> float:
        """Wall-clock seconds, lately, over those of a machine where as many workers as a batch keeps busy do nothing but work."""
        timed = self._timed
        if len(timed) < min(NEWEST, 2 * self.slots + 2):  # the first come as one wave
            return 1.0
        wall = timed[-1].time - timed[0].time
        worked = math.fsum(e.seconds / self._at_once(e.together) for e in list(timed)[1:])
        return max(wall / max(worked, 1e-9), 0.5)

    def _at_once(self, together: int) -> int:
        """Workers that batches of so many candidates keep busy."""
        return max(1, min(self.slots, together * self.lag))
