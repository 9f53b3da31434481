"""The modules of a sentence-transformers model: what lies beside the weights and makes vectors of hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files import open_plain, parsed
from evomerge.config import shown
from evomerge.errors import CheckpointError

MODULES = "modules.json"
_OF_A_MODULE, _PICKLE = ("config.json", "model.safetensors"), "pytorch_model.bin"
SETTINGS = ("config_sentence_transformers.json", "sentence_bert_config.json")


@dataclass(frozen=True)
class SentenceModule:
    """``kind`` is the last word of its class, ``path`` its folder in the model's; empty is that itself."""

    kind: str
    path: str


def modules_of(folder: Path) -> list[SentenceModule]:
    """Those that ``modules.json`` of a model's folder names, in order; none without that file.

    Raises:
        CheckpointError: it cannot be read, or leads out of the folder.
    """
    path = folder / MODULES
    if not path.is_file():
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
        found.append(SentenceModule(kind.rpartition(".")[2], inner))
    return found


def sentence_files(folder: Path) -> list[str]:
    """The names of the files of those modules, of ``folder``, that lie beside the model's own; none without any.

    Raises:
        CheckpointError: as ``modules_of``, or a module's weights are pickled.
    """
    modules = modules_of(folder)
    names = [MODULES, *SETTINGS] if modules else []
    for module in modules:
        inner = [f"{module.path}/{name}" for name in _OF_A_MODULE] if module.path else []
        names += inner
        if (
            inner
            and not (folder / inner[-1]).is_file()
            and (folder / module.path / _PICKLE).exists()
        ):
            raise CheckpointError(
                f"{folder / module.path}: the weights of this {module.kind} are a pickle, which can run code; load "
                "the model with sentence-transformers and save it again, as safetensors"
            )
    return [name for name in names if (folder / name).is_file()]


def _named(module: Any, key: str) -> str | None:
    found = module.get(key) if isinstance(module, dict) else None
    return found if isinstance(found, str) else None
