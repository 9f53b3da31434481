"""mergekit YAML out: the same merge in the peer's words, or a refusal with the reason.

Only what survives the translation is used: explicit slices (never lists over depth, of which head
and final norm take the first value), per-filter values, float32 arithmetic with one cast at the
end. Where groups differ in method or models, every combination becomes a document of its own that
merges the whole model, and a last one picks from each what it is responsible for: ``linear`` with
weights 1 and 0, which copies exactly.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge import config, methods, paths
from evomerge.checkpoint import ModelRef, locate, vocabulary
from evomerge.errors import InputError
from evomerge.interop.catalogue import PEERS, Peer
from evomerge.interop.layout import Runs, by_layer, runs_of
from evomerge.merging import open_parents
from evomerge.merging.blueprint import Blueprint
from evomerge.params import Value
from evomerge.parents import Parents
from evomerge.recipe import BASE, Group, Recipe, check_named, uncovered
from evomerge.tensors import Place

EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
MATERIALIZE = "materialize the recipe with `evomerge merge` instead"

MERGE = ""  # stands for the merge before its path, among models
ADDS = ("o_proj", "down_proj")  # what a Llama's block adds is made by these

ADAPTERS = """\
# adapters: mergekit wants --lora-merge-cache DIR
# adapters: mergekit rounds model + adapter before it merges, evomerge the exact merge once: in bfloat16 about one entry
# in ten differs (10.7% of two merged adapters), so scores may, too
"""

# class of tensors -> what mergekit's filters look for in a tensor's name; the first hit wins, and the norms
# of attention (self_attn.q_norm) must not be taken for attention, nor the final norm for another. Where
# tensors of a class differ, or are called otherwise, their names inside the block take its place
FILTERS = {
    "final": "model.norm",
    "norm": "norm",
    "attn": "self_attn",
    "mlp": "mlp",
    "embed": "embed_tokens",
    "head": "lm_head",
}


@dataclass(frozen=True)
class _Part:
    """A method and the models it merges: what one mergekit document can hold."""

    method: str
    models: tuple[str, ...]

    @classmethod
    def of(cls, group: Group) -> _Part:
        return cls(group.method, group.models)


def to_mergekit(recipe: Recipe) -> str:
    """``recipe`` as YAML for mergekit 0.1.5, which gives the same tensors (of adapters nearly; a comment says why).

    A model that is a recipe file becomes documents before its own, which mergekit-multi merges first.

    Raises:
        InputError: mergekit cannot express it; the reason is given.
    """
    documents, comment = _documents(recipe, "")
    if len(documents) == 1:
        return f"{comment}{config.dump(documents[0])}"
    head = "# run with: mergekit-multi FILE --intermediate-dir PARTS --out-path MERGED\n"
    return head + comment + "---\n".join(map(config.dump, documents))


def _documents(recipe: Recipe, prefix: str) -> tuple[list[dict[str, Any]], str]:
    """The documents of a recipe, the last of which makes its model and has no name; and comments.

    ``prefix`` begins the names of the others: those of two recipes must differ.
    """
    if recipe.body.rows:
        raise InputError(
            f"mergekit has one weight a tensor and model, and this recipe has row weights; {MATERIALIZE}"
        )
    parents = open_parents(recipe)
    blueprint = Blueprint.of(parents, recipe.body.path).merge
    check_named(recipe, blueprint.names, blueprint.ties)
    if missing := uncovered(recipe, blueprint.places):
        raise InputError(f"no group of the recipe matches {missing[0]!r}; nothing was exported")
    if len(kinds := {model.architecture for model in parents.models.values()}) > 1:
        raise InputError(
            f"mergekit merges models of one kind, and these are {', '.join(sorted(kinds))}; {MATERIALIZE}"
        )
    models = {**({BASE: recipe.base} if recipe.base else {}), **recipe.models}
    earlier, names, comment = list[dict[str, Any]](), dict[str, str](), ""
    for name, model in models.items():
        if not model.is_recipe:
            names[name] = _reference(model)
            continue
        names[name] = _free(
            f"{prefix}merge-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}", names.values()
        )
        inner, said = _documents(Recipe.load(model.portable), f"{names[name]}-")
        earlier += [*inner[:-1], {"name": names[name], **inner[-1]}]
        comment += said
    layers = blueprint.layers
    groups: dict[str, Group] = {}
    for site in blueprint.sites:
        group = recipe.group_of(site.place)
        assert group is not None
        groups[site.name] = _plain(group, site.place)
    # where layers are of several kinds, block 0 may lack a tensor by whose name there others go
    stand_ins = {place.at(0): place for place in blueprint.places.values()}
    head = Place(None, "head", layers, "", HEAD, HEAD)
    places = {HEAD: head, **stand_ins, **blueprint.places}
    if not {EMBED, NORM} <= set(places):
        raise InputError(
            f"filters are written for models whose tensors are called as Llama's are, and this one has no {EMBED}; "
            f"{MATERIALIZE}"
        )
    if others := {place.role for place in places.values()} - set(FILTERS):
        raise InputError(
            f"filters are written for dense models, and this one has tensors of the roles {', '.join(sorted(others))}; "
            f"{MATERIALIZE}"
        )
    groups.setdefault(HEAD, _tied_head(recipe, places[HEAD], groups))
    groups = _translated(groups, max(math.prod(site.shape) for site in blueprint.sites))
    tokenizer, said = _tokenizer(recipe, parents, groups, names)
    comment += said
    parts = list(dict.fromkeys(_Part.of(group) for group in groups.values()))
    if any("+" in name for name in names.values()):
        comment += ADAPTERS
    path = recipe.body.path
    if path and _of_single_models(path, groups):
        return [*earlier, {**_lined_up(path, names, recipe.dtype), **tokenizer}], comment
    # where more is done behind it, the merge is not rounded
    dtype = "float32" if path else recipe.dtype
    documents = [
        _merge(part, _filled(part, groups, places), places, names, recipe, dtype) for part in parts
    ]
    for document in documents:
        document.update(tokenizer)
    if len(documents) > 1:
        labels = [f"{prefix}part-{number}-{part.method}" for number, part in enumerate(parts, 1)]
        last = _pick(parts, labels, groups, places, layers, dtype)
        documents = [{"name": label, **each} for label, each in zip(labels, documents, strict=True)]
        documents.append(last)
    if path:
        label = f"{prefix}before-its-path"
        documents[-1] = {"name": label, **documents[-1]}
        documents.append(_lined_up(path, {**names, MERGE: label}, recipe.dtype))
    return [*earlier, *documents], comment


def _tied_head(recipe: Recipe, place: Place, groups: Mapping[str, Group]) -> Group:
    """What the recipe says of a head that is no tensor of its own, where another tensor is merged
    by the same method; else what it says of the final norm. It makes no difference."""
    group = recipe.group_of(place)
    plain = group and _plain(group, place)
    known = plain and _Part.of(plain) in map(_Part.of, groups.values())
    return plain if plain and known else groups[NORM]


def _free(name: str, taken: Collection[str]) -> str:
    """``name``, of which mergekit makes a folder, or with a number where it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)


# -- what cannot be said -------------------------------------------------------------------------


def _plain(group: Group, place: Place) -> Group:
    """``group`` as it merges the tensor at ``place``: as if it were of all tensors, and with the
    factor of its line over depth as part of ``lambda``."""
    values = dict(group.values)
    factor = group.scale(place)
    if factor != 1.0:
        if "lambda" not in values:
            raise InputError(
                f"mergekit scales no merge over depth, and {group.method} has no lambda to take it up; take "
                f"`lines` out, or {MATERIALIZE}"
            )
        values["lambda"] *= factor  # type: ignore[operator]
    return replace(group, values=values, layers=None, roles=None, tensors=None, lines=None)


def _translated(groups: Mapping[str, Group], entries: int) -> dict[str, Group]:
    """``groups`` with parameters as mergekit has them; what it has not is refused."""
    if unknown := sorted({group.method for group in groups.values()} - set(PEERS)):
        known = ", ".join(name for name in PEERS if name in methods.names())
        raise InputError(
            f"mergekit has no {', '.join(unknown)}; it knows {known} of the methods here; {MATERIALIZE}"
        )
    found = {}
    for name, group in groups.items():
        peer = PEERS[group.method]
        try:
            if BASE in group.models and peer.base != "source":
                raise InputError("mergekit does not take the base for one of the sources")
            found[name] = replace(group, values=peer.from_ours(group.values, entries))
        except InputError as error:
            raise InputError(f"{group.method}: {error}, or {MATERIALIZE}") from None
    return found


def _reference(model: ModelRef) -> str:
    """A model as mergekit finds it: hub ids as given, folders absolute, also embedded ones."""
    text = str(locate(model.text)) if model.text.startswith("embedded:") else model.portable
    revisions = sum("@" in part for part in text.split("+") if not part.startswith("/"))
    adapters = len(model.parts) - 1
    if text.count("+") > adapters or text.count("@") > revisions or re.search(r'[\s"]', text):
        raise InputError(
            f"{text}: mergekit cannot read a folder with a space, @ or + in its name; rename it"
        )
    return text


def _tokenizer(
    recipe: Recipe, parents: Parents, groups: Mapping[str, Group], names: Mapping[str, str]
) -> tuple[dict[str, Any], str]:
    """The key that gives the recipe's tokenizer, or a comment where mergekit has none for it."""
    donor = parents.donor
    if recipe.tokens:
        raise InputError(
            f"the recipe has rules for single tokens, or pads its vocabulary: evomerge keeps rows that mergekit "
            f"cuts; {MATERIALIZE}"
        )
    if donor.more:
        raise InputError(
            f"mergekit puts the tokens of a union in another order than evomerge; {MATERIALIZE}"
        )
    if len({model.tied for model in parents.models.values()}) > 1:
        raise InputError(
            "some models tie the output head to the embedding and others do not: mergekit writes a config "
            f"that fits only one kind; {MATERIALIZE}"
        )
    whose = next(name for name, model in parents.models.items() if model is donor.model)
    if len(vocabulary(donor)) == parents.height:
        return {"tokenizer": {"source": names[whose]}}, ""
    # told to take a tokenizer, mergekit cuts padded vocabularies to its size
    if parents.notes():
        raise InputError(
            f"the models' vocabularies differ, and {donor.name} has rows without a token, which mergekit "
            f"cuts; {MATERIALIZE}"
        )
    based = any(_has_base(PEERS[group.method], recipe) for group in groups.values())
    if based and whose == BASE:
        return {}, ""  # is what mergekit copies
    return {}, f"# copy the tokenizer files of {donor.name} into the merged folder yourself\n"


# -- documents -----------------------------------------------------------------------------------


def _filled(
    part: _Part, groups: Mapping[str, Group], places: Mapping[str, Place]
) -> dict[str, Group]:
    """``groups`` with those of other parts replaced by what this part did last for the same tensor of a block
    before, or for their role."""
    own = {name: group for name, group in groups.items() if _Part.of(group) == part}
    recent: dict[str, Group] = {}
    filled = {}
    for name in groups:
        place, path = places[name], places[name].inner
        if name in own:
            recent[path] = recent[place.role] = own[name]
        known = (own.get(name), recent.get(path), recent.get(place.role))
        filled[name] = next((each for each in known if each), next(iter(own.values())))
    return filled


def _has_base(peer: Peer, recipe: Recipe) -> bool:
    return peer.base == "required" or (peer.base == "optional" and recipe.base is not None)


def _merge(
    part: _Part,
    groups: Mapping[str, Group],
    places: Mapping[str, Place],
    names: Mapping[str, str],
    recipe: Recipe,
    dtype: str,
) -> dict[str, Any]:
    """The document that merges the whole model by one method."""
    layers = places[HEAD].layers
    peer = PEERS[part.method]
    based = _has_base(peer, recipe)
    parameters = [p for p in methods.get(part.method).parameters if p.name in peer.arguments]
    slices = []
    for low, high, by_name in _runs(groups, places, layers):
        shared = {
            p.name: setting
            for p in parameters
            if not p.per_model and (setting := _setting(by_name, places, p.name)) is not None
        }
        sources = []
        for model in part.models:
            own = {
                p.name: _setting(by_name, places, p.name, model) for p in parameters if p.per_model
            }
            entry = {"model": names[model], "layer_range": [low, high + 1]}
            sources.append({**entry, **({"parameters": own} if own else {})})
        if based:
            sources.append({"model": names[BASE], "layer_range": [low, high + 1]})
        slices.append({"sources": sources, **({"parameters": shared} if shared else {})})
    return {
        "merge_method": part.method,
        **({"base_model": names[BASE]} if based else {}),
        "slices": slices,
        "dtype": "float32",
        "out_dtype": dtype,
    }


def _of_single_models(path: paths.Path, groups: Mapping[str, Group]) -> bool:
    """True if mergekit makes the model of a path from the sources alone, without the merge.

    It takes the embedding of the first block's model, final norm and head of the last one's.

    Raises:
        InputError: neither so nor with the merge does it make this model.
    """
    first, last = path[0].model, path[-1].model
    ends = {EMBED: first, NORM: last, HEAD: last}
    for name, model in ends.items():
        group = groups[name]
        copied = group.method == "passthrough" and group.values["scale"] in (None, 1.0)
        if model and not (copied and group.models == (model,)):
            end, what = (
                ("begins", "the embedding") if name == EMBED else ("ends", "final norm and head")
            )
            raise InputError(
                f"the path {end} with a block of {model} as it is, and there mergekit takes {what} of {model}, too; here "
                f"{name} is merged. Let the path begin and end with blocks of the merge, leave {name} as {model} has "
                f"it, or {MATERIALIZE}"
            )
    return all(hop.model for hop in path)


def _lined_up(path: paths.Path, names: Mapping[str, str], dtype: str) -> dict[str, Any]:
    """The document that lines up the blocks of a path."""
    slices: list[Any] = []
    for hop, factor in zip(path, paths.factors_of(path), strict=True):
        source = {"model": names[hop.model or MERGE], "layer_range": [hop.layer, hop.layer + 1]}
        scaled = [{"filter": name, "value": factor} for name in ADDS]
        made: dict[str, Any] = {
            "sources": [source],
            **({"parameters": {"scale": [*scaled, {"value": 1.0}]}} if factor != 1.0 else {}),
        }
        before = slices[-1] if slices else made
        known = before["sources"][0]
        if (known["model"], known["layer_range"][1]) == (source["model"], hop.layer) and before.get(
            "parameters"
        ) == made.get("parameters"):
            known["layer_range"][1] += 1
        else:
            slices.append(made)
    return {
        "merge_method": "passthrough",
        "slices": slices,
        "dtype": "float32",
        "out_dtype": dtype,
    }


def _pick(
    parts: Sequence[_Part],
    labels: Sequence[str],
    groups: Mapping[str, Group],
    places: Mapping[str, Place],
    layers: int,
    dtype: str,
) -> dict[str, Any]:
    """The document that takes every tensor from the part responsible for it."""
    slices = []
    for low, high, by_name in _runs(groups, places, layers):
        sources = []
        for part, label in zip(parts, labels, strict=True):
            weight = {role: float(_Part.of(group) == part) for role, group in by_name.items()}
            entry = {"model": label, "layer_range": [low, high + 1]}
            sources.append({**entry, "parameters": {"weight": _filtered(weight, places)}})
        slices.append({"sources": sources, "parameters": {"normalize": False}})
    return {"merge_method": "linear", "slices": slices, "dtype": "float32", "out_dtype": dtype}


def _runs(
    groups: Mapping[str, Group], places: Mapping[str, Place], layers: int
) -> Runs[dict[str, Group]]:
    """Runs of layers that are merged alike, by the names of tensors in block 0. The first also rules the
    embedding, the last one the final norm and the head."""
    runs = [
        (low, high, dict(by_name))
        for low, high, by_name in runs_of(by_layer(groups, places, layers))
    ]
    last = runs[-1][2]
    if any(group != groups[NORM] for n, group in last.items() if _class(places[n]) == "norm"):
        last[NORM] = groups[NORM]
    runs[0][2][EMBED], last[HEAD] = groups[EMBED], groups[HEAD]
    return runs


def _class(place: Place) -> str:
    """The key of ``FILTERS`` that the tensor at ``place`` belongs to."""
    return "final" if place.tensor == NORM else place.role


def _setting(
    by_name: Mapping[str, Group],
    places: Mapping[str, Place],
    parameter: str,
    model: str | None = None,
) -> Any:
    """The values of a parameter (of a model) by tensor, as mergekit writes them."""
    values: dict[str, Value] = {}
    for name, group in by_name.items():
        value = group.values[parameter]
        if isinstance(value, Mapping):
            assert model is not None
            value = value[model]
        values[name] = value
    return _filtered(values, places)


def _filtered(values: Mapping[str, Value], places: Mapping[str, Place]) -> Any:
    """One value, or a list of filters where tensors differ."""
    if _are_one(values.values()):
        return next(iter(values.values()))
    # no scale is a scale of 1, which filters can say
    plain = {name: 1.0 if value is None else value for name, value in values.items()}
    found: dict[str, Value] = {}  # filter -> value
    for kind, text in FILTERS.items():
        own = {places[n].inner: value for n, value in plain.items() if _class(places[n]) == kind}
        as_one = _are_one(own.values()) and all(text in path for path in own)
        for path, value in own.items():
            module = path.rpartition(".")[0]
            both = [own[each] for each in own if each.startswith(f"{module}.")]
            fine = module if _are_one(both) else path
            found[text if as_one else fine] = value
    return [{"filter": text, "value": value} for text, value in found.items()]


def _are_one(values: Iterable[Value]) -> bool:
    """True if there are no two different values."""
    return len({repr(value) for value in values}) < 2
