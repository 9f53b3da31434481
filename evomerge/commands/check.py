"""Preflight for a person: what a run or a recipe will do and cost, or everything wrong with it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evomerge import presets
from evomerge.checkpoint import companions, gigabytes, tensor_bytes
from evomerge.checkpoint.hub import plan
from evomerge.commands.check_model import check_model
from evomerge.commands.check_space import check_space
from evomerge.commands.check_suite import (
    check_suite,
    describe_floors,
    describe_items,
    describe_objectives,
)
from evomerge.commands.code import Tasks, lines_of, read_tasks, remote_code
from evomerge.commands.kinds import Kind, kind_of
from evomerge.commands.measuring import measure
from evomerge.commands.rounds import check_rounds
from evomerge.errors import (
    CandidateFailed,
    ConfigError,
    Incompatible,
    InputError,
    did_you_mean,
    problems_of,
)
from evomerge.evolution.core import ENOUGH, ENOUGH_FOR_UNEQUAL
from evomerge.interop import load_recipe
from evomerge.merging import outline_model, outline_parents
from evomerge.merging.blueprint import Blueprint, notes_on
from evomerge.merging.estimate import estimate_rounding
from evomerge.merging.materializer import cores
from evomerge.merging.remembered import ROOM
from evomerge.parents import Parents, doubts, ending_notes
from evomerge.parents.adapters import check_adapters, groups_of
from evomerge.parents.statistics import Statistics, StatisticStore
from evomerge.recipe import Recipe, check_named, check_rows, uncovered
from evomerge.record.events import JOURNAL
from evomerge.record.record import Record
from evomerge.report.terminal import duration_text
from evomerge.rounding import TOLD
from evomerge.run.calibrating import wanted
from evomerge.run.course import course_of
from evomerge.run.preflight import Run, inspect, prepare
from evomerge.run.rounds import NAME as ROUNDS
from evomerge.run.spec import NAME, RunSpec, load_run, readable_parts
from evomerge.scorers.sources import Code
from evomerge.suite.objectives import why_no_sum
from evomerge.suite.splits import Split


def check(path: str | Path, allow: Sequence[str] = (), *, measured: bool = False) -> list[str]:
    """What there is to know about a run, rounds, fitness file, search space, recipe or model, one fact a line.

    Nothing that stands in the file, or in the folders it names, is executed, but with ``measured``.

    Args:
        path: of the file or folder.
        allow: topics in which the configs of a recipe's models may differ, beside those it says.
        measured: of a run, score a few items and say how long all of it takes; this executes what a search does.

    Raises:
        InputError: with every problem found.
        RunError: nothing could be measured.
    """
    path = Path(_file_of(os.fspath(path)))
    kind = kind_of(path)
    if kind in (Kind.RECIPE, Kind.MERGEKIT) and not measured:
        recipe, notes = load_recipe(path)
        recipe = recipe.allowing(allow)
        return [*_check_recipe(path, recipe), *(f"note: {note}" for note in notes)]
    if allow and not measured:
        raise InputError(
            f"{path}: is {kind}, no recipe, so --allow says nothing of it; a run says what its models may differ in "
            "under models.allow, rounds under search.models.allow"
        )
    if measured and kind != Kind.RUN:
        raise InputError(f"{path}: is {kind}; --measure is of a run")
    if kind == Kind.RUN:
        return _check_run(path, measured)
    if kind == Kind.ROUNDS:
        return check_rounds(path / ROUNDS if path.is_dir() else path)
    if kind == Kind.FITNESS:
        return check_suite(path)
    if kind == Kind.SPACE:
        return check_space(path)
    if kind in (Kind.MODEL, Kind.ADAPTER):
        return check_model(path)
    raise InputError(f"{path}: is {kind}; {_runs_in(path)}")


def _runs_in(folder: Path) -> str:
    """What to check instead of a folder of folders."""
    runs = sorted(file.parent for file in folder.glob(f"*/{NAME}"))
    if runs:
        return f"it holds runs: {', '.join(map(str, runs[:8]))}; name one of them"
    return "expected a run.yaml or its folder, a fitness file, a search space, a recipe or a model"


def _file_of(text: str) -> str:
    """``text`` itself if it is there; else the preset that it names, of a fitness file or else of a space."""
    if os.path.exists(text) or not presets.is_name(text):
        return text
    for kind in (known := {kind: presets.names(kind) for kind in ("fitness", "space")}):
        if text in known[kind]:
            return presets.file_of(kind, text)
    hint = did_you_mean(text, [name for names in known.values() for name in names])
    raise InputError(
        f"{text}: no such file or folder, and nothing that comes with evomerge is called so{hint}; "
        "`evomerge new --list` shows what does"
    )


def _check_recipe(file: Path, recipe: Recipe) -> list[str]:
    parents = outline_parents(recipe)
    try:
        blueprint = Blueprint.of(parents, recipe.body.path)
    except Incompatible as error:
        raise Incompatible(f"{file}: {error}") from None
    merge = blueprint.merge
    if missing := uncovered(recipe, merge.places):
        raise ConfigError(
            [f"{file}: groups: no group matches {missing[0]!r} ({len(missing)} tensors in all); end the list "
             "with a group that has neither layers nor roles nor tensors"]
        )  # fmt: skip
    check_named(recipe, merge.names, merge.ties)
    if not parents.missing:
        Statistics(parents).require(recipe)
    check_rows(recipe, merge.shapes, merge.places)
    check_adapters(parents, groups_of(recipe))
    for model in parents.models.values():
        if not model.missing:
            model.check_finite()
    companions(parents.donor)
    # what is kept of a router or tower is in no group of the recipe
    asked = {
        recipe.groups.index(found)
        for site in merge.sites
        if (found := recipe.group_of(site.place)) in recipe.groups
    }
    lacking = [site.place for site in merge.sites if site.place.absent]
    idle = [
        f"note: groups[{number}] "
        + (
            "merges no tensor: a model that it merges has none of those that it matches, so they stay as they are"
            if any(map(group.matches, lacking))
            else "matches no tensor: it lies beyond the layers, or earlier groups take all of it"
        )
        for number, group in enumerate(recipe.groups)
        if number not in asked
    ]
    unread = [name for name in recipe.models if name not in (*recipe.used, recipe.tokenizer)]
    if unread and recipe.tokenizer in parents.models:  # of a union of tokens all models have a part
        idle.append(f"note: no group reads {', '.join(unread)}: the merge is the same without")
    size = sum(tensor_bytes(site.shape, recipe.dtype) for site in blueprint.sites)
    parameters = sum(math.prod(site.shape) for site in blueprint.sites)
    rounding = [] if parents.missing else _rounding(recipe, parents)
    return [
        f"{file}: ok",
        f"models: {', '.join(f'{name} = {model.name}' for name, model in parents.models.items())}",
        f"{parents.frame.architecture}, {_depth(blueprint)}, {parameters:,} parameters",
        f"merged model: {gigabytes(size)} in {recipe.dtype}; {_tokenizer(recipe.tokenizer, parents)}",
        *rounding,
        *notes_on(parents),
        *_doubts(parents),
        *([f"row weights: {row_text(recipe.body.rows.size)}"] if recipe.body.rows else []),
        f"digest {recipe.digest[:16]}",
        *idle,
        *_downloads(parents),
    ]


def _depth(blueprint: Blueprint) -> str:
    """How many layers, and of how many of the merge."""
    found = f"{blueprint.layers} layers"
    if blueprint.merge is blueprint:
        return found
    used = len({hop.layer for hop in blueprint.path})
    return f"{found} (a path through {used} of {blueprint.merge.layers})"


def _downloads(parents: Parents) -> list[str]:
    """What merges would download first, and what cannot be told without it; nothing if all is here."""
    names = [f"{name} ({model.name})" for name, model in parents.models.items() if model.missing]
    if not names:
        return []
    return [
        *plan(parents.missing),
        f"not checked, since only the weights tell, of {', '.join(names)}: NaN, a common ancestor, statistics, what "
        "rounding takes, whether stored heads are the embedding; they are checked after the download",
    ]


def _rounding(recipe: Recipe, parents: Parents) -> list[str]:
    """What the recipe's dtype takes of the changes of its groups, from a sample of tensors."""
    try:
        found = estimate_rounding(recipe, parents)
    except CandidateFailed as failure:
        return [f"note: it cannot be merged: {failure}"]
    if found.shares and not found.lost:
        return [f"rounding to {recipe.dtype} takes less than {TOLD:.0%} of what any group changes"]
    return found.lines()


def _doubts(parents: Parents) -> list[str]:
    """What speaks against merging such parents, and what a merge never stops at."""
    writes = parents.frame.has_head
    endings = ending_notes(parents.models, parents.donor_name) if writes else []
    return [*doubts(parents), *(f"note: {fact}" for fact in endings)]


def _tokenizer(name: str, parents: Parents) -> str:
    """Whose tokenizer a merge has."""
    if name in parents.models:
        return f"tokenizer of {name}"
    return f"tokenizer of {parents.donor.name}, with the tokens of all models"


LIBRARIES = (
    700 << 20
)  # bytes of a worker with torch, transformers and lm-eval, before it opens a model; measured
TYPICAL_BATCH = 1024  # tokens of a forward and backward pass on a CPU


def _check_run(path: Path, measured: bool) -> list[str]:
    try:
        spec = load_run(path)
    except ConfigError as error:
        raise ConfigError([*error.problems, *_beside(path)]) from None
    try:
        tasks, remote = read_tasks(spec.suite), remote_code(spec)
    except InputError as error:
        raise ConfigError([*problems_of(error), *_other_problems(spec)]) from None
    if measured:
        job = prepare(spec, download=False)
    elif tasks.code or remote:
        return _check_unexecuted(spec, tasks, remote)
    else:
        job = prepare(
            replace(spec, trust_remote_code=False), download=False
        )  # there is no such code
    parents = job.parents
    suite = job.suite
    why = why_no_sum(suite.objectives, suite.spec.combination)
    full, known = (
        sum(map(len, items.values()))
        for items in (suite.splits[Split.SEARCH], suite.known(spec.seed))
    )
    first, last = suite.cost(0.0), suite.cost(1.0)
    return [
        f"{spec.folder}: ok",
        *_models_and_space(job, parents),
        f"budget: {_budget(spec)}; base and parents are {len(job.space.references())} evaluations of {full} items, known "
        f"recipes {len(job.space.starts())} of {known}{_searched(job)}",
        f"a candidate: {first} items in the first generation, {last} in the last, the probe included",
        *describe_items(suite),
        *_what_counts(spec, suite.directions),
        *_prompts(job),
        *_slopes(job, parents),
        *([f"the shortlist answers the whole select split, without a race: {why}"] if why else []),
        *_needs(job, parents),
        *(_measured(job) if measured else []),
    ]


def _measured(job: Run) -> list[str]:
    """What a worker took for a few items, and how long the whole search takes by that."""
    if job.parents.missing:
        raise InputError("--measure: the models are not here yet; `evomerge search` downloads them")
    found = measure(job)
    slopes = f", of a slope {_duration(found.slope)}" if found.slope is not None else ""
    lines = [
        f"measured: a worker opens in {_duration(found.opening)}, merges in {_duration(found.merge)}, takes "
        f"{_duration(found.item)} an item{slopes}, and {gigabytes(found.memory)} of memory at most, mapped files among it"
    ]
    search = job.search()
    seconds = found.seconds(course_of(job, search), job.slope_cost)
    if seconds is None:
        return [*lines, "time: as many hours as the budget says, then the shortlist and the report"]
    workers = min(cores(), max(1, search.plan.together // ENOUGH))
    share = (
        f"; about {_duration(seconds / workers)} with {workers} workers here" if workers > 1 else ""
    )
    return [
        *lines,
        f"time: about {_duration(seconds)} of one worker to the final table{share}, while this machine is as busy as now",
    ]


def _duration(seconds: float) -> str:
    """For a person, also of what takes no second."""
    if seconds < 1:
        return f"{1000 * seconds:.2g} ms"
    return f"{seconds:.2g} s" if seconds < 10 else duration_text(seconds)


def _beside(path: Path) -> list[str]:
    """What else is wrong where a run.yaml or a file that it names has mistakes: with its models, and with its tasks."""
    found: list[str] = []
    models, suite = readable_parts(path)
    steps: list[Callable[[], Any]] = [partial(outline_model, ref) for ref in models.values()]
    if suite is not None:
        steps.append(partial(read_tasks, suite))
    for step in steps:
        try:
            step()
        except InputError as error:
            found += problems_of(error)
    return found


def _other_problems(spec: RunSpec) -> list[str]:
    """What is wrong with a run beside its tasks."""
    try:
        inspect(spec, [scorer.name for scorer in spec.suite.scorers], tokenizer=False)
    except InputError as error:
        return problems_of(error)
    return []


def _check_unexecuted(spec: RunSpec, tasks: Tasks, remote: Sequence[Code]) -> list[str]:
    """All that can be known of a run that executes code, without executing it."""
    without = replace(spec, trust_remote_code=False)
    job = inspect(without, tasks.code, tokenizer=not remote)
    parents = job.parents
    unchecked = [
        *([f"items, splits, prompts and slopes of {', '.join(tasks.code)}"] if tasks.code else []),
        *([f"the tokenizer of {spec.tokenizer}"] if remote else []),
    ]
    return [
        f"{spec.folder}: ok, as far as can be told without executing what it names",
        *_models_and_space(job, parents),
        f"budget: {_budget(spec)}; base, parents and known recipes are {_known(job)} evaluations{_searched(job)}",
        *_what_counts(spec, {**tasks.maximize, **job.suite.directions}),
        *([] if remote else _prompts(job)),
        *tasks.lines,
        *lines_of(remote),
        f"not checked, since only executing tells: {'; '.join(unchecked)}",
        *_needs(job, parents),
    ]


def _models_and_space(job: Run, parents: Parents) -> list[str]:
    spec, frame = job.spec, parents.frame
    return [
        f"models: {', '.join(f'{name} = {model.name}' for name, model in job.models.items())}",
        f"{frame.architecture}, {frame.layers} layers, {frame.parameters:,} parameters; merged in {job.dtype}, "
        f"scored in {_scoring(job)}",
        *notes_on(parents),
        *_doubts(parents),
        *([] if parents.missing else _rounding(job.space.uniform(), parents)),
        *_statistics(job),
        _space(job),
        *_rows(job),
        *(f"note: {name} is not scored first: {why}" for name, why in spec.space.left_out.items()),
        _optimizer(job),
        *(
            f"tracker: {name} is told of run.yaml, scores and the table"
            + "".join(f"; {key} {value}" for key, value in options.items())
            for name, options in spec.trackers.items()
        ),
    ]


def _scoring(job: Run) -> str:
    """What candidates are scored in."""
    kind = job.suite.spec.quantize
    return f"{job.scoring}, with weights of 4 bits ({kind})" if kind else job.scoring


def _optimizer(job: Run) -> str:
    spec, population = job.spec, job.optimizer().population
    asked = population * spec.lag
    few, many = max(1, asked // ENOUGH_FOR_UNEQUAL), max(1, asked // ENOUGH)
    return (
        f"optimizer: {spec.optimizer}, population {population}, lag {spec.lag}: at most {asked} candidates at a "
        f"time, which keep {many} worker{'' if many == 1 else 's'} busy ({few} where some take many times as long "
        "as others)"
    )


def _space(job: Run) -> str:
    spec, count = job.spec.space, len(job.space.dims)
    named = ", ".join(dict.fromkeys((*spec.methods, *spec.parts)))
    return f"space: {named}; {count} gene{'' if count == 1 else 's'}"


def _rows(job: Run) -> list[str]:
    """What row weights are, in plain words."""
    spec = job.space.rows
    if spec is None:
        return []
    count, cost = job.space.row_weights(job.space.uniform()).size, job.reserve
    items = f", {cost.items:,} items of the budget" if cost.items else ""
    return [
        f"row weights: {row_text(count)}",
        f"a factor for each of a tensor's {spec.by}: they take {spec.steps} steps by slopes from what the optimizer "
        f"recommends{items}; each is a file of {gigabytes(4 * count)} at most in the run's folder, its slope one as "
        "large an objective",
    ]


def row_text(count: int) -> str:
    """What ``count`` row weights are."""
    return f"{count:,} coefficients; this is careful fine-tuning in a small subspace, not a recipe that one can read"


def _statistics(job: Run) -> list[str]:
    """What a search would collect of the parents before anything else."""
    texts, store = job.texts, StatisticStore()
    if texts is None:
        return []
    lines: dict[str, list[str]] = {}
    for name, model in wanted(job.spec, job.space):
        opened = job.models[model]
        there = not opened.missing and store.file(opened, name, texts.digest).is_file()
        lines.setdefault(name, []).append(f"{model} ({'there' if there else 'to be collected'})")
    count = len(texts.texts)
    return [f"statistic {name} from {count} texts: {', '.join(m)}" for name, m in lines.items()]


def _searched(job: Run) -> str:
    """How many evaluations are left for the search, where these are limited."""
    limit = job.spec.evaluations
    return "" if limit is None else f"; {limit - _known(job)} evaluations are left to search with"


def _known(job: Run) -> int:
    """Evaluations of base, parents and known recipes."""
    return len(job.space.references()) + len(job.space.starts())


def _what_counts(spec: RunSpec, directions: Mapping[str, bool]) -> list[str]:
    """Objectives and floors in words, and what base and parents told of them if they were scored."""
    bounds: dict[str, float] = {}
    unable: Mapping[str, str] = {}
    if (spec.folder / JOURNAL).is_file():
        record = Record(spec.folder)
        history, unable = record.history, record.history.unable
        directions = {o.name: o.maximize for o in record.objectives}
        if history.batches and history.complete(1):
            references = history.references(0)
            bounds = {o.name: o.floor.bound(o, references) for o in record.objectives if o.floor}
    return [
        describe_objectives(spec.suite),
        *describe_floors(spec.suite, directions, bounds),
        *(f"{name} cannot rank these models: {why}" for name, why in unable.items()),
    ]


def _prompts(job: Run) -> list[str]:
    """What the tokenizer of merges makes otherwise than tasks ask."""
    return [f"note: {fact}" for fact in job.prompt_notes]


def _needs(job: Run, parents: Parents) -> list[str]:
    blueprint = Blueprint.of(parents)
    shapes = blueprint.shapes.values()
    resident = sum(tensor_bytes(shape, job.scoring) for shape in shapes)
    deeper = 0
    if paths := job.spec.space.parts.get("path"):
        inside = sum(
            tensor_bytes(site.shape, job.scoring)
            for site in blueprint.sites
            if site.place.layer is not None
        )
        deeper = max(0, paths.deepest(blueprint.layers) - blueprint.layers)
        resident += deeper * inside // blueprint.layers
    merged = [name for name in job.models if job.spec.model(name).is_recipe]
    largest = max(tensor_bytes(shape, "float32") for shape in shapes)
    return [
        f"memory of a worker: {gigabytes(LIBRARIES + resident + largest * (len(job.models) + 2))}"
        + (f" (with {deeper} blocks more, for paths)" if deeper else "")
        + " and activations; the parents' files are mapped and shared; "
        + (
            f"several GPUs are of no use to it: {job.why_one_device}"
            if job.why_one_device
            else "--num-gpus N spreads it over N"
        ),
        "disk: journal and responses, some kilobytes a candidate"
        + (", and the files of row weights" if job.space.rows else " only"),
        *[f"disk: {name} is a recipe: its merge lies in the cache" for name in merged],
        *_downloads(parents),
    ]


def _slopes(job: Run, parents: Parents) -> list[str]:
    """What slopes can be taken of, and what that takes; why there are none."""
    if why := job.without_slopes:
        return [f"slopes: none; {why}"]
    smooth, taught = sum(job.space.smooth), job.suite.teaching()
    shapes, config = Blueprint.of(parents).shapes.values(), parents.frame.config
    size = TYPICAL_BATCH * tensor_bytes((1,), job.scoring)
    width, inner = (int(config.get(key, 0)) for key in ("hidden_size", "intermediate_size"))
    vocabulary = int(config.get("vocab_size", 0))
    kept = size * (parents.frame.layers * (10 * width + 4 * inner) + 4 * vocabulary)
    sizes = [tensor_bytes(shape, "float32") for shape in shapes]
    shared = min(ROOM, len(job.space.sources) * sum(sizes))
    more = kept + 3 * max(sizes) + shared
    return [
        f"slopes: of {', '.join(name for name, why in taught.items() if not why)} by {smooth} of "
        f"{len(job.space.dims)} genes; about {gigabytes(more)} more a worker, for the activations of "
        f"{TYPICAL_BATCH:,} tokens, one tensor's gradient and what scorers share",
        *(f"note: no slope of {name}: {why}" for name, why in taught.items() if why),
        *(f"note: slope of {name}: {how}" for name, how in job.suite.shown().items()),
    ]


def _budget(spec: RunSpec) -> str:
    found = [f"{limit:,} {name}" for name, limit in spec.budget.items() if limit is not None]
    if spec.patience:
        found.append(
            f"or {spec.patience} population{'s' if spec.patience > 1 else ''} without gain"
        )
    return ", ".join(found)
