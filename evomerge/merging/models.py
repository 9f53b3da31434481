"""Models by name, also those that are recipes: a recipe file is merged first, once, into a cache.

The cache ($XDG_CACHE_HOME/evomerge/merged) is a folder a merge, named by what it is made of: the
recipe, the content of its parents, tokenizers too, and this version. So a merge of merges has the bytes
of two steps over the disk, and a recipe or a parent that changed is merged anew.
"""

from __future__ import annotations

from functools import partial

from evomerge import __version__
from evomerge.cache import cache_folder, make_once, name_of
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.checkpoint.contents import digests
from evomerge.errors import InputError
from evomerge.merging.disk import write_merge
from evomerge.parents import Parents
from evomerge.recipe import Recipe


def open_model(ref: ModelRef, within: tuple[str, ...] = ()) -> Checkpoint:
    """The model that ``ref`` names; a recipe is merged into the cache first, unless its merge is there.

    Args:
        ref: a folder, hub id, embedded model, or recipe file.
        within: recipe files that this one is part of, outermost first.

    Raises:
        InputError: it cannot be read; recipes name each other in a circle.
        RunError: the disk is full.
    """
    if not ref.is_recipe:
        return Checkpoint.open(ref)
    file = ref.portable
    if file in within:
        raise InputError(
            f"{ref}: recipes name each other in a circle: {' -> '.join([*within, file])}"
        )
    recipe = Recipe.load(file)
    opened = partial(open_model, within=(*within, file))
    parents = Parents.open(recipe, opened)
    models = {name: digests(model) for name, model in parents.models.items()}
    made_of = [__version__, recipe.digest, models]
    folder = cache_folder("merged") / name_of(made_of)
    make_once(folder / "config.json", lambda: write_merge(recipe, parents, folder))
    return Checkpoint(str(ref), folder)


def open_parents(recipe: Recipe) -> Parents:
    """The models of ``recipe``, opened and aligned; see ``Parents.open``."""
    return Parents.open(recipe, open_model)
