"""How the hidden states of a text become one vector: as sentence-transformers writes it beside a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint import read_json
from evomerge.checkpoint.sentence_modules import CONFIG, LENGTH, modules_of
from evomerge.config import shown
from evomerge.errors import InputError, one_of
from evomerge.suite.spec import POOLINGS

if TYPE_CHECKING:
    import torch

_MODES = {  # key of a pooling's config -> what it is called here
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_NO_LENGTH = 10**9


@dataclass(frozen=True)
class Pooling:
    """``mode`` is one of ``POOLINGS``; ``max_length`` that of a text in tokens, at most."""

    mode: str
    max_length: int = _NO_LENGTH

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """[rows, tokens, width] -> [rows, width], float32."""
        states = states.float()
        if self.mode == "mean":
            return states.mean(1)
        return states[:, 0 if self.mode == "cls" else -1]


def pooling_of(name: str, said: str | None, folder: Path) -> Pooling:
    """How the scorer ``name`` pools.

    Args:
        name: of the scorer.
        said: the pooling that the fitness file names, if it does.
        folder: a model's; without ``said`` the files of sentence-transformers in it decide.

    Raises:
        InputError: nothing says how, or these files say what is not known here.
    """
    if said is not None:
        return Pooling(said)
    for module in modules_of(folder):
        if module.kind == "Pooling":
            path = folder / module.path / CONFIG
            return Pooling(_mode(read_json(path), path), _max_length(folder))
    raise InputError(
        f"{name}: neither `pooling` nor the files of a sentence-transformers model in {folder} say how hidden "
        f"states become one; expected `pooling: {one_of(POOLINGS)}`"
    )


def _mode(content: Mapping[str, Any], path: Path) -> str:
    if isinstance(named := content.get("pooling_mode"), str) and named in POOLINGS:
        return named
    on = [
        key for key, value in content.items() if key.startswith("pooling_mode_") and value is True
    ]
    if len(on) == 1 and on[0] in _MODES:
        return _MODES[on[0]]
    raise InputError(
        f"{path}: expected one pooling, {one_of(_MODES)}, found {shown(on)}; say `pooling` in the fitness file"
    )


def _max_length(folder: Path) -> int:
    path = folder / LENGTH
    found = read_json(path).get("max_seq_length") if path.is_file() else None
    return found if isinstance(found, int) and found > 0 else _NO_LENGTH
