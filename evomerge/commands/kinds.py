"""What lies at a path: a command that expected something else can say what it was given."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from evomerge import config
from evomerge.checkpoint.weights import ADAPTER_CONFIG
from evomerge.interop import is_mergekit
from evomerge.record.events import JOURNAL
from evomerge.run.rounds import NAME as ROUNDS
from evomerge.run.rounds import is_rounds
from evomerge.run.spec import NAME

# what spaces say and recipes do not
OF_SPACES = frozenset(
    ("methods", "method_gene", "parameters", "start", "knots", "weights", "layer_swap", "keep")
)


class Kind(StrEnum):
    """Of a file or folder; the text completes "it is ..."."""

    RUN = "a run"
    ROUNDS = "rounds of training"
    FITNESS = "a fitness file"
    SPACE = "a search space"
    RECIPE = "a recipe"
    MERGEKIT = "a file of mergekit"
    MODEL = "a model"
    ADAPTER = "an adapter"
    FOLDER = "a folder with no run, model or adapter in it"


def kind_of(path: Path) -> Kind:
    """What lies at ``path``; by its names and keys alone, which may still be wrong in themselves.

    Raises:
        InputError: there is nothing, or no YAML.
    """
    if path.is_dir():
        held = {
            NAME: Kind.RUN,
            JOURNAL: Kind.RUN,
            ROUNDS: Kind.ROUNDS,
            ADAPTER_CONFIG: Kind.ADAPTER,
            "config.json": Kind.MODEL,
        }
        return next((kind for name, kind in held.items() if (path / name).is_file()), Kind.FOLDER)
    if is_mergekit(path):
        return Kind.MERGEKIT
    node = config.read(path)
    if is_rounds(node):
        return Kind.ROUNDS
    keys = set(node.value) if isinstance(node.value, dict) else set()
    if path.name == NAME or keys & {"space", "fitness", "optimizer", "budget"}:
        return Kind.RUN
    if "objectives" in keys:
        return Kind.FITNESS
    return Kind.SPACE if keys & OF_SPACES else Kind.RECIPE
