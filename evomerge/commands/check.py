"""Preflight for a person: what a run or a recipe will do and cost, or everything wrong with it."""

from __future__ import annotations

from pathlib import Path

from evomerge import config
from evomerge.checkpoint import tensor_bytes
from evomerge.commands.check_suite import check_suite, describe_items
from evomerge.errors import ConfigError
from evomerge.parents.parents import Sources
from evomerge.recipe import BASE, Recipe, uncovered
from evomerge.run.preflight import prepare
from evomerge.run.spec import NAME, RunSpec, load_run
from evomerge.suite.objectives import why_no_sum
from evomerge.suite.splits import Split
from evomerge.tensors import place_of


def check(path: str | Path) -> list[str]:
    """What there is to know about a run.yaml, run folder, fitness file or recipe, one fact a line.

    Raises:
        InputError: with every problem found.
    """
    path = Path(path)
    file = path / NAME if path.is_dir() else path
    node = config.read(file)
    keys = set(node.value) if isinstance(node.value, dict) else set()
    if file.name == NAME or keys & {"space", "fitness", "optimizer", "budget"}:
        return _check_run(path)
    if "objectives" in keys:
        return check_suite(file)
    return _check_recipe(file, Recipe.parse(node))


def _check_recipe(file: Path, recipe: Recipe) -> list[str]:
    sources = Sources.open(recipe)
    if missing := uncovered(recipe, sources.names):
        raise ConfigError(
            [f"{file}: groups: no group matches {missing[0]!r} ({len(missing)} tensors in all); end the list "
             "with a group that has neither layers nor roles"]
        )  # fmt: skip
    for model in sources.models.values():
        model.check_finite()
    asked = {
        recipe.groups.index(found)
        for name in sources.names
        if (found := recipe.group_of(place_of(name)))
    }
    idle = [
        f"note: groups[{number}] matches no tensor: it lies beyond the layers, or earlier groups take all of it"
        for number in range(len(recipe.groups))
        if number not in asked
    ]
    size = sum(tensor_bytes(sources.shape(name), recipe.dtype) for name in sources.names)
    return [
        f"{file}: ok",
        f"models: {', '.join(f'{name} = {model.name}' for name, model in sources.models.items())}",
        f"{sources.first.architecture}, {sources.first.layers} layers, {sources.first.parameters:,} parameters",
        f"merged model: {_gigabytes(size)} in {recipe.dtype}; tokenizer of {recipe.tokenizer}",
        *sources.notes(),
        f"digest {recipe.digest[:16]}",
        *idle,
    ]


def _check_run(path: Path) -> list[str]:
    job = prepare(load_run(path))
    spec, space, suite = job.spec, job.space, job.suite
    base = job.models[BASE]
    sources = Sources(job.models, spec.tokenizer)
    resident = sum(tensor_bytes(sources.shape(name), job.scoring) for name in sources.names)
    largest = max(tensor_bytes(sources.shape(name), "float32") for name in sources.names)
    why = why_no_sum(suite.objectives, suite.spec.combination)
    known = len(space.references()) + len(space.starts())
    full = sum(map(len, suite.splits[Split.SEARCH].values()))
    first, last = suite.cost(0.0), suite.cost(1.0)
    return [
        f"{spec.folder}: ok",
        f"models: {', '.join(f'{name} = {model.name}' for name, model in job.models.items())}",
        f"{base.architecture}, {base.layers} layers, {base.parameters:,} parameters; merged in {job.dtype}, scored in {job.scoring}",
        *sources.notes(),
        f"space: {', '.join(spec.space.methods)}; {len(space.dims)} genes",
        f"optimizer: {spec.optimizer}, population {job.optimizer().population}, lag {spec.lag}",
        f"budget: {_budget(spec)}; base, parents and known recipes are {known} evaluations of {full} items",
        f"a candidate: {first} items in the first generation, {last} in the last, the probe included",
        *describe_items(suite),
        f"objectives: {', '.join(o.name + (f' (floor {o.floor})' if o.floor else '') for o in suite.objectives)}",
        *([f"the shortlist answers the whole select split, without a race: {why}"] if why else []),
        f"memory of a worker: {_gigabytes(resident + largest * (len(job.models) + 2))} and activations; "
        "the parents' files are mapped and shared",
        "disk: journal and responses only, some kilobytes a candidate",
    ]


def _budget(spec: RunSpec) -> str:
    limits = {
        "evaluations": spec.evaluations, "items": spec.items, "tokens": spec.tokens, "hours": spec.hours
    }  # fmt: skip
    return ", ".join(f"{limit:,} {name}" for name, limit in limits.items() if limit is not None)


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"
