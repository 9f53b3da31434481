"""Parents that are adapters of one model: what they change in it, as they hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from evomerge import methods
from evomerge.checkpoint import Checkpoint
from evomerge.checkpoint.files import Stamp, file_digest
from evomerge.errors import Incompatible
from evomerge.factors import Factors
from evomerge.parents.parents import Parents
from evomerge.recipe import BASE, Group, Recipe


def same_model(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two models are one, their adapters left aside: by folder, else by the content of weights and config.

    Of models that are still to be downloaded only the folder is known; others are taken for one.
    """
    if one.folder.resolve() == other.folder.resolve() or one.missing or other.missing:
        return True
    return _content(one) == _content(other)


def _content(model: Checkpoint) -> list[str]:
    own = {model.adapter.file} if model.adapter else set()
    weights = [file for file in model.files if file not in own]
    files = (model.folder / "config.json", *sorted(weights))
    return [_digest(file, Stamp.of(file)) for file in files]


@lru_cache(maxsize=1024)
def _digest(file: Path, stamp: Stamp) -> str:
    """Of a file as it was then: every candidate asks again."""
    return file_digest(file)


def check_adapters(parents: Parents, used: Iterable[tuple[str, Group]]) -> None:
    """Refuse groups whose method merges factors, where a source is no adapter of the base.

    Args:
        parents: the models.
        used: groups, each with where it stands, for the message.

    Raises:
        Incompatible: with the first such source, and why.
    """
    for where, group in used:
        if not methods.get(group.method).of_adapters:
            continue
        base = parents.models[BASE]
        says = f"{where}: {group.method} merges the factors of adapters, "
        if base.adapter is not None:
            raise Incompatible(
                f"{says}and the base is {base.name}, with an adapter itself; name the model without it as base"
            )
        for name in group.models:
            model = parents.models[name]
            if model.adapter is None and name != BASE:
                raise Incompatible(
                    f"{says}and {name} = {model.name} is none; expected {base.name}+ADAPTER, a LoRA of the base. Take "
                    "another method for full models, such as task_arithmetic or ties"
                )
            if not same_model(model, base):
                raise Incompatible(
                    f"{says}and {name} = {model.name} is one of another model; expected {base.name}+ADAPTER"
                )


def groups_of(recipe: Recipe) -> list[tuple[str, Group]]:
    """The groups of a recipe, and where they stand in it."""
    return [(f"groups[{number}]", group) for number, group in enumerate(recipe.groups)]


def deltas_in_factors(
    parents: Parents, models: Iterable[str], origin: Mapping[str, str]
) -> Mapping[str, Factors] | None:
    """What each of some adapters adds to a tensor; None where one changes it in another way, or none does.

    Args:
        parents: the models.
        models: names of the adapters.
        origin: model -> the parameter of it that the tensor is.
    """
    found: dict[str, Factors] = {}
    for name in models:
        model, stored = parents.models[name], parents.stored_name(name, origin[name])
        shape = parents.shape(name, origin[name])
        if len(shape) != 2 or parents.moves(name, origin[name]):
            return None
        kind = model.adapted(stored)
        if kind not in (None, "factors"):
            return None
        adds = model.adapter.factors(stored) if kind and model.adapter else None
        found[name] = adds or Factors.none(*shape)
    return found if any(each.rank for each in found.values()) else None
