"""What a search would execute of a run, fitness or task folder. Nothing of it is executed to know it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from evomerge.checkpoint import locate
from evomerge.engines.tokenizer import named_code
from evomerge.errors import ConfigError, InputError
from evomerge.recipe import BASE
from evomerge.run.spec import RunSpec
from evomerge.scorers.sources import Code, code_in, find_module
from evomerge.suite.spec import ScorerSpec, SuiteSpec

_PLACES = 3  # shown of those that name a definition


@dataclass
class Tasks:
    """What the files of a suite's tasks say.

    Attributes:
        downloads: hub data set -> tasks that download it.
        code: scorer -> what building it, and scoring with it, executes.
        maximize: objective -> whether more is better, where it can be told.
    """

    downloads: dict[str, list[str]] = field(default_factory=dict)
    code: dict[str, list[Code]] = field(default_factory=dict)
    maximize: dict[str, bool] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """What would be executed: a definition a line, with the places that name it."""
        return lines_of([code for each in self.code.values() for code in each])


def lines_of(codes: Iterable[Code]) -> list[str]:
    """A line for each definition, with the first places that name it."""
    named: dict[Code, list[str]] = {}
    for code in codes:
        places = named.setdefault(replace(code, named=""), [])
        if code.named not in places:
            places.append(code.named)
    return [
        f"a search executes {code.definition}, named in {', '.join(places[:_PLACES])}"
        + (f" and {len(places) - _PLACES} more" if len(places) > _PLACES else "")
        for code, places in named.items()
    ]


def read_tasks(spec: SuiteSpec) -> Tasks:
    """Tasks and functions of a suite, by their files alone.

    Raises:
        ConfigError: tasks, metrics or functions are unknown.
    """
    problems: list[str] = []
    tasks = Tasks()
    for scorer in spec.scorers:
        try:
            if scorer.kind == "task":
                problems += _read_task(spec, scorer, tasks)
            elif scorer.kind == "function":
                tasks.code[scorer.name] = [_function(spec, scorer)]
            else:  # of a text less is better: bits, nats and perplexities
                measured = [o["name"] for o in spec.objectives if o["scorer"] == scorer.name]
                tasks.maximize |= dict.fromkeys(measured, scorer.kind != "text")
        except InputError as error:
            problems.append(f"{spec.place_of(scorer.name)}: {error}")
    if problems:
        raise ConfigError(problems)
    for plain in spec.objectives:
        stated = {"maximize": True, "minimize": False}.get(plain["direction"])
        parts = [tasks.maximize[name] for name in plain["of"] if name in tasks.maximize]
        if plain["target"] is not None:
            parts = [False]  # a distance is minimised, whatever it is of
        found = stated if stated is not None else parts[0] if parts else None
        if found is not None:
            tasks.maximize[plain["name"]] = found
    return tasks


def _read_task(spec: SuiteSpec, scorer: ScorerSpec, tasks: Tasks) -> Iterator[str]:
    """Add what a task's file says; the problems of its objectives."""
    from evomerge.scorers.lm_eval.description import describe

    described = describe(scorer.target, spec.include)
    if described.download:
        tasks.downloads.setdefault(described.download, []).append(scorer.name)
    if described.code:
        tasks.code[scorer.name] = list(described.code)
    try:
        described.check_options(scorer.name, scorer.options)
    except InputError as error:
        yield f"{spec.place_of(scorer.name)}: {error}"
    for plain in spec.objectives:
        if plain["scorer"] == scorer.name:
            try:
                described.check_metric(scorer.name, plain["metric"])
                better = described.maximize(plain["metric"])
                if better is not None:
                    tasks.maximize[plain["name"]] = better
            except InputError as error:
                key = f"objectives.{plain['name']}.metric"
                yield f"{spec.place(key)}: {error}"


def _function(spec: SuiteSpec, scorer: ScorerSpec) -> Code:
    """A Python objective.

    Raises:
        InputError: it is no ``module:function``, or there is no such module.
    """
    module, colon, function = scorer.target.partition(":")
    if not (module and colon and function):
        raise InputError(f"{scorer.name}: expected `module:function`, found {scorer.target!r}")
    source = find_module(module)
    if source is None and module.partition(".")[0] not in sys.builtin_module_names:
        raise InputError(
            f"{scorer.name}: there is no module {module!r} here; it must be importable wherever workers run "
            "(installed, or on PYTHONPATH)"
        )
    named = spec.place_of(scorer.name).partition(": ")[0]
    return code_in(scorer.target, named, source, function)


def remote_code(spec: RunSpec) -> list[Code]:
    """Python files of models that ``trust_remote_code`` would run; none if it is off.

    Raises:
        CheckpointError: a model is not to be had.
    """
    if not spec.trust_remote_code:
        return []
    ref = spec.model(spec.tokenizer if spec.tokenizer in spec.names else BASE)
    folders = [locate(part, ref.origin) for part in ref.parts]  # an adapter may bring a tokenizer
    found = []
    for path, named in (pair for folder in folders for pair in named_code(folder)):
        for text in _texts(named):
            module, _, attribute = text.rpartition("--")[2].rpartition(".")
            source = path.parent / f"{module.replace('.', '/')}.py"
            known = source if source.is_file() else None
            found.append(code_in(text, f"{path}:{_line(path, 'auto_map')}", known, attribute))
    return found


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _line(path: Path, key: str) -> int:
    """The line of a JSON file in which ``key`` stands."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((n for n, line in enumerate(lines, start=1) if json.dumps(key) in line), 1)
