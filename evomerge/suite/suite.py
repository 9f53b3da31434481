"""A suite with its scorers built: the inventory of items, and the arithmetic of scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from evomerge.errors import ConfigError, InputError, did_you_mean
from evomerge.inference.comparison import Sums
from evomerge.suite import schedule, splits
from evomerge.suite.objectives import (
    Objective,
    Score,
    combine,
    shares,
    steering,
    with_derived,
    yardsticks,
)
from evomerge.suite.scorer import Items, Results, Scorer, Shown, Taught, column
from evomerge.suite.spec import FLOORS_ON, SuiteSpec
from evomerge.suite.splits import Split

GLANCE = 5  # a candidate whose slope is wanted is scored on one of so many of its items
FRESH = 1 / 5  # of the search split's sources, for comparisons of what slopes found


class Suite:
    """A suite with its scorers built: the inventory of items, and the arithmetic of scores.

    Raises:
        InputError: a task, metric or file is wrong; every problem is named.
    """

    def __init__(self, spec: SuiteSpec) -> None:
        self.spec = spec
        problems: list[str] = []
        self.scorers: dict[str, Scorer] = {}
        for scorer in spec.scorers:
            try:
                self.scorers[scorer.name] = scorer.build(spec.include)
            except InputError as error:
                problems.append(f"{spec.place_of(scorer.name)}: {error}")
        built = {
            plain["name"]: self._measured(plain, problems)
            for plain in spec.objectives
            if plain["scorer"] in self.scorers
        }
        for plain in spec.objectives:
            if plain["of"] and all(name in built for name in plain["of"]):
                built[plain["name"]] = self._derived(plain, built, problems)
        self.objectives: tuple[Objective, ...] = tuple(
            built[plain["name"]] for plain in spec.objectives if plain["name"] in built
        )
        if problems:
            raise ConfigError(problems)

    def _measured(self, plain: Mapping[str, Any], problems: list[str]) -> Objective:
        scorer, metric = self.scorers[plain["scorer"]], plain["metric"]
        maximize = plain["direction"] != "minimize"
        try:
            metric = scorer.resolve_metric(metric)
            if plain["direction"] == "auto":
                maximize = scorer.metrics.get(metric, True)
        except InputError as error:
            key = f"objectives.{plain['name']}.metric"
            problems.append(f"{self.spec.place(key)}: {error}")
        return _objective(plain, metric, maximize)

    def _derived(
        self, plain: Mapping[str, Any], built: Mapping[str, Objective], problems: list[str]
    ) -> Objective:
        if plain["target"] is not None:
            return _objective(plain, "", False)
        directions = {built[name].maximize for name in plain["of"]}
        if len(directions) > 1:
            place = self.spec.place(f"objectives.{plain['name']}")
            problems.append(
                f"{place}: some of {', '.join(plain['of'])} are maximised and others minimised; expected "
                "one direction"
            )
        return _objective(plain, "", directions.pop())

    @property
    def measured(self) -> list[Objective]:
        """The objectives that have a scorer: all but those made of others."""
        return [objective for objective in self.objectives if not objective.of]

    def teaching(self) -> dict[str, str]:
        """Measured objectives that enter the score or have a floor, and why nothing teaches them, if so.

        An objective is taught where the items of its scorer have right answers, and a better metric means
        that these lead. Where only models are known to have given some, see ``shown``.
        """
        found = {}
        for objective in steering(self.objectives):
            scorer = self.scorers[objective.scorer]
            if not isinstance(scorer, Taught):
                found[objective.name] = (
                    "its scorer has no lessons: what it asks and which answers are right stays inside it"
                )
            elif scorer.teaches:
                found[objective.name] = scorer.teaches
            elif objective.metric.split("*")[0] not in scorer.taught:
                found[objective.name] = (
                    f"{objective.metric} is not what its right answers are about"
                )
            else:
                found[objective.name] = ""
        return found

    @property
    def directions(self) -> dict[str, bool]:
        """Objective -> whether more is better."""
        return {objective.name: objective.maximize for objective in self.objectives}

    def shown(self) -> dict[str, str]:
        """Objectives that are taught by answers of base and parents, and why: a proxy for what they measure."""
        found = {}
        for name, why in self.teaching().items():
            scorer = self.scorers[self._scorer_of[name]]
            if not why and isinstance(scorer, Shown) and scorer.shown:
                found[name] = f"by parents' answers, a proxy: {scorer.shown}"
        return found

    @cached_property
    def _scorer_of(self) -> dict[str, str]:
        """Measured objective -> its scorer."""
        return {objective.name: objective.scorer for objective in self.measured}

    @cached_property
    def splits(self) -> dict[str, Items]:
        """The items of each split, disjoint by source; of the search split the anchors, if there are."""
        inventory = {name: scorer.items() for name, scorer in self.scorers.items()}
        limits = dict(self.spec.limits)
        search = limits.pop(Split.SEARCH)  # the limit of those without anchors
        found = splits.assign(inventory, self.spec.shares, limits, self.spec.partition)
        found[Split.PROBE] = _deal(found[Split.PROBE], limits[Split.PROBE])
        anchors = self.spec.anchors
        for name, ids in found[Split.SEARCH].items():
            found[Split.SEARCH][name] = (
                self._anchored(name, ids) if name in anchors else ids[:search]
            )
        return found

    def _anchored(self, name: str, ids: Sequence[str]) -> list[str]:
        """The anchors among the search items ``ids``, in their order."""
        weights = self.spec.anchors[name]
        for anchor in weights:
            if anchor not in ids:
                raise InputError(
                    f"{self.spec.place(f'anchors.{name}.{anchor}')}: this item is not in the search "
                    f"split{did_you_mean(anchor, ids)}; the suite was reduced with other items or shares: "
                    "reduce it again"
                )
        return [id for id in ids if id in weights]

    @cached_property
    def source_of(self) -> dict[str, dict[str, str]]:
        """Scorer -> item id -> source."""
        return {
            name: {item.id: item.source for item in scorer.items()}
            for name, scorer in self.scorers.items()
        }

    @cached_property
    def stratum_of(self) -> dict[str, dict[str, str]]:
        """Scorer -> item id -> stratum."""
        return {
            name: {item.id: item.stratum for item in scorer.items()}
            for name, scorer in self.scorers.items()
        }

    @cached_property
    def shortlisted(self) -> Items:
        """What a shortlist that is not raced is asked: the select split; with ``floors_on: all`` also what the
        search was asked of objectives that have a floor."""
        split, searched = self.splits[Split.SELECT], self.splits[Split.SEARCH]
        if self.spec.floors_on == FLOORS_ON[0]:
            return split
        floored = {scorer for o in self.objectives if o.floor for scorer in self.scorers_of(o)}
        return {n: [*ids, *searched[n]] if n in floored else ids for n, ids in split.items()}

    def scorers_of(self, objective: Objective) -> list[str]:
        """That measure it, or what it is derived from."""
        measured = {each.name: each.scorer for each in self.measured}
        return [measured[name] for name in objective.of or (objective.name,)]

    @cached_property
    def fresh(self) -> Items:
        """Search items by which no slope is taken: those of a fifth of the sources."""
        split = self.splits[Split.SEARCH]
        return schedule.part(split, self.source_of, self.stratum_of, FRESH)

    @cached_property
    def _teaching(self) -> Items:
        """The other search items."""
        return {
            name: [item for item in ids if item not in set(self.fresh[name])]
            for name, ids in self.splits[Split.SEARCH].items()
        }

    def sample(self, seed: int, batch: int, progress: float) -> Items:
        """The items of one generation: a keyed draw from the search split, shared by its candidates.

        It grows with ``progress``, the part of the search that is over. Anchors are asked in full.
        """
        split, count = self.splits[Split.SEARCH], schedule.size(*self.spec.candidate, progress)
        drawn = schedule.sample(split, self.stratum_of, count, seed, "items", batch)
        return {name: split[name] if name in self.spec.anchors else drawn[name] for name in split}

    def minibatch(self, seed: int, batch: int, progress: float = 0.0) -> Items:
        """The items of one slope: a keyed draw of as many as a candidate of the first generation gets, or one
        of a later generation."""
        count = schedule.size(*self.spec.candidate, progress)
        return schedule.sample(self._teaching, self.stratum_of, count, seed, "slope", batch)

    def glance(self, seed: int, batch: int, progress: float = 0.0) -> Items:
        """Those of a slope's items that its candidate is scored on: its score decides nothing.

        But for floors, which turn a descent back where they are missed: of these, all.
        """
        drawn = self.minibatch(seed, batch, progress)
        count = max(1, self.spec.candidate[0] // GLANCE)
        part = schedule.sample(drawn, self.stratum_of, count, seed, "glance", batch)
        return part | {o.scorer: drawn[o.scorer] for o in self.measured if o.floor}

    def known(self, seed: int) -> Items:
        """The items of known recipes: the search split, or a draw from it."""
        split, count = self.splits[Split.SEARCH], self.spec.start
        if count is None:
            return split
        drawn = schedule.sample(split, self.stratum_of, count, seed, "start")
        return {name: split[name] if name in self.spec.anchors else drawn[name] for name in split}

    def cost(self, progress: float) -> int:
        """Items that a candidate is asked, the probe included, when that part of the search is over."""
        count = schedule.size(*self.spec.candidate, progress)
        sample = (
            len(ids) if name in self.spec.anchors else min(count, len(ids))
            for name, ids in self.splits[Split.SEARCH].items()
        )
        return sum(sample) + sum(map(len, self.splits[Split.PROBE].values()))

    def rounds(self) -> list[Items]:
        """The select split in parts that grow, for a race; the last is all of it."""
        split = self.splits[Split.SELECT]
        return [
            schedule.part(split, self.source_of, self.stratum_of, share)
            for share in schedule.ROUNDS
        ]

    def value(self, objective: Objective, results: Results) -> float:
        """The value of a measured objective over all items of its responses."""
        try:
            values = column(results[objective.scorer], objective.metric)
        except InputError as error:
            place = self.spec.place(f"objectives.{objective.name}.metric")
            raise InputError(f"{place}: {error}") from None
        return self.scorers[objective.scorer].aggregate(objective.metric, values)

    def sums(self, scorer: str, metric: str, values: Sequence[Any]) -> Sums | None:
        """Per-item ``values`` as a ratio of sums; None if the metric is no mean and no such ratio."""
        return Sums.of(partial(self.scorers[scorer].aggregate, metric), values)

    def values(self, results: Results) -> dict[str, float]:
        """Values of all objectives over all items of the responses."""
        return self.with_derived({o.name: self.value(o, results) for o in self.measured})

    def with_derived(self, values: Mapping[str, float]) -> dict[str, float]:
        """Values of all objectives, in their order, from those of the measured ones."""
        return with_derived(self.objectives, values)

    def yardsticks(self, references: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        return yardsticks(self.objectives, references)

    def combine(
        self,
        values: Mapping[str, float],
        references: Mapping[str, Mapping[str, float]],
        gains: Mapping[str, float],
    ) -> Score:
        """See ``objectives.combine``."""
        return combine(self.objectives, self.spec.combination, values, references, gains)

    def shares(
        self,
        values: Mapping[str, float],
        references: Mapping[str, Mapping[str, float]],
        gains: Mapping[str, float],
        *,
        floors: bool = True,
    ) -> dict[str, float]:
        """See ``objectives.shares``."""
        how = self.spec.combination
        return shares(self.objectives, how, values, references, gains, floors=floors)


def _objective(plain: Mapping[str, Any], metric: str, maximize: bool) -> Objective:
    settled = {key: value for key, value in plain.items() if key != "direction"}
    return Objective(**{**settled, "metric": metric, "maximize": maximize})


def _deal(split: Items, total: int) -> Items:
    """``total`` items in all, from each scorer in turn as long as it has some."""
    turns = ((turn, name) for name, ids in split.items() for turn in range(len(ids)))
    dealt = Counter(name for _, name in sorted(turns, key=lambda each: each[0])[:total])
    return {name: ids[: dealt[name]] for name, ids in split.items()}
