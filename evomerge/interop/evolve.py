"""A mergekit-evolve file in: the run.yaml of the same search, and what it cannot take over.

mergekit-evolve gives every block of ``layer_granularity`` layers, every model and every name filter
its own weight (and density, or ``t``). Here that is a space of groups, or of knots where the file
says ``smooth``; filters become roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evomerge import config, methods
from evomerge.checkpoint import ModelRef
from evomerge.errors import one_of
from evomerge.interop.anatomy import Anatomy, read_anatomy
from evomerge.interop.catalogue import PEERS
from evomerge.interop.naming import name_models
from evomerge.recipe import BASE
from evomerge.space import parse_space
from evomerge.suite.spec import LIMITS
from evomerge.tensors import KEPT, OTHER, PROJECTIONS, ROLES

DENSE = tuple(role for role in ROLES if role not in ("expert", *KEPT))
METHODS = ("linear", "task_arithmetic", "ties", "dare_ties", "slerp")
NORMALIZED = ("ties", "dare_ties", "linear")  # by mergekit-evolve, unless the file says otherwise
OWN = "a value each here, by role; mergekit-evolve gives them one"
EVALUATIONS = 100  # default of mergekit-evolve's --max-fevals


def run_of(node: config.Node, layers: int | None = None) -> tuple[str, list[str]]:
    """A run.yaml for a mergekit-evolve file, and what a reader of it should know.

    Args:
        node: the file.
        layers: depth of the models, if they are not at hand.

    Raises:
        ConfigError: it is no file for mergekit-evolve, or nothing here matches it.
    """
    problems = config.Problems()
    notes: list[str] = []
    section = config.Section(node, problems)
    genome = section.section("genome")
    assert genome is not None
    method = genome.choice("merge_method", METHODS, "")
    genome.require("merge_method", one_of(METHODS))
    models = _models(genome, method, notes)
    space = _space(genome, method, _Depth(models, layers), notes)
    genome.finish()
    fitness = _fitness(section, notes)
    section.finish()
    problems.check()
    # what evomerge itself would find wrong with the space
    parse_space(config.from_plain(space, node.file), list(models["sources"]), problems)
    problems.check()
    notes.append(
        f"a budget is an option of mergekit-evolve, not in its file; {EVALUATIONS} evaluations are its default"
    )
    content = {
        "models": models,
        "space": space,
        "fitness": fitness,
        "optimizer": {"name": "cma"},
        "budget": {"evaluations": EVALUATIONS},
        "dtype": "bfloat16",
        "seed": 0,
    }
    return config.dump(content), notes


def _models(genome: config.Section, method: str, notes: list[str]) -> dict[str, Any]:
    """``models`` of the run."""
    listed = list(dict.fromkeys(genome.texts("models")))
    if len(listed) < 2:
        genome.problem("models", f"expected at least two models, found {len(listed)}")
        return {BASE: "", "sources": {}, "tokenizer": BASE}
    base = genome.text("base_model")
    if method == "slerp" and (len(listed) != 2 or base not in ("", *listed)):
        genome.problem(
            "models",
            "slerp goes from the base to one model: expected exactly two models, one of which may be "
            "the base_model",
        )
    if not base and method not in ("linear", "slerp", ""):
        genome.problem("base_model", f"missing; {method} takes deltas from it")
    if base:
        sources = [model for model in listed if model != base]
    elif method == "slerp":
        base, sources = listed[0], listed[1:]
    else:
        base, sources = listed[0], listed
        notes.append(
            "a run has a base, to measure gains from; linear does not merge it: the first model stands in"
        )
    names = name_models(sources)
    wanted = genome.text("tokenizer_source", "base")
    tokenizer = BASE if wanted in ("base", base) else names.get(wanted)
    if tokenizer is None:
        notes.append(
            f"tokenizer_source: {wanted} is none of the models: the tokenizer is the base's"
        )
    return {
        BASE: ModelRef(base).portable,
        "sources": {name: ModelRef(model).portable for model, name in names.items()},
        "tokenizer": tokenizer or BASE,
    }


class _Depth:
    """Depth and tensors of the models, looked up when needed."""

    def __init__(self, models: Mapping[str, Any], layers: int | None) -> None:
        self._model, self._layers = models[BASE], layers

    def anatomy(self) -> Anatomy:
        found = read_anatomy(ModelRef(self._model))
        return replace(found, layers=found.layers or self._layers)


def _space(genome: config.Section, method: str, depth: _Depth, notes: list[str]) -> dict[str, Any]:
    """``space`` of the run."""
    step = genome.integer("layer_granularity", 0)
    smooth = genome.flag("smooth", False)
    normalize = genome.flag("normalize", method in NORMALIZED)
    if genome.flag("allow_negative_weights", False):
        notes.append(
            "allow_negative_weights is not carried over: spaces search weights of at least 0"
        )
    filters = genome.texts("filters")
    roles = _roles(filters, depth.anatomy(), notes) if filters else []
    if method == "slerp" and (filters or smooth):
        genome.problem("filters" if filters else "smooth", "mergekit-evolve has none for slerp")
    blocks = 0
    if step:
        layers = depth.anatomy().layers
        if layers is None:
            genome.problem(
                "layer_granularity",
                "no config.json of the models is at hand to tell how many layers they have; give --layers N",
            )
        elif layers % step:
            genome.problem(
                "layer_granularity",
                f"{layers} layers do not divide into blocks of {step}; mergekit refuses that, too",
            )
        else:
            blocks = layers // step
    space: dict[str, Any] = {"methods": [method]}
    groups: dict[str, Any] = {"roles": roles} if roles else {}
    if smooth and blocks > 1:
        space["knots"] = blocks
        notes.append(
            "smooth: final norm and head take the deepest knot; mergekit gives them the first value"
        )
    elif blocks > 1:
        groups = {"layers": blocks, **groups}
        notes.append(
            "embedding, final norm and head have values of their own; mergekit gives them those of the "
            "first and the last block"
        )
    if groups:
        space["groups"] = groups
    if fixed := _fixed(method, normalize):
        space["parameters"] = fixed
    space["start"] = ["parents", "uniform"]
    return space


def _fixed(method: str, normalize: bool) -> dict[str, Any]:
    """Parameters that mergekit-evolve does not search, as it sets them."""
    if method not in METHODS:
        return {}
    peer, fixed = PEERS[method], dict(PEERS[method].fixed)
    for parameter in methods.get(method).parameters:
        if parameter.name in peer.arguments and not parameter.per_model:
            argument = peer.arguments[parameter.name]
            if parameter.name == "normalize":
                fixed["normalize"] = normalize
            elif not argument.required:
                fixed[parameter.name] = argument.default
    return fixed


def _roles(filters: tuple[str, ...], anatomy: Anatomy, notes: list[str]) -> list[str]:
    """Role classes for name filters, of which the first that a name contains decides."""
    found: list[str] = []
    for text in filters:
        for role in DENSE:
            finer = {part: _hit(text, anatomy, role, part) for part in PROJECTIONS.get(role, ())}
            hit = _hit(text, anatomy, role)
            if not hit or role in found:
                continue
            if hit == 1.0 and not set(finer) & set(found):
                found.append(role)
            elif whole := [part for part, share in finer.items() if share == 1.0]:
                more = [part for part in whole if part not in found]
                found += more
                if len(more) > 1:
                    notes.append(f"filter {text!r}: {', '.join(more)} have {OWN}")
            else:
                notes.append(
                    f"filter {text!r} tells apart tensors of the role {role}; groups of a space go by role, so "
                    "all of them share a value"
                )
                some = [part for part, share in finer.items() if share] or [role]
                found += [part for part in some if part not in found]
    for parts in PROJECTIONS.values():
        if 0 < len(set(parts) & set(found)) < len(parts):
            more = [part for part in parts if part not in found]
            notes.append(f"{', '.join(more)}, which no filter names, have {OWN}")
            found += more
    rest = [r for r in DENSE if r not in found and not set(PROJECTIONS.get(r, ())) & set(found)]
    inside = [role for role in rest if role not in OTHER]
    outside = ["other"] if set(rest) >= set(OTHER) else [role for role in rest if role in OTHER]
    return [*found, *inside, *outside]


def _hit(text: str, anatomy: Anatomy, role: str, part: str | None = None) -> float:
    """The share of the tensors of a role (of a finer one) whose names contain ``text``; of norms, those in
    blocks."""
    names = [
        name
        for name, place in anatomy.places(1).items()
        if place.role == role
        and part in (None, place.projection)
        and (role != "norm" or place.layer is not None)
    ]
    return sum(text in name for name in names) / max(1, len(names))


def _fitness(section: config.Section, notes: list[str]) -> dict[str, Any]:
    """``fitness`` of the run."""
    options: dict[str, Any] = {}
    if "num_fewshot" in section:
        options["num_fewshot"] = section.integer("num_fewshot", 0)
    chat, turns = (
        section.flag("apply_chat_template", True),
        section.flag("fewshot_as_multiturn", True),
    )
    if chat:
        options["apply_chat_template"] = True
        if turns and options.get("num_fewshot"):
            options["fewshot_as_multiturn"] = True
    if section.flag("shuffle", False):
        notes.append("shuffle: items are always drawn at random here, from a split of the task's")
    if section.flag("random_init", False):
        notes.append("random_init is not carried over: a search starts from known recipes")
    fitness: dict[str, Any] = {"objectives": _objectives(section, options), "combine": "mean"}
    if "limit" in section:
        limit = section.integer("limit", 0, low=1)
        fitness["items"] = {"search": max(limit, LIMITS["search"]), "candidate": limit}
        notes.append(
            f"limit: {limit} items a candidate, drawn anew every generation, not the first {limit}"
        )
    notes.append("tasks of your own: name their folder under fitness as `include: [FOLDER]`")
    return fitness


def _objectives(section: config.Section, options: Mapping[str, Any]) -> dict[str, Any]:
    node = section.require("tasks", "a list of tasks")
    tasks = node.value if node and isinstance(node.value, list) else []
    if node and not tasks:
        section.problem("tasks", "expected a list of at least one task")
    found: dict[str, Any] = {}
    for number, item in enumerate(tasks):
        if isinstance(item.value, str):
            item = config.from_plain({"name": item.value}, item.file)
        part = config.Section(item, section.problems, f"tasks[{number}].")
        task, metric = part.text("name", required=True), part.text("metric", "acc,none")
        weight = part.number("weight", 1.0) or 0.0
        part.finish()
        name = task if task not in found else f"{task}-{metric.partition(',')[0]}"
        objective: dict[str, Any] = {"task": task, "metric": metric}
        if weight < 0:  # how mergekit-evolve is told to minimise
            objective["direction"] = "minimize"
        if abs(weight) != 1.0:
            objective["weight"] = abs(weight)
        found[name] = {**objective, **options}
    return found
