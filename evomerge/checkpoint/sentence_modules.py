"""The modules of a sentence-transformers model: what lies beside the weights and makes vectors of hidden states."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files import parsed
from evomerge.config import shown
from evomerge.errors import CheckpointError
from evomerge.plain_files import open_plain

MODULES = "modules.json"
CONFIG, WEIGHTS, _PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
PACKAGE = "sentence_transformers"
LENGTH = "sentence_bert_config.json"  # of texts
SETTINGS = ("config_sentence_transformers.json", LENGTH)


@dataclass(frozen=True)
class SentenceModule:
    """One of them.

    Attributes:
        package: the first word of its class.
        kind: the last.
        path: its folder in the model's; empty is that itself.
    """

    package: str
    kind: str
    path: str


def modules_of(folder: Path) -> list[SentenceModule]:
    """Those that ``modules.json`` of a model's folder names, in order; none without that file.

    Raises:
        CheckpointError: it cannot be read, or leads out of the folder.
    """
    path = folder / MODULES
    if not os.path.isfile(path):
        return []
    try:
        with open_plain(path) as file:
            listed = parsed(file.read().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable JSON: {error}") from None
    if not isinstance(listed, list):
        raise CheckpointError(f"{path}: expected a list of modules, found {shown(listed)}")
    found = []
    for number, each in enumerate(listed):
        kind, inner = _named(each, "type"), _named(each, "path")
        if kind is None or inner is None or inner in (".", "..") or Path(inner).name != inner:
            raise CheckpointError(
                f"{path}: [{number}]: expected type and path of a module, a folder of this one, found {shown(each)}"
            )
        found.append(SentenceModule(kind.partition(".")[0], kind.rpartition(".")[2], inner))
    return found


def sentence_files(folder: Path) -> list[str]:
    """The names of the files of those modules, of ``folder``, that lie beside the model's own.

    None without any, nor where the code of one lies beside it and will not go along.

    Raises:
        CheckpointError: as ``modules_of``, or a module's weights are pickled.
    """
    modules = modules_of(folder)
    if not all(module.package == PACKAGE for module in modules):
        return []
    names = [MODULES, *SETTINGS] if modules else []
    for module in (module for module in modules if module.path):
        names += [f"{module.path}/{CONFIG}", f"{module.path}/{WEIGHTS}"]
        pickled = os.path.isfile(folder / module.path / _PICKLE)
        if pickled and not os.path.isfile(folder / module.path / WEIGHTS):
            raise CheckpointError(
                f"{folder / module.path}: the weights of this {module.kind} are a pickle, which can run code; load "
                "the model with sentence-transformers and save it again, as safetensors"
            )
    return [name for name in names if os.path.isfile(folder / name)]


def settings_of(folder: Path) -> list[str]:
    """The names of the files that say how vectors are made there, whoever's the modules' code is.

    Raises:
        CheckpointError: as ``modules_of``.
    """
    inner = [f"{module.path}/{CONFIG}" for module in modules_of(folder) if module.path]
    names = [MODULES, *SETTINGS, *inner] if inner else []
    return [name for name in names if os.path.isfile(folder / name)]


def _named(module: Any, key: str) -> str | None:
    found = module.get(key) if isinstance(module, dict) else None
    return found if isinstance(found, str) else None
