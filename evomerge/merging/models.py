"""Models by name, also those that are recipes: a recipe file is merged first, once, into a cache.

The cache ($XDG_CACHE_HOME/evomerge/merged) is a folder a merge, named by what it is made of: the
recipe, the content of its parents, tokenizers too, and this version. So a merge of merges has the bytes
of two steps over the disk, and a recipe or a parent that changed is merged anew.

Models of the hub are opened in two steps: all of them by their headers, so that what cannot be merged is refused
before weights are fetched, then whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from evomerge import __version__
from evomerge.cache import cache_folder, make_once, name_of
from evomerge.checkpoint import WEIGHTS, Checkpoint, ModelRef, beside, copy_companions
from evomerge.checkpoint.contents import digests
from evomerge.checkpoint.header import header_of
from evomerge.checkpoint.hub import fetch
from evomerge.errors import InputError
from evomerge.merging.blueprint import Blueprint
from evomerge.merging.disk import write_merge
from evomerge.parents import Parents
from evomerge.recipe import Recipe

DEEPEST = 16  # recipes within one another
MOST_MERGES = 500  # that a recipe stands for


def open_model(
    ref: ModelRef,
    within: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Checkpoint:
    """The model that ``ref`` names; a recipe is merged into the cache first, unless its merge is there.

    Args:
        ref: a folder, hub id, embedded model, or recipe file.
        within: recipe files that this one is part of, outermost first.
        say: is told what is downloaded.

    Raises:
        InputError: it cannot be read; recipes name each other in a circle.
        RunError: the disk is full.
    """
    found = outline_model(ref, within)
    return outline_model(ref, within) if fetch(found.missing, say) else found


def outline_model(ref: ModelRef, within: tuple[str, ...] = ()) -> Checkpoint:
    """The same without a download of weights: what lacks is told by ``missing``, and what needs it is not merged."""
    if not ref.is_recipe:
        return Checkpoint.outline(ref)
    file = ref.portable
    if file in within:
        raise InputError(
            f"{ref}: recipes name each other in a circle: {' -> '.join([*within, file])}"
        )
    if not within:
        _count(file, (), {})
    recipe = Recipe.load(file)
    parents = Parents.open(recipe, partial(outline_model, within=(*within, file)))
    if parents.missing:
        return _outline_of_merge(str(ref), recipe, parents)
    models = {name: digests(model) for name, model in parents.models.items()}
    made_of = [__version__, recipe.digest, models]
    folder = cache_folder("merged") / name_of(made_of)
    make_once(folder / "config.json", lambda: write_merge(recipe, parents, folder))
    return Checkpoint(str(ref), folder)


def _count(file: str, within: tuple[str, ...], known: dict[str, int]) -> int:
    """How many merges a recipe file stands for, those of its models included; each keeps the recipes of all.

    Args:
        file: a recipe.
        within: recipe files that this one is part of, outermost first.
        known: of those that were counted; is added to.

    Raises:
        InputError: too many, or too deep.
    """
    if file in within:  # which is told where it is opened
        return 0
    if len(within) == DEEPEST:
        raise InputError(
            f"{within[0]}: its recipes are nested more than {DEEPEST} levels deep: merge some of them first"
        )
    if file not in known:
        models = [model for model in Recipe.load(file).models.values() if model.is_recipe]
        known[file] = 1 + sum(_count(model.portable, (*within, file), known) for model in models)
    if known[file] > MOST_MERGES:
        raise InputError(
            f"{within[0] if within else file}: stands for more than {MOST_MERGES} merges of merges: merge some of them first"
        )
    return known[file]


def open_parents(recipe: Recipe, say: Callable[[str], None] = lambda text: None) -> Parents:
    """The models of ``recipe``, opened and aligned; see ``Parents.open``.

    Models of the hub are compared before weights of any of them are fetched; ``say`` is told what is.
    """
    parents = outline_parents(recipe)
    return outline_parents(recipe) if fetch(parents.missing, say) else parents


def outline_parents(recipe: Recipe) -> Parents:
    """The same without a download of weights, see ``outline_model``."""
    return Parents.open(recipe, outline_model)


def _outline_of_merge(name: str, recipe: Recipe, parents: Parents) -> Checkpoint:
    """What the merge of ``recipe`` will be, as far as the headers of its models tell."""
    models = {
        name: str(model.folder) if model.missing else digests(model)
        for name, model in parents.models.items()
    }
    folder = cache_folder("outlines") / name_of([__version__, recipe.digest, models])

    def make() -> None:
        blueprint = Blueprint.of(parents, recipe.body.path)
        with beside(folder) as work:
            (work / WEIGHTS).write_bytes(header_of(blueprint.shapes, recipe.dtype))
            config = {**blueprint.config(), "dtype": recipe.dtype}
            (work / "config.json").write_text(json.dumps(config), encoding="utf-8")
            copy_companions(parents.donor, work)

    make_once(folder / "config.json", make)
    return Checkpoint(name, folder, headers=folder, missing=parents.missing)
