"""run.yaml: the whole job, read strictly."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge import config, methods, optimizers, presets
from evomerge.checkpoint import DTYPES, ModelRef
from evomerge.errors import ConfigError, InputError, did_you_mean, one_of
from evomerge.recipe import BASE, Body, Recipe, allowed, placed
from evomerge.record.events import BUDGETS
from evomerge.registry import OPTIMIZERS, TRACKERS, unknown
from evomerge.run.checkpoints import checkpoints
from evomerge.space import SpaceSpec, parse_space
from evomerge.space.roles import Bound, parse_bound
from evomerge.space.start import SCORE, Published
from evomerge.suite.spec import SuiteSpec, parse_suite
from evomerge.tokens import UNION

NAME = "run.yaml"
COUNTED = ("evaluations", "items", "tokens")  # budgets that the result depends on
EVALUATIONS = 200  # if no budget is counted
DEFAULT = "auto"  # the optimizer where none is named


@dataclass(frozen=True)
class CalibrationFile:
    """Where the texts are that statistics of the parents are taken from.

    Attributes:
        file: as written.
        path: where that is.
        items: how many passages, from the first; None is all.
        place: file:line, for messages.
    """

    file: str
    path: Path
    items: int | None
    place: str


@dataclass(frozen=True)
class RunSpec:
    """One search, as configured.

    Attributes:
        folder: the run's folder.
        base, sources, tokenizer, allow, place: the models, in what their configs may differ, and roles of
            tensors that go by patterns of names.
        space, suite: what may vary; what is wanted.
        optimizer, options, population: the algorithm; None population is the algorithm's own.
        evaluations, items, tokens, hours: the budgets before the shortlist; None is no limit.
        patience: generations without gain after which the search phase ends; None never ends it.
        lag: how many batches may be under way; see ``evolution``.
        seed: names every random draw.
        dtype: of merged tensors; None is the base's.
        threads: torch threads of a worker (part of the result: sums round by thread count).
        trackers: that the search is shown in, with their options; no part of the job.
        pins: models of the hub -> their id at the commit that it meant when the search was started.
    """

    folder: Path
    base: ModelRef
    sources: Mapping[str, ModelRef]
    tokenizer: str
    space: SpaceSpec
    suite: SuiteSpec
    optimizer: str
    options: Mapping[str, Any]
    population: int | None
    evaluations: int | None
    items: int | None
    tokens: int | None
    hours: float | None
    patience: int | None
    lag: int
    seed: int
    dtype: str | None
    threads: int
    trust_remote_code: bool
    content: Mapping[str, Any]  # all files, merged into one, as written
    lines: Mapping[str, str]  # file:line of each budget, and of the optimizer
    calibration: CalibrationFile | None = None
    allow: tuple[str, ...] = ()
    place: Mapping[str, str] = field(default_factory=dict)
    trackers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """sha256 of everything that can change the result; hours can only end a search sooner."""
        text = json.dumps(self.content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def budget(self) -> dict[str, float | None]:
        """The budgets before any extension; None is no limit."""
        return {name: getattr(self, name) for name in BUDGETS}

    def named(self, name: str) -> ModelRef:
        """A model as it stands in run.yaml."""
        return self.base if name == BASE else self.sources[name]

    def model(self, name: str) -> ModelRef:
        """The same, to be opened: of the hub, at the commit that it meant when the search was started."""
        ref = self.named(name)
        return replace(ref, text=self.pins[name]) if name in self.pins else ref

    @property
    def names(self) -> tuple[str, ...]:
        """All models: the base, then the sources."""
        return (BASE, *self.sources)

    def template(self, dtype: str) -> Recipe:
        """A recipe without groups, which the space fills in."""
        recipe = Recipe(self.base, self.sources, Body(), dtype, self.seed, self.tokenizer)
        return replace(recipe, allow=self.allow, place=self.place)


def load_run(path: str | Path) -> RunSpec:
    """The run at ``path``: a folder that holds run.yaml, or the file itself.

    Raises:
        InputError: there is none.
        ConfigError: every problem in it and in the files it names.
    """
    return run_of(config.read(file_of(path)))


def file_of(path: str | Path) -> Path:
    """The run.yaml at ``path``: in that folder, or that file itself.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    file = path / NAME if path.is_dir() or path.suffix not in (".yaml", ".yml") else path
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; expected a run folder with a {NAME} in it (see `evomerge search --help`)"
        )
    return file


def run_of(node: config.Node) -> RunSpec:
    """The run that a run.yaml says.

    Raises:
        ConfigError: every problem in it and in the files it names.
    """
    problems = config.Problems()
    spec = _parse(node, problems)
    problems.check()
    assert spec is not None
    return spec


def readable_parts(path: str | Path) -> tuple[dict[str, ModelRef], SuiteSpec | None]:
    """What can be read of a run.yaml that has problems: its models, and a suite of the objectives that have none.

    Raises:
        InputError: it is absent, or no YAML.
    """
    node, unheard = config.read(file_of(path)), config.Problems()
    section = config.Section(node, unheard)
    base, sources, *_ = _parse_models(section, str(node.folder))
    models = {**({BASE: base} if base else {}), **sources}
    suite = _part(section, "fitness", unheard)
    return models, None if suite is None else _readable(suite, tuple(sources))


def _readable(node: config.Node, sources: tuple[str, ...]) -> SuiteSpec | None:
    """The suite without what is wrong with it, if that lies in objectives or in keys that it does not know."""
    keys = node.value if isinstance(node.value, dict) else {}
    objectives = keys.get("objectives")
    if objectives is None or not isinstance(objectives.value, dict):
        return None

    def with_only(names: Iterable[str]) -> SuiteSpec | None:
        chosen = replace(objectives, value={name: objectives.value[name] for name in names})
        kept = {"include": keys["include"]} if "include" in keys else {}
        part = replace(node, value={**kept, "objectives": chosen})
        return parse_suite(part, sources, config.Problems())

    return with_only(name for name in objectives.value if with_only([name]))


def _parse(node: config.Node, problems: config.Problems) -> RunSpec | None:
    section = config.Section(node, problems)
    folder = node.folder
    base, sources, tokenizer, allow, place, roles = _parse_models(section, str(folder))
    names = tuple(sources)
    space_node = _part(section, "space", problems)
    suite_node = _part(section, "fitness", problems)
    space = parse_space(space_node, names, problems, roles) if space_node and names else None
    suite = parse_suite(suite_node, names, problems, roles) if suite_node and names else None
    if space and suite:
        _check_losses(space, suite, problems)
    optimizer, options, population = _parse_optimizer(section)
    counted: dict[str, int | None] = dict.fromkeys(COUNTED)
    hours, patience, lines = None, None, dict[str, str]()
    if budget := section.section("budget"):
        counted = {
            name: budget.integer(name, 0, low=1) if name in budget else None for name in COUNTED
        }
        hours = budget.number("hours", None, low=0.0)
        patience = budget.integer("patience", 0, low=1) if "patience" in budget else None
        lines = {n: f"{at.file}:{at.line}" for n in COUNTED if (at := budget.get(n)) is not None}
        budget.finish()
    if (at := section.get("optimizer")) is not None:
        lines["optimizer"] = f"{at.file}:{at.line}"
    if not any(counted.values()):
        counted["evaluations"] = EVALUATIONS
    lag = section.integer("lag", 1, low=1, high=1000)
    seed = section.integer("seed", 0)
    dtype = section.choice("dtype", tuple(DTYPES), "") or None
    threads = section.integer("threads", 1, low=1, high=4096)
    trust = section.flag("trust_remote_code", False)
    calibration = _parse_calibration(section, _merging(space) if space else ())
    trackers = _parse_trackers(section)
    section.finish()
    if problems.found or base is None or space is None or suite is None:
        return None
    plain = node.plain
    if any(isinstance(each, dict) for each in plain["models"]["sources"].values()):
        # the checkpoints that there were, not those that a training adds
        named = {name: ref.text for name, ref in sources.items()}
        plain = {**plain, "models": {**plain["models"], "sources": named}}
    content = {
        **{key: value for key, value in plain.items() if key != "trackers"},
        "budget": {**counted, **({"patience": patience} if patience else {})},
        "space": space_node.plain if space_node else None,
        "fitness": suite_node.plain if suite_node else None,
    }
    return RunSpec(
        folder=folder,
        base=base,
        sources=sources,
        tokenizer=tokenizer,
        space=space,
        suite=suite,
        optimizer=optimizer,
        options=options,
        population=population,
        **counted,
        hours=hours,
        patience=patience,
        lag=lag,
        seed=seed,
        dtype=dtype,
        threads=threads,
        trust_remote_code=trust,
        content=content,
        lines=lines,
        calibration=calibration,
        allow=allow,
        place=place,
        trackers=trackers,
        pins={},
    )


def _parse_trackers(section: config.Section) -> dict[str, dict[str, str]]:
    """``trackers: [tensorboard, {name: wandb, project: x}]``: names, and options that the trackers check."""
    node, found = section.get("trackers"), dict[str, dict[str, str]]()
    if node is None:
        return found
    expected = "a list of trackers, each a name, or a mapping with a name and options"
    if not isinstance(node.value, list):
        section.problem("trackers", f"expected {expected}, found {config.shown(node.plain)}", node)
        return found
    for number, entry in enumerate(node.value):
        key, plain = f"trackers[{number}]", entry.plain
        options = {"name": plain} if isinstance(plain, str) else plain
        if not isinstance(options, dict) or not isinstance(options.get("name"), str):
            section.problem(key, f"expected {expected}, found {config.shown(plain)}", entry)
            continue
        name = options["name"]
        if name not in TRACKERS.names():
            section.problem(key, unknown("tracker", name, TRACKERS.names()), entry)
        elif name in found:
            section.problem(key, f"{name} is named twice", entry)
        elif any(isinstance(value, dict | list) for value in options.values()):
            section.problem(key, "expected options that are single values", entry)
        else:
            found[name] = {str(k): str(v) for k, v in options.items() if k != "name"}
    return found


def _parse_models(
    section: config.Section, origin: str
) -> tuple[ModelRef | None, dict[str, ModelRef], str, tuple[str, ...], dict[str, str], Bound]:
    if section.require("models", "base, sources and tokenizer") is None:
        return None, {}, BASE, (), {}, {}
    models = section.section("models")
    assert models is not None
    base = models.text("base", required=True)
    sources: dict[str, ModelRef] = {}
    for name, item in models.items("sources"):
        if isinstance(item.value, dict):
            found = checkpoints(name, item, base, section.problems, f"models.sources.{name}.")
            if twice := sources.keys() & found.keys():
                models.problem(f"sources.{name}", f"{min(twice)!r} is a source already", item)
            sources |= {step: ModelRef(folder, origin) for step, folder in found.items()}
        elif not isinstance(item.value, str):
            models.problem(
                f"sources.{name}",
                "expected a folder or hub id, or {checkpoints: FOLDER, last: N}, found "
                f"{config.shown(item.plain)}",
                item,
            )
        elif name == BASE:
            models.problem(
                f"sources.{name}", f"{BASE!r} is the base's own name; choose another", item
            )
        else:
            sources[name] = ModelRef(item.value, origin)
    if "sources" not in models:
        models.problem("sources", "missing; expected a mapping of source names to models")
    elif not sources and not section.problems.found:
        models.problem("sources", "expected at least one source model, as name: folder or hub id")
    tokenizer = models.text("tokenizer", BASE)
    known = tuple(dict.fromkeys((BASE, *sources, UNION)))
    if sources and tokenizer not in known:
        models.problem(
            "tokenizer",
            f"{tokenizer!r} is no model of this run{did_you_mean(tokenizer, known)}; {one_of(known)}",
        )
    allow, place, roles = allowed(models), placed(models), parse_bound(models, tuple(sources))
    models.finish()
    ref = ModelRef(base, origin) if base else None
    return ref, sources, tokenizer, allow, place, roles


def _merging(space: SpaceSpec) -> tuple[str, ...]:
    """The methods that a search merges by: those of its space, and those it starts with."""
    known = methods.names()
    started = [str(n) for n in space.start if n in known]
    started += [n for each in space.start if isinstance(each, Published) for n in each.methods]
    return tuple(dict.fromkeys((*space.methods, *started)))


def _check_losses(space: SpaceSpec, suite: SuiteSpec, problems: config.Problems) -> None:
    """Refuse losses of what is no objective."""
    known = (SCORE, *(plain["name"] for plain in suite.objectives))
    for each in space.start:
        if isinstance(each, Published) and each.losses and each.losses not in known:
            hint = did_you_mean(each.losses, known)
            problems.found.append(
                f"{each.place}: start.{each.name}.losses: {each.losses!r} is no objective of the fitness file{hint}; "
                f"{one_of(known)}"
            )


def _parse_calibration(section: config.Section, names: tuple[str, ...]) -> CalibrationFile | None:
    """``calibration: {file: FILE, items: N}``; missing where one of the methods ``names`` needs it."""
    node, part = section.get("calibration"), section.section("calibration")
    if node is None or part is None:
        for name in names:
            for statistic in methods.get(name).required:
                section.problem(
                    "calibration",
                    f"missing; {name} requires the statistic {statistic!r} of each source. Say which texts "
                    "it is to be collected from: calibration: {file: FILE, items: N}",
                )
        return None
    file = part.text("file", required=True)
    items = part.integer("items", 0, low=1) if "items" in part else None
    part.finish()
    path = node.folder / os.path.expanduser(file)
    return CalibrationFile(file, path, items, f"{node.file}:{node.line}") if file else None


def _part(section: config.Section, key: str, problems: config.Problems) -> config.Node | None:
    """A part that stands inline, in a file of its own, or in one that comes with evomerge."""
    node = section.require(
        key, "a YAML file, the name of a preset (`evomerge new --list`) or the same keys inline"
    )
    if node is None or not isinstance(node.value, str):
        return node
    try:
        return config.read(node.folder / os.path.expanduser(presets.file_of(key, node.value)))
    except ConfigError as error:
        problems.found += error.problems
    except InputError as error:
        section.problem(key, str(error))
    return None


def _parse_optimizer(section: config.Section) -> tuple[str, dict[str, Any], int | None]:
    part = section.section("optimizer")
    if part is None:
        return DEFAULT, {}, None
    name = part.choice("name", OPTIMIZERS.names(), DEFAULT)
    population = (
        part.integer("population", 0, low=1, high=100_000) if "population" in part else None
    )
    options = {}
    for option in optimizers.get(name).OPTIONS:
        node = part.get(option.name)
        if node is not None:
            if problem := option.domain.problem(node.plain):
                part.problem(option.name, problem)
            options[option.name] = node.plain
    part.finish()
    return name, options, population
