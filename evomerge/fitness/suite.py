"""A suite: the fitness file. Which scorers, which objectives, how many items, how they combine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge import config
from evomerge.errors import ConfigError, InputError, did_you_mean
from evomerge.fitness import Live, Responses, Scorer, splits
from evomerge.fitness.objectives import BASE, Floor, Objective, Score, combine, yardsticks

Results = dict[str, Responses]  # scorer name -> responses
Items = dict[str, list[str]]  # scorer name -> item ids
COMBINATIONS = ("retention", "mean")
LIMITS = {"probe": 4, "search": 200, "select": 200, "report": 400}  # items per scorer
_FLOOR = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*%\s*of\s+(\S+)\s*$")


@dataclass(frozen=True)
class ScorerSpec:
    """How to build one scorer: plain data, equal on the driver and on every worker.

    ``name`` is the target as the suite writes it: a text file keeps its name in the journal when
    the whole folder moves.
    """

    kind: str  # task | text | function
    name: str
    target: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, include: Sequence[str]) -> Scorer:
        """The scorer itself. Heavy libraries are imported here and no earlier."""
        options = dict(self.options)
        if self.kind == "task":
            from evomerge.fitness.lm_eval import LmEvalTask

            options["source_field"] = options.pop("source", None)
            return LmEvalTask(self.target, include=include, **options)
        if self.kind == "text":
            from evomerge.fitness.perplexity import BitsPerByte

            return BitsPerByte(self.name, self.target, **options)
        from evomerge.fitness.function import PythonFunction

        return PythonFunction(self.name, self.target)


@dataclass(frozen=True)
class SuiteSpec:
    """A suite as configured; plain data (``plain``) rebuilds it on a worker."""

    objectives: tuple[Mapping[str, Any], ...]
    scorers: tuple[ScorerSpec, ...]
    include: tuple[str, ...] = ()
    combination: str = "retention"
    limits: Mapping[str, int] = field(default_factory=lambda: dict(LIMITS))
    shares: Mapping[str, float] = field(default_factory=lambda: dict(splits.SHARES))
    per_candidate: int = 60
    batch_size: int = 16
    max_length: int | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """What a worker needs to build the scorers."""
        return {
            "include": list(self.include),
            "scorers": [[s.kind, s.name, s.target, dict(s.options)] for s in self.scorers],
        }


def build_scorers(plain: Mapping[str, Any]) -> dict[str, Scorer]:
    """The scorers that ``SuiteSpec.plain`` describes, by name."""
    specs = [ScorerSpec(*entry) for entry in plain["scorers"]]
    return {spec.name: spec.build(plain["include"]) for spec in specs}


def parse_suite(
    node: config.Node, models: Sequence[str] | None, problems: config.Problems
) -> SuiteSpec | None:
    """A suite from YAML; problems are noted, None is returned if there were any.

    ``models`` are the sources that floors may name; None accepts any name.
    """
    before = len(problems.found)
    section = config.Section(node, problems, "" if node.line <= 1 else "fitness.")
    folder = node.folder
    include = tuple(str((folder / path).resolve()) for path in section.texts("include"))
    for path in include:
        if not Path(path).is_dir():
            section.problem("include", f"no such folder: {path}")
    combination = section.choice("combine", COMBINATIONS, "retention")
    batch_size = section.integer("batch_size", 16, low=1)
    max_length = section.integer("max_length", 0, low=1) or None
    limits, shares, per_candidate = dict(LIMITS), dict(splits.SHARES), 60
    if items := section.section("items"):
        limits = {
            split: items.integer(split, size, low=0 if split == "probe" else 1)
            for split, size in LIMITS.items()
        }
        per_candidate = items.integer("candidate", per_candidate, low=1)
        if part := items.section("shares"):
            shares = {
                split: part.number(split, share, low=0.0) or 0.0 for split, share in shares.items()
            }
            part.finish()
            if abs(sum(shares.values()) - 1) > 1e-9:
                items.problem("shares", f"must add up to 1, found {sum(shares.values()):g}")
        items.finish()
    objectives: list[dict[str, Any]] = []
    scorers: dict[str, ScorerSpec] = {}
    for name, item in section.items("objectives"):
        parsed = _parse_objective(name, item, models, problems, section.path)
        if parsed is None:
            continue
        objective, scorer = parsed
        known = scorers.setdefault(scorer.name, scorer)
        if known != scorer:
            problems.add(
                item, f"objectives.{name}", f"{scorer.name} already stands above with other options"
            )
        objectives.append(objective)
    if "objectives" not in section:
        section.problem("objectives", "missing; expected a mapping of objective names")
    elif not objectives and len(problems.found) == before:
        section.problem("objectives", "expected at least one objective")
    elif objectives and not any(objective["weight"] for objective in objectives):
        section.problem("objectives", "every weight is 0; expected one above 0")
    section.finish()
    if len(problems.found) > before:
        return None
    return SuiteSpec(
        tuple(objectives),
        tuple(scorers.values()),
        include,
        combination,
        limits,
        shares,
        per_candidate,
        batch_size,
        max_length,
    )


def _parse_objective(
    name: str, node: config.Node, models: Sequence[str] | None, problems: config.Problems, path: str
) -> tuple[dict[str, Any], ScorerSpec] | None:
    before = len(problems.found)
    section = config.Section(node, problems, f"{path}objectives.{name}.")
    kinds = [kind for kind in ("task", "text", "function") if kind in section]
    targets = {kind: section.text(kind) for kind in ("task", "text", "function")}
    if len(kinds) != 1 and isinstance(node.value, dict):
        section.problem(
            "", "expected exactly one of task, text (a file) and function (module:function)"
        )
    kind = kinds[0] if kinds else "task"
    written = target = targets[kind]
    options: dict[str, Any] = {}
    if kind == "task":
        for option, read in (
            ("num_fewshot", lambda key: section.integer(key, 0)),
            ("apply_chat_template", lambda key: section.flag(key, False)),
            ("fewshot_as_multiturn", lambda key: section.flag(key, False)),
            ("system_instruction", section.text),
            ("source", section.text),
        ):
            if option in section:
                options[option] = read(option)
    elif kind == "text":
        target = str((node.folder / target).resolve())
        if "field" in section:
            options["field"] = section.text("field")
    default = {"task": "acc", "text": "bits_per_byte", "function": "value"}[kind]
    objective = {
        "name": name,
        "scorer": written,
        "metric": section.text("metric", default),
        "direction": section.choice("direction", ("maximize", "minimize", "auto"), "auto"),
        "weight": section.number("weight", 1.0, low=0.0),
        "floor": _parse_floor(section, models),
        "scale": section.number("scale", None, low=1e-9),
    }
    section.finish()
    if len(problems.found) > before:
        return None
    return objective, ScorerSpec(kind, written, target, options)


def _parse_floor(section: config.Section, models: Sequence[str] | None) -> Floor | None:
    node = section.get("floor")
    if node is None:
        return None
    value = node.value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Floor(value=float(value))
    match = _FLOOR.match(value) if isinstance(value, str) else None
    if match and float(match[1]) > 0 and (models is None or match[2] in (BASE, *models)):
        return Floor(share=float(match[1]) / 100, of=match[2])
    hint = did_you_mean(match[2], models or ()) if match else ""
    section.problem(
        "floor", f"expected a number or text like '98% of {BASE}', found {node.plain!r}{hint}"
    )
    return None


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
                problems.append(str(error))
        self.objectives: tuple[Objective, ...] = tuple(
            self._objective(plain, problems)
            for plain in spec.objectives
            if plain["scorer"] in self.scorers
        )
        if problems:
            raise ConfigError(problems)

    def _objective(self, plain: Mapping[str, Any], problems: list[str]) -> Objective:
        scorer = self.scorers[plain["scorer"]]
        metric, maximize = plain["metric"], plain["direction"] != "minimize"
        try:
            metric = scorer.resolve_metric(metric)
            if plain["direction"] == "auto":
                maximize = scorer.metrics.get(metric, True)
        except InputError as error:
            problems.append(f"objectives.{plain['name']}.metric: {error}")
        return Objective(
            plain["name"],
            plain["scorer"],
            metric,
            maximize,
            plain["weight"],
            plain["floor"],
            plain["scale"],
        )

    @cached_property
    def splits(self) -> dict[str, Items]:
        """The items of each split, disjoint by source."""
        inventory = {name: scorer.items() for name, scorer in self.scorers.items()}
        return splits.assign(inventory, self.spec.shares, self.spec.limits)

    @cached_property
    def source_of(self) -> dict[str, dict[str, str]]:
        """Scorer -> item id -> source."""
        return {
            name: {item.id: item.source for item in scorer.items()}
            for name, scorer in self.scorers.items()
        }

    def sample(self, seed: int, batch: int) -> Items:
        """The items of one generation: a keyed draw from the search split, shared by its candidates."""
        return splits.subset(self.splits["search"], self.spec.per_candidate, seed, "items", batch)

    def values(self, results: Results, items: Items | None = None) -> dict[str, float]:
        """Objective values from responses, over ``items`` of them (default: all)."""
        found = {}
        for objective in self.objectives:
            responses = results[objective.scorer]
            column = responses["metrics"].get(objective.metric)
            if column is None:
                known = ", ".join(responses["metrics"])
                raise InputError(
                    f"objectives.{objective.name}.metric: {objective.scorer} gave no {objective.metric!r}; "
                    f"it gave: {known}"
                )
            if items is not None:
                at = {item: i for i, item in enumerate(responses["items"])}
                column = [column[at[item]] for item in items[objective.scorer]]
            found[objective.name] = self.scorers[objective.scorer].aggregate(
                objective.metric, column
            )
        return found

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


def evaluate(scorers: Mapping[str, Scorer], items: Mapping[str, Sequence[str]]) -> Results:
    """Responses of the bound model to ``items``, scorer by scorer."""
    return {name: scorers[name].score(list(ids)) for name, ids in items.items()}


def bind(scorers: Mapping[str, Scorer], live: Live) -> None:
    """Attach the resident model to every scorer."""
    for scorer in scorers.values():
        scorer.bind(live)
