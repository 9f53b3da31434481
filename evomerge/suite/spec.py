"""The fitness file, read strictly: which scorers and objectives, how many items, how they combine."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evomerge import config, estimators
from evomerge.errors import InputError, did_you_mean, one_of
from evomerge.registry import ENGINES, SCORERS
from evomerge.suite import splits
from evomerge.suite.chat import parse_chat
from evomerge.suite.language import check_language
from evomerge.suite.objectives import BASE, CONFIDENCE, Floor
from evomerge.suite.slopes import SlopeOptions, parse_slopes

COMBINATIONS = ("retention", "mean", "worst")
KINDS = ("task", "text", "reward", "retrieval", "function")
FILES = ("text", "reward", "retrieval")  # kinds whose target is a file
OF_TOKENS = ("task", "text")  # kinds that ask for likelihoods and texts, so for a head over tokens
OF_MODULE = ("reward", "retrieval", "function")  # kinds that ask a torch module
POOLINGS = ("cls", "mean", "last")  # how hidden states of a text become one
FIRST = 10  # texts that count, of a ranking
METRICS = {  # kind -> what is measured where a suite does not say
    "task": "acc",
    "text": "bits_per_byte",
    "reward": "accuracy",
    "retrieval": "ndcg",
    "function": "value",
}
DERIVED = {  # key of an objective made of others -> how
    "worst_of": "worst",
    "mean_of": "mean",
    "distance_of": "distance",
}
LIMITS = {"probe": 10, "search": 200, "select": 200, "report": 400}
CANDIDATE = (20, 60)  # items per scorer: in the first generation, and in the last
CELLS = 10  # of a measure
FLOORS_ON = ("new", "all")  # items that a shortlist is held to
DTYPES = ("auto", "bfloat16", "float16", "float32")
_FLOOR = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*%\s*of\s+(\S+)\s*$")


@dataclass(frozen=True)
class ScorerSpec:
    """How to build one scorer: plain data, equal on the driver and on every worker.

    ``name`` is the target as the suite writes it: a text file keeps its name in the journal when
    the whole folder moves.
    """

    kind: str  # one of KINDS
    name: str
    target: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, include: Sequence[str]) -> Any:
        """The scorer itself. Heavy libraries are imported here and no earlier."""
        options, made = dict(self.options), SCORERS.get(self.kind)
        if self.kind == "task":
            options["source_field"] = options.pop("source", None)
            return made(self.target, include=include, **options)
        return made(self.name, self.target, **options)

    def joined(self, other: ScorerSpec) -> ScorerSpec | None:
        """The one scorer that answers for both; None where they ask otherwise.

        A ranking tells of its first few texts, however many: several ``k`` become a list.
        """
        if self == other:
            return self
        ours, theirs = dict(self.options), dict(other.options)
        first = {*_listed(ours.pop("k", FIRST)), *_listed(theirs.pop("k", FIRST))}
        if (self.kind, ours) != (other.kind, theirs) or self.kind != "retrieval":
            return None
        return replace(
            self, options={**ours, "k": sorted(first)} if len(first) > 1 else self.options
        )

    def differences(self, other: ScorerSpec) -> str:
        """The options of both that are not the same, in words."""
        ours, theirs = ({"kind": each.kind, **each.options} for each in (self, other))
        return ", ".join(
            f"{key}: {config.shown(ours[key]) if key in ours else 'none'} there, "
            f"{config.shown(theirs[key]) if key in theirs else 'none'} here"
            for key in dict.fromkeys((*ours, *theirs))
            if ours.get(key) != theirs.get(key) and key != "k"  # which may differ
        )


@dataclass(frozen=True)
class SuiteSpec:
    """A suite as configured; plain data (``plain``) rebuilds it on a worker.

    Attributes:
        objectives, scorers, include, combination: what is wanted, and what measures it.
        limits: items of each split, at most: per scorer, for the probe in all scorers together.
        shares: of the sources, per split.
        partition: another number cuts the sources into other splits.
        candidate: items per scorer that a candidate of the first, and of the last, generation gets.
        start: items per scorer that a known recipe gets; None is the whole search split.
        estimator: of a candidate's values on the whole search split, from its sample.
        anchors: scorer -> item -> weight: a reduced search split, fixed instead of sampled.
        front: how many members a front may have, to be confirmed on the select split; 0: no front.
        confidence: how likely all floors must hold on the select items for them to be confirmed.
        floors_on: ``new`` items only, those of the select split; or ``all``, those of the search, too: where a floor
            is to hold on a given set of questions, as of a published benchmark, not on others like them.
        measures: objective -> low, high and cells of its axis in a grid of elites.
        gates: whether health gates can mark an evaluation invalid.
        dtype: of scoring; ``auto`` is the recipe's where the device computes fast in it.
        engine: what runs the model.
        quantize: of weights while they score; empty: they are not.
        batch_tokens: tokens per forward pass, padding included; None is the device's default.
        max_length: of an input in tokens; None is the model's.
        slopes: how they are taken.
        file: where it stands.
        path: what its keys begin with there.
        lines: key -> its ``file:line``, of objectives and anchors.
    """

    objectives: tuple[Mapping[str, Any], ...]
    scorers: tuple[ScorerSpec, ...]
    include: tuple[str, ...] = ()
    combination: str = "retention"
    limits: Mapping[str, int] = field(default_factory=lambda: dict(LIMITS))
    shares: Mapping[str, float] = field(default_factory=lambda: dict(splits.SHARES))
    partition: int = 0
    candidate: tuple[int, int] = CANDIDATE
    start: int | None = None
    estimator: str = estimators.DEFAULT
    anchors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    measures: Mapping[str, tuple[float, float, int]] = field(default_factory=dict)
    gates: bool = True
    front: int = 0
    confidence: float = CONFIDENCE
    floors_on: str = FLOORS_ON[0]
    dtype: str = "auto"
    engine: str = "huggingface"
    quantize: str = ""
    batch_tokens: int | None = None
    max_length: int | None = None
    slopes: SlopeOptions = field(default_factory=SlopeOptions)
    file: str = field(default="", compare=False)
    path: str = field(default="", compare=False)
    lines: Mapping[str, str] = field(default_factory=dict, compare=False)

    def place(self, key: str) -> str:
        """``file:line: key``, for messages; the line of the section that would hold an absent key."""
        line = self.lines.get(key) or self.lines.get(key.rpartition(".")[0])
        return f"{line}: {self.path}{key}" if line else f"{self.path}{key}"

    def place_of(self, scorer: str) -> str:
        """``file:line: key`` of the first objective that a scorer measures."""
        names = (plain["name"] for plain in self.objectives if plain["scorer"] == scorer)
        return self.place(f"objectives.{next(names)}")

    def without(self, unbuilt: Collection[str]) -> SuiteSpec:
        """The same without some scorers, and without what is measured or made with them."""
        left = [plain for plain in self.objectives if plain["scorer"] not in unbuilt]
        names = {plain["name"] for plain in left}
        return replace(
            self,
            objectives=tuple(plain for plain in left if names.issuperset(plain["of"])),
            scorers=tuple(scorer for scorer in self.scorers if scorer.name not in unbuilt),
            anchors={} if unbuilt else self.anchors,
            measures={name: axis for name, axis in self.measures.items() if name in names},
        )

    def pinned(self, commits: Mapping[str, Mapping[str, str]]) -> SuiteSpec:
        """The same with data of the hub taken at commits: scorer -> data set -> commit."""
        scorers = (
            replace(each, options={**each.options, "commits": dict(commits[each.name])})
            if commits.get(each.name)
            else each
            for each in self.scorers
        )
        return replace(self, scorers=tuple(scorers))

    @property
    def plain(self) -> dict[str, Any]:
        """What a worker needs to build the scorers."""
        return {
            "include": list(self.include),
            "scorers": [[s.kind, s.name, s.target, dict(s.options)] for s in self.scorers],
        }


def parse_suite(
    node: config.Node,
    models: Sequence[str] | None,
    problems: config.Problems,
    roles: Mapping[str, Sequence[str]] | None = None,
) -> SuiteSpec | None:
    """A suite from YAML; problems are noted, None is returned if there were any.

    Args:
        node: the suite.
        models: the sources that floors may name; None accepts any name.
        problems: where they are noted.
        roles: which of them play the roles that floors may name instead.
    """
    before = len(problems.found)
    section = config.Section(node, problems, "" if node.line <= 1 else "fitness.")
    folder = node.folder
    include = tuple(str((folder / path).resolve()) for path in section.texts("include"))
    for path in include:
        if not os.path.isdir(path):
            section.problem("include", f"no such folder: {path}")
    combination = section.choice("combine", COMBINATIONS, "retention")
    estimator = section.choice("estimator", estimators.names(), estimators.DEFAULT)
    dtype = section.choice("dtype", DTYPES, "auto")
    engine = section.choice("engine", ENGINES.names(), "huggingface")
    quantize = section.text("quantize")
    gates = section.flag("gates", True)
    front = section.integer("front", 0, low=0)
    confidence = section.number("confidence", CONFIDENCE, low=0.5, high=0.999) or CONFIDENCE
    floors_on = section.choice("floors_on", FLOORS_ON, FLOORS_ON[0])
    slopes = parse_slopes(section)
    batch_tokens = section.integer("batch_tokens", 0, low=1) or None
    max_length = section.integer("max_length", 0, low=1) or None
    limits, shares, candidate = dict(LIMITS), dict(splits.SHARES), CANDIDATE
    partition, start = 0, None
    if items := section.section("items"):
        limits = {
            split: items.integer(split, size, low=0 if split == "probe" else 1)
            for split, size in LIMITS.items()
        }
        candidate, partition = _parse_candidate(items), items.integer("partition", 0, low=0)
        start = items.integer("start", 1, low=1) if "start" in items else None
        if part := items.section("shares"):
            shares = {
                split: part.number(split, share, low=0.0) or 0.0 for split, share in shares.items()
            }
            part.finish()
            if abs(sum(shares.values()) - 1) > 1e-9:
                items.problem("shares", f"must add up to 1, found {sum(shares.values()):g}")
            if not all(shares[split] for split in splits.SPLITS if split != "probe"):
                items.problem("shares", "search, select and report each need a share above 0")
        items.finish()
    objectives: list[dict[str, Any]] = []
    scorers: dict[str, ScorerSpec] = {}
    first: dict[str, int] = {}  # objective -> how many texts of a ranking count
    nodes = dict(section.items("objectives"))
    for name, item in nodes.items():
        parsed = _parse_objective(name, item, models, roles or {}, problems, section.path)
        if parsed is None:
            continue
        objective, scorer = parsed
        objectives.append(objective)
        if scorer is None:
            continue
        known = scorers.setdefault(scorer.name, scorer)
        if (joined := known.joined(scorer)) is not None:
            scorers[scorer.name] = joined
            first[name] = scorer.options.get("k", FIRST)
            continue
        another = "write a task of another name that includes this one"
        problems.add(
            item,
            f"{section.path}objectives.{name}",
            f"{scorer.name} already stands above with other options ({known.differences(scorer)}), and is asked once "
            f"for both; say the same in both, or {another if scorer.kind == 'task' else 'copy it to another name'}",
        )
    for objective in objectives:  # a scorer of several numbers of texts names its metrics by them
        asked = scorers[objective["scorer"]] if objective["scorer"] else None
        if asked is not None and isinstance(asked.options.get("k"), list):
            objective["metric"] += f"@{first[objective['name']]}"
    _check_derived(nodes, objectives, problems, section.path)
    anchored = dict(section.items("anchors"))
    anchors = _parse_anchors(section, anchored, scorers)
    measures = _parse_measures(section, nodes)
    lines = _lines_of("objectives", nodes) | _lines_of("anchors", anchored)
    if (said := section.get("quantize")) is not None:
        lines["quantize"] = f"{said.file}:{said.line}"
    if "objectives" not in section:
        section.problem("objectives", "missing; expected a mapping of objective names")
    elif not objectives and len(problems.found) == before:
        section.problem("objectives", "expected at least one objective")
    elif len(objectives) < len(nodes) or not objectives:
        pass  # what is wrong with one of them was said
    elif not any(objective["weight"] for objective in objectives):
        section.problem("objectives", "every weight is 0; expected one above 0")
    elif front and sum(objective["weight"] > 0 for objective in objectives) < 2:
        section.problem("front", "needs two objectives with a weight; there is one")
    section.finish()
    if len(problems.found) > before:
        return None
    return SuiteSpec(
        objectives=tuple(objectives),
        scorers=tuple(scorers.values()),
        include=include,
        combination=combination,
        limits=limits,
        shares=shares,
        partition=partition,
        candidate=candidate,
        start=start,
        estimator=estimator,
        anchors=anchors,
        measures=measures,
        gates=gates,
        front=front,
        confidence=confidence,
        floors_on=floors_on,
        dtype=dtype,
        engine=engine,
        quantize=quantize,
        batch_tokens=batch_tokens,
        max_length=max_length,
        slopes=slopes,
        file=node.file,
        path=section.path,
        lines=lines,
    )


def _listed(first: int | list[int]) -> list[int]:
    return first if isinstance(first, list) else [first]


def _lines_of(section: str, nodes: Mapping[str, config.Node]) -> dict[str, str]:
    """``file:line`` of the entries of a section, and of their keys."""
    found = {}
    for name, node in nodes.items():
        keys = node.value if isinstance(node.value, dict) else {}
        for key, each in (("", node), *keys.items()):
            found[f"{section}.{name}.{key}".rstrip(".")] = f"{each.file}:{each.line}"
    return found


def _parse_candidate(items: config.Section) -> tuple[int, int]:
    """One number of items, or those of the first and of the last generation."""
    node = items.get("candidate")
    if node is None:
        return CANDIDATE
    found = node.plain
    pair = found if isinstance(found, list) else [found, found]
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in pair)
    if len(pair) == 2 and whole and 1 <= pair[0] <= pair[1]:
        return pair[0], pair[1]
    items.problem(
        "candidate",
        "expected a number of items, or [first generation, last generation] of which the first is no "
        f"larger, found {config.shown(found)}",
    )
    return CANDIDATE


def _check_derived(
    nodes: Mapping[str, config.Node],
    objectives: Sequence[Mapping[str, Any]],
    problems: config.Problems,
    path: str,
) -> None:
    """Objectives made of others name measured ones; those with a problem of their own may be."""
    derived = [objective["name"] for objective in objectives if objective["of"]]
    measured = [name for name in nodes if name not in derived]
    for objective in objectives:
        for part in objective["of"]:
            if part not in measured:
                name = objective["name"]
                problems.add(
                    nodes[name],
                    f"{path}objectives.{name}",
                    f"{part!r} is no measured objective{did_you_mean(part, measured)}",
                )


def _parse_anchors(
    section: config.Section, nodes: Mapping[str, config.Node], scorers: Mapping[str, ScorerSpec]
) -> dict[str, dict[str, float]]:
    """What `evomerge reduce` wrote: scorer -> item -> weight."""
    anchors: dict[str, dict[str, float]] = {}
    for name, node in nodes.items():
        found = node.plain
        if name not in scorers:
            section.problem(
                "anchors", f"{name!r} is no task of this file{did_you_mean(name, scorers)}", node
            )
        elif not (
            isinstance(found, dict)
            and found
            and all(
                isinstance(w, (int, float)) and math.isfinite(w) and w > 0 for w in found.values()
            )
        ):
            section.problem("anchors", f"{name}: expected item ids with weights above 0", node)
        else:
            anchors[name] = {str(id): float(weight) for id, weight in found.items()}
    return anchors


def _parse_measures(
    section: config.Section, objectives: Collection[str]
) -> dict[str, tuple[float, float, int]]:
    """Objective -> ``low``, ``high``, ``cells`` of its axis."""
    measures: dict[str, tuple[float, float, int]] = {}
    for name, node in section.items("measures"):
        axis = config.Section(node, section.problems, f"{section.path}measures.{name}.")
        if name not in objectives:
            hint = did_you_mean(name, objectives)
            section.problem("measures", f"{name!r} is no objective of this file{hint}", node)
        for key in ("low", "high"):
            axis.require(key, "a number, an end of the axis")
        low, high = axis.number("low", 0.0), axis.number("high", 1.0)
        cells = axis.integer("cells", CELLS, low=1, high=10_000)
        axis.finish()
        if low is not None and high is not None and low >= high:
            axis.problem("high", f"expected a number above low ({low:g}), found {high:g}")
        measures[name] = (low or 0.0, high or 0.0, cells)
    return measures


def _parse_objective(
    name: str,
    node: config.Node,
    models: Sequence[str] | None,
    roles: Mapping[str, Sequence[str]],
    problems: config.Problems,
    path: str,
) -> tuple[dict[str, Any], ScorerSpec | None] | None:
    """An objective, and the scorer that measures it; None for one made of other objectives."""
    before = len(problems.found)
    section = config.Section(node, problems, f"{path}objectives.{name}.")
    kinds = [kind for kind in (*KINDS, *DERIVED) if kind in section]
    if len(kinds) != 1 and isinstance(node.value, dict):
        section.problem(
            "",
            "expected exactly one of task, text, reward and retrieval (files), function (module:function), "
            "worst_of, mean_of and distance_of (lists of objectives)",
        )
    kind = kinds[0] if kinds else "task"
    scorer = None if kind in DERIVED else _parse_scorer(kind, section, node.folder)
    of = section.texts(kind) if scorer is None else ()
    if scorer is None and not of:
        section.problem(kind, "expected at least one objective")
    target = _parse_target(kind, section)
    default = METRICS.get(kind, "")
    objective = {
        "name": name,
        "scorer": scorer.name if scorer else "",
        "metric": section.text("metric", default) if scorer else "",
        "direction": section.choice("direction", ("maximize", "minimize", "auto"), "auto"),
        "weight": section.number("weight", 1.0, low=0.0),
        "floor": _parse_floor(section, models, roles),
        "scale": section.number("scale", None, low=1e-9),
        "of": tuple(of),
        "how": DERIVED.get(kind, ""),
        "target": target,
    }
    if objective["target"] is not None and objective["direction"] == "maximize":
        section.problem("direction", "a distance is minimised; leave it out")
    section.finish()
    return None if len(problems.found) > before else (objective, scorer)


def _parse_target(kind: str, section: config.Section) -> float | None:
    """Of a ``distance_of``: what value its parts should have."""
    if DERIVED.get(kind) == "distance":
        section.require("target", "a number, the value that is wanted")
        return section.number("target", None)
    if "target" in section:
        section.problem(
            "target",
            "is a key of `distance_of`: give this objective `weight: 0`, and beside it write "
            "{distance_of: ITS_NAME, target: NUMBER}",
        )
    return None


def _parse_scorer(kind: str, section: config.Section, folder: Path) -> ScorerSpec:
    written = target = section.text(kind)
    options: dict[str, Any] = {}
    if kind == "task":
        for option, read in (
            ("num_fewshot", lambda key: section.integer(key, 0)),
            ("source", section.text),
            ("stratum", section.text),
            ("language", lambda key: _parse_language(section)),
            ("max_gen_toks", lambda key: section.integer(key, 0, low=1)),
        ):
            if option in section:
                options[option] = read(option)
        options |= parse_chat(section)
    elif kind in FILES:
        target = str((folder / target).resolve())
    if kind == "text" and "field" in section:
        options["field"] = section.text("field")
    if kind == "retrieval":
        for option, read in (
            ("corpus", lambda key: str((folder / section.text(key)).resolve())),
            ("k", lambda key: section.integer(key, FIRST, low=1)),
            ("pooling", lambda key: section.choice(key, POOLINGS, POOLINGS[0])),
            ("query_prefix", section.text),
            ("text_prefix", section.text),
        ):
            if option in section:
                options[option] = read(option)
    return ScorerSpec(kind, written, target, options)


def _parse_language(section: config.Section) -> str:
    language = section.text("language")
    try:
        check_language(language)
    except InputError as error:
        section.problem("language", str(error))
    return language


def _parse_floor(
    section: config.Section, models: Sequence[str] | None, roles: Mapping[str, Sequence[str]]
) -> Floor | None:
    node = section.get("floor")
    if node is None:
        return None
    value = node.value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return Floor(value=float(value))
    match = _FLOOR.match(value) if isinstance(value, str) else None
    if match is None or not 0 < float(match[1]) < math.inf:
        section.problem(
            "floor",
            f"expected a number or text like '98% of {BASE}', found {config.shown(node.plain)}",
        )
        return None
    known = None if models is None else (BASE, *models)
    name, players = match[2], roles.get(match[2], ())
    if len(players) == 1:
        name = players[0]
    if known and name not in known:
        hint = did_you_mean(name, (*known, *roles))
        section.problem(
            "floor",
            f"{name!r} is no model of this run{hint}; {one_of(known)}; or say in run.yaml which of them it is: "
            f"models: {{roles: {{{name}: NAME}}}}",
        )
        return None
    return Floor(share=float(match[1]) / 100, of=name)
