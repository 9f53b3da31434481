"""mergekit and evomerge understand each other's files. Facts about mergekit are those of 0.1.5."""

from __future__ import annotations

from pathlib import Path

from evomerge import config
from evomerge.cache import cache_folder, make_once, name_of
from evomerge.errors import ConfigError, InputError
from evomerge.interop.document import read_documents
from evomerge.interop.evolve import run_of
from evomerge.interop.export import to_mergekit
from evomerge.interop.importing import recipes_of
from evomerge.recipe import Recipe
from evomerge.visible import one_line

__all__ = ["files_from_mergekit", "from_mergekit", "is_mergekit", "load_recipe", "to_mergekit"]


def files_from_mergekit(
    path: str | Path, name: str = "recipe.yaml", layers: int | None = None
) -> dict[str, str]:
    """A recipe from a mergekit file, a run.yaml from a mergekit-evolve file; as YAML.

    What the file says and the result does not stands in comments at the top.

    Args:
        path: the file.
        name: of the file that the result is for.
        layers: depth of the models, for files that need it and models that are not at hand.

    Returns:
        ``name`` -> its text; before it the recipes, files beside it, that it names as models: those of merges
        that the file merges once more.

    Raises:
        InputError: no such file, or it says what cannot be carried over; the reasons are given.
    """
    nodes = read_documents(path)
    evolves = [isinstance(node.value, dict) and "genome" in node.value for node in nodes]
    if any(evolves) and len(nodes) > 1:
        raise ConfigError([f"{path}: holds {len(nodes)} documents; mergekit-evolve reads one"])
    if any(evolves):
        text, notes = run_of(nodes[0], layers)
        return {name: _noted(path, notes) + text}
    recipes = recipes_of(nodes, name, layers)
    return {file: _noted(path, notes) + made.to_yaml() for file, (made, notes) in recipes.items()}


def from_mergekit(path: str | Path, layers: int | None = None) -> str:
    """The text of the one file that ``files_from_mergekit`` makes.

    Raises:
        InputError: it makes several, or none.
    """
    files = files_from_mergekit(path, layers=layers)
    if len(files) > 1:
        raise InputError(
            f"{path}: merges merges, each of which becomes a recipe of its own, in a file beside that of the model; "
            "say with -o FILE where they go"
        )
    return next(iter(files.values()))


def is_mergekit(path: str | Path) -> bool:
    """True if the file at ``path`` says what mergekit is to merge.

    Raises:
        InputError: it cannot be read.
    """
    if "merge_method" not in config.read_text(path):  # most files: nothing is parsed
        return False
    nodes = [node.value for node in read_documents(path)]
    return any(isinstance(value, dict) and "merge_method" in value for value in nodes)


def load_recipe(path: str | Path) -> tuple[Recipe, list[str]]:
    """The recipe in a file of ours or of mergekit, and what of the latter it does not carry over.

    Recipes that it names as models, and that stand in the same file, are kept in the user's cache.

    Raises:
        InputError: there is none in it.
    """
    if not is_mergekit(path):
        return Recipe.load(path), []
    files = files_from_mergekit(path)
    *beside, (name, text) = files.items()
    notes = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    if not beside:
        return Recipe.parse(config.parse(text, str(path))), notes
    folder = cache_folder("imported") / name_of(files)

    def make() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            config.write_text(folder / file, content)

    make_once(folder / name, make)
    return Recipe.load(folder / name), notes


def _noted(path: str | Path, notes: list[str]) -> str:
    lines = [f"imported from {Path(path).name} (mergekit)", *notes]
    return "".join(f"# {one_line(line)}\n" for line in lines)
