"""mergekit YAML out: the same merge in the peer's words, or a refusal with the reason.

Only what survives the translation is used: explicit slices (never gradients, whose head and final
norm take the first value), per-filter values, float32 arithmetic with one cast at the end. Facts
about mergekit are those of version 0.1.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge import config, methods
from evomerge.checkpoint import Checkpoint, ModelRef, locate
from evomerge.errors import InputError
from evomerge.merging import vocabulary
from evomerge.params import Value
from evomerge.recipe import BASE, Group, Recipe, uncovered
from evomerge.tensors import Place, place_of

KNOWN = ("linear", "task_arithmetic", "slerp", "ties", "dare_linear", "dare_ties", "passthrough")
# role -> what mergekit's filters look for in a tensor's name; the first hit wins, and the norms of
# attention (self_attn.q_norm) must not be taken for attention
FILTERS = (
    ("norm", "norm"),
    ("attn", "self_attn"),
    ("mlp", "mlp"),
    ("embed", "embed_tokens"),
    ("head", "lm_head"),
)


def to_mergekit(recipe: Recipe) -> str:
    """``recipe`` as YAML for mergekit 0.1.5, which gives the same tensors.

    Raises:
        InputError: mergekit cannot express it; the reason is given.
    """
    model = Checkpoint.open(recipe.ref(recipe.used[0]))
    if missing := uncovered(recipe, model.names):
        raise InputError(f"no group of the recipe matches {missing[0]!r}; nothing was exported")
    places = {name: place_of(name) for name in model.names}
    groups = {place: _group(recipe, place) for place in set(places.values())}
    method = _one_method(groups.values())
    sources = next(iter(groups.values())).models
    if any(group.models != sources for group in groups.values()):
        raise InputError(
            "mergekit gives every layer the same models; this recipe's groups differ in theirs"
        )
    _refuse_random(method, groups.values())
    slices = _slices(recipe, groups, model.layers, sources)
    portable = _located(recipe)
    content: dict[str, Any] = {
        "merge_method": method,
        **(
            {"base_model": str(portable.ref(BASE))}
            if methods.get(method).base == "required"
            else {}
        ),
        "slices": slices,
        "dtype": "float32",
        "out_dtype": recipe.dtype,
    }
    donor = Checkpoint.open(portable.ref(recipe.tokenizer))
    if len(vocabulary(donor)) == model.entry("model.embed_tokens.weight").shape[0]:
        return config.dump({**content, "tokenizer": {"source": str(donor.name)}})
    # told to take a tokenizer, mergekit cuts padded vocabularies to its size: other tensors
    return (
        f"# copy the tokenizer files of {donor.name} into the merged folder yourself\n"
        + config.dump(content)
    )


def _located(recipe: Recipe) -> Recipe:
    """Folders absolute, embedded models by their folder: names that mergekit knows."""

    def ref(model: ModelRef) -> ModelRef:
        embedded = model.text.startswith("embedded:")
        return ModelRef(str(locate(model.text)) if embedded else model.portable)

    models = {name: ref(model) for name, model in recipe.models.items()}
    return replace(recipe, base=recipe.base and ref(recipe.base), models=models)


def _group(recipe: Recipe, place: Place) -> Group:
    found = recipe.group_of(place)
    assert found is not None
    return found


def _one_method(groups: Iterable[Group]) -> str:
    names = sorted({group.method for group in groups})
    if unknown := [name for name in names if name not in KNOWN]:
        raise InputError(
            f"mergekit has no {', '.join(unknown)}; it knows {', '.join(KNOWN)} of the methods here. "
            "Materialize the recipe with `evomerge merge` instead"
        )
    if len(names) > 1:
        raise InputError(
            f"a mergekit document has one merge method; this recipe uses {', '.join(names)} in different "
            "groups. Materialize it with `evomerge merge` instead"
        )
    return names[0]


def _refuse_random(method: str, groups: Iterable[Group]) -> None:
    if not methods.get(method).inputs & {"noise"}:
        return
    densities = {d for group in groups for d in _each(group.values["density"])}
    if densities - {0.0, 1.0}:
        raise InputError(
            f"{method} drops entries at random, and mergekit draws other masks than evomerge: it would give "
            "other tensors. Materialize the recipe with `evomerge merge` instead"
        )


def _each(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else [value]


def _slices(
    recipe: Recipe, groups: Mapping[Place, Group], layers: int, sources: Sequence[str]
) -> list[dict[str, Any]]:
    """Runs of layers with equal values. The first slice also rules the embedding, the last one the
    final norm and the head, so a value that only those have is given by a filter there."""
    runs: list[tuple[int, int, dict[str, Group]]] = []
    for layer in range(layers):
        own = {place.role: group for place, group in groups.items() if place.layer == layer}
        if runs and runs[-1][2] == own:
            runs[-1] = (runs[-1][0], layer + 1, own)
        else:
            runs.append((layer, layer + 1, own))
    final = groups.get(Place(None, "norm"))
    if final is not None and runs[-1][2].get("norm", final) != final:
        # "model.norm" is no part of a block's norm names, so a filter of its own can stand first
        runs[-1][2]["final"] = final
    runs[0][2].update(
        {"embed": groups[Place(None, "embed")]} if Place(None, "embed") in groups else {}
    )
    runs[-1][2].update(
        {"head": groups[Place(None, "head")]} if Place(None, "head") in groups else {}
    )
    return [_slice(recipe, low, high, by_role, sources) for low, high, by_role in runs]


def _slice(
    recipe: Recipe, low: int, high: int, by_role: Mapping[str, Group], sources: Sequence[str]
) -> dict[str, Any]:
    portable = _located(recipe)
    some = next(iter(by_role.values()))
    method = methods.get(some.method)
    shared = {
        p.name: _values([(role, group.values[p.name]) for role, group in by_role.items()])
        for p in method.parameters
        if not p.per_model and some.values[p.name] is not None
    }
    listed = []
    for source in sources:
        own = {
            p.name: _values([(role, _of(group, p.name, source)) for role, group in by_role.items()])
            for p in method.parameters
            if p.per_model and _of(some, p.name, source) is not None
        }
        entry: dict[str, Any] = {"model": str(portable.ref(source)), "layer_range": [low, high]}
        listed.append({**entry, **({"parameters": own} if own else {})})
    if method.base == "required" and BASE not in sources:
        listed.append({"model": str(portable.ref(BASE)), "layer_range": [low, high]})
    return {"sources": listed, **({"parameters": shared} if shared else {})}


def _of(group: Group, parameter: str, source: str) -> Value:
    """The value of a per-model parameter for one source."""
    values = group.values[parameter]
    assert isinstance(values, Mapping)
    return values[source]


def _values(by_role: Sequence[tuple[str, Any]]) -> Any:
    """One value, or a list of filters where roles differ; the last entry catches the rest."""
    values = dict(by_role)
    if len({repr(value) for value in values.values()}) == 1:
        return next(iter(values.values()))
    order = [("final", "model.norm"), *FILTERS]
    return [{"filter": text, "value": values[role]} for role, text in order if role in values]
