"""Writing adapters as peft reads them: factors, rows of embeddings, whole modules."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint.files import mapped_file
from evomerge.checkpoint.header import header_of, tensor_bytes
from evomerge.checkpoint.ternary import Kept, largest, write_ternary
from evomerge.checkpoint.weights import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TERNARY
from evomerge.checkpoint.writing import write_file
from evomerge.errors import InputError

if TYPE_CHECKING:
    import torch

    from evomerge.factors import Factors

_PREFIX = "base_model.model."
_PLAIN = {
    "peft_type": "LORA",
    "bias": "none",
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_dropout": 0.0,
    "use_dora": False,
    "use_rslora": False,
}


class AdapterFolder:
    """An adapter in the making; tensors come in any order, from any thread, and lie on disk until ``finish``.

    All is stored in float32: what is merged of factors is merged in float32, and an adapter is small. Every rank has
    itself as alpha, so that the scale is 1 for readers that know no patterns, too. Made by ``adapter_folder``.

    Args:
        parts: a folder for tensors that have come.
        kinds: what each of the model's modules is, see ``skeleton.modules.kinds_of``.
    """

    def __init__(self, parts: Path, kinds: Mapping[str, str]) -> None:
        self._parts, self._kinds = parts, kinds
        self._lock = threading.Lock()
        self._files: dict[str, Path] = {}  # key -> where its tensor lies
        self.ranks: dict[str, int] = {}  # of modules that have factors
        self.whole: dict[str, list[str]] = {}  # modules that are brought -> their tensors that came
        self.numbers: dict[str, list[int]] = {}  # of rows, by module
        self._tied = False

    def add(self, name: str, factors: Factors) -> None:
        """What is added to the weight ``name`` of a linear module or embedding; rank 0 is nothing."""
        module = name.removesuffix(".weight")
        if factors.rank == 0:
            return
        kind, a, b = self._kinds[module], factors.right, factors.left
        if kind == "embedding":
            found = {"embedding_A": b.T, "embedding_B": a.T}
        else:
            a, b = (b.T, a.T) if kind == "turned" else (a, b)
            found = {"A.weight": a, "B.weight": b}
        self._keep({f"{module}.lora_{part}": tensor for part, tensor in found.items()})
        self.ranks[module] = factors.rank

    def set_rows(self, name: str, numbers: Sequence[int], rows: torch.Tensor) -> None:
        """The rows of an embedding or head that are others: ``rows`` [numbers, columns]."""
        module = name.removesuffix(".weight")
        self._keep({f"{module}.token_adapter.trainable_tokens_delta": rows})
        self.numbers[module] = list(numbers)

    def bring(self, name: str, tensor: torch.Tensor) -> None:
        """A parameter that is brought whole; all others of its module must come, too."""
        self._keep({name: tensor})
        with self._lock:
            self.whole.setdefault(name.rpartition(".")[0], []).append(name)

    def tie(self, name: str, other: str) -> None:
        """Keep ``name`` tied to ``other``, if that is brought: peft reads it under both names."""
        if other in self.whole.get(other.rpartition(".")[0], ()):
            self._keep({name: self._tensor(f"{_PREFIX}{other}")})
            self._tied = True

    def _keep(self, tensors: Mapping[str, torch.Tensor]) -> None:
        from safetensors.torch import save_file

        with self._lock:
            path = self._parts / f"{len(self._files)}.safetensors"
            self._files |= {f"{_PREFIX}{name}": path for name in tensors}
        save_file(
            {f"{_PREFIX}{name}": each.float().cpu().contiguous() for name, each in tensors.items()},
            path,
        )

    def finish(
        self,
        folder: Path,
        base: Mapping[str, str],
        *,
        task: str | None,
        density: float | None = None,
    ) -> dict[str, tuple[float, float]]:
        """Write config and weights into ``folder``.

        Args:
            folder: to write into.
            base: what the adapter is for, as it stands in the config.
            task: peft's word for what the model does; None where it has none.
            density: share of the entries of each factor that are kept, as signs; None: all, as they are.

        Returns:
            Module -> squares of what it adds, and of what signs lack of that (Frobenius); nothing if all is kept.

        Raises:
            InputError: signs cannot stand for something that is no factor.
        """
        config = {
            **_PLAIN,
            **base,
            "task_type": task,
            **self._adapted(),
            "fan_in_fan_out": any(self._kinds[module] == "turned" for module in self.ranks),
            "modules_to_save": sorted(self.whole) or None,
            "trainable_token_indices": dict(sorted(self.numbers.items())) or None,
            **({"ensure_weight_tying": True} if self._tied else {}),
        }
        text = json.dumps(dict(sorted(config.items())), indent=2)
        (folder / ADAPTER_CONFIG).write_text(f"{text}\n", encoding="utf-8")
        if density is not None:
            return self._write_signs(folder, density)
        sizes = {key: tensor.nbytes for key, tensor in self._tensors()}
        write_file(folder / ADAPTER_WEIGHTS, sizes, self._tensors())
        return {}

    def bytes_in(self, dtype: str) -> int:
        """Bytes of the file of weights, were it of the torch dtype called ``dtype``."""
        shapes = {key: tuple(tensor.shape) for key, tensor in self._tensors()}
        return len(header_of(shapes, dtype)) + sum(tensor_bytes(s, dtype) for s in shapes.values())

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What came, by its key in the file, sorted."""
        for key in sorted(self._files):
            yield key, self._tensor(key)

    def _tensor(self, key: str) -> torch.Tensor:
        found: torch.Tensor = mapped_file(self._files[key]).get_tensor(key)
        return found

    def _write_signs(self, folder: Path, density: float) -> dict[str, tuple[float, float]]:
        """Each factor by its largest entries' signs, and one scale for a pair: that of the least squares.

        With P = B A and Q = B' A' of signs, s = <P, Q> / <Q, Q>, shared by both factors.
        """
        for what in (*self.whole, *self.numbers):
            raise InputError(
                f"--compress: signs can stand for factors, and the merge brings {what}, whole or in rows; write it "
                "without --compress"
            )
        found, lost = dict[str, Kept](), dict[str, tuple[float, float]]()
        for module in sorted(self.ranks):
            keys = sorted(key for key in self._files if key.startswith(f"{_PREFIX}{module}.lora_"))
            a, b = (self._tensor(key) for key in keys)
            pair = largest(a, density), largest(b, density)
            c, d = (each.tensor for each in pair)
            size, common, own = _inner(a, b, a, b), _inner(a, b, c, d), _inner(c, d, c, d)
            scale = max(common / own, 0.0) if own else 0.0
            found |= {
                key: replace(each, scale=scale**0.5) for key, each in zip(keys, pair, strict=True)
            }
            lost[module] = size, size - scale * common
        write_ternary(folder / TERNARY, found)
        return lost

    def _adapted(self) -> dict[str, Any]:
        """Which modules have factors, and of which rank."""
        most = max(self.ranks.values())
        patterns: dict[str, int] = {}
        targets: list[str] = []
        every = _by_last(self._kinds)
        for last, members in sorted(_by_last(self.ranks).items()):
            ranks = {self.ranks[each] for each in members}
            short = last.isidentifier()
            targets += [last] if short and members == every[last] else members
            if ranks == {most}:
                continue
            if short and len(ranks) == 1:
                patterns[last] = next(iter(ranks))
            else:
                patterns |= {re.escape(m): self.ranks[m] for m in members if self.ranks[m] != most}
        return {
            "r": most,
            "lora_alpha": most,
            "rank_pattern": patterns,
            "alpha_pattern": dict(patterns),
            "target_modules": targets,
        }


@contextmanager
def adapter_folder(scratch: Path, kinds: Mapping[str, str]) -> Iterator[AdapterFolder]:
    """An adapter in the making, whose tensors lie in ``scratch`` meanwhile; see ``AdapterFolder``."""
    with TemporaryDirectory(dir=scratch) as parts:
        yield AdapterFolder(Path(parts), kinds)


def _inner(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> float:
    """<B A, D C> (Frobenius) of factors [rank, columns] and [rows, rank], by their small products."""
    a, b, c, d = (each.double() for each in (a, b, c, d))
    return float(((a @ c.T) * (b.T @ d)).sum())


def _by_last(modules: Mapping[str, Any]) -> dict[str, list[str]]:
    """Modules by the last part of their names, sorted."""
    found: dict[str, list[str]] = {}
    for module in sorted(modules):
        found.setdefault(module.rpartition(".")[2], []).append(module)
    return found
