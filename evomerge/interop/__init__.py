"""mergekit and evomerge understand each other's files. Facts about mergekit are those of 0.1.5."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import ConfigError
from evomerge.interop.document import read_documents
from evomerge.interop.evolve import run_of
from evomerge.interop.export import to_mergekit
from evomerge.interop.importing import recipe_of
from evomerge.visible import one_line

__all__ = ["from_mergekit", "to_mergekit"]


def from_mergekit(path: str | Path, layers: int | None = None) -> str:
    """A recipe from a mergekit file, a run.yaml from a mergekit-evolve file; as YAML.

    What the file says and the result does not stands in comments at the top.

    Args:
        path: the file.
        layers: depth of the models, for files that need it and models that are not at hand.

    Raises:
        InputError: no such file, or it says what cannot be carried over; the reasons are given.
    """
    nodes = read_documents(path)
    evolves = [isinstance(node.value, dict) and "genome" in node.value for node in nodes]
    if any(evolves) and len(nodes) > 1:
        raise ConfigError([f"{path}: holds {len(nodes)} documents; mergekit-evolve reads one"])
    if any(evolves):
        text, notes = run_of(nodes[0], layers)
    else:
        recipe, notes = recipe_of(nodes, layers)
        text = recipe.to_yaml()
    return (
        "".join(
            f"# {one_line(note)}\n"
            for note in [f"imported from {Path(path).name} (mergekit)", *notes]
        )
        + text
    )
