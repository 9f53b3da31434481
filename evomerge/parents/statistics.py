"""Statistics of parents: data about a model, collected once, kept on disk and shared by all merges.

A kernel names those it takes (``methods``); ``evomerge measure`` and the start of a search collect
them. The cache ($XDG_CACHE_HOME/evomerge/statistics) holds a safetensors file for each content of a
model, statistic and texts, so a model or a text that changed is measured anew.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from evomerge import methods
from evomerge.cache import cache_folder, make_once, name_of
from evomerge.calibration import Calibration
from evomerge.checkpoint import Checkpoint, beside
from evomerge.checkpoint.contents import digests
from evomerge.checkpoint.files import mapped_file
from evomerge.errors import CheckpointError, NotMeasured
from evomerge.parents.parents import Parents
from evomerge.recipe import Group, Recipe
from evomerge.registry import STATISTICS

if TYPE_CHECKING:
    from torch import Tensor

FILE = "statistic.safetensors"


class Statistic(Protocol):
    """What can be known of a model from texts. A plugin is such a class under ``evomerge.statistics``.

    Attributes:
        name: as kernels and entry points name it.
        version: raise it when ``collect`` gives other numbers, and all is measured anew.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of the statistic of parameter ``name`` of ``shape``; None if it has none."""
        ...

    def source(self, name: str) -> str:
        """The key under which ``collect`` gives what parameter ``name`` has: q, k and v share one Gram."""
        ...

    def collect(
        self, module: Any, tokenizer: Any, texts: Iterable[str]
    ) -> Iterator[tuple[str, Tensor]]:
        """Key and value of each, float32, from all the texts.

        Args:
            module: a causal LM of transformers in float32 and in eval mode; leave it as it was.
            tokenizer: the model's.
            texts: of the calibration data; may be gone through once.
        """
        ...


class StatisticStore:
    """The cache.

    Args:
        folder: where it lies; it may be deleted while nothing runs.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder("statistics")

    def file(self, model: Checkpoint, statistic: str, digest: str) -> Path:
        """Where the statistic of ``model`` from texts of this digest lies, or would."""
        version = STATISTICS.get(statistic).version
        # the model's digests are also those of its tokenizer, which cuts the texts
        made_of = [digests(model), statistic, version, digest]
        return self.folder / name_of(made_of) / FILE

    def write(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` in ``file``, beside first and renamed; what another process kept stays.

        Raises:
            InputError: it cannot be written.
            RunError: the disk is full.
        """
        from safetensors.torch import save_file

        def make() -> None:
            with beside(file.parent) as work:
                save_file(dict(tensors), work / FILE)

        make_once(file, make)


class Statistics:
    """The statistics of opened parents, mapped from the cache and aligned as their tensors are.

    Args:
        parents: the models.
        store: the cache.
    """

    def __init__(self, parents: Parents, store: StatisticStore | None = None) -> None:
        self._parents, self._store = parents, store or StatisticStore()
        self._files: dict[tuple[str, str, str], Any] = {}
        self._known: dict[str, Statistic] = {}

    def require(self, recipe: Recipe) -> None:
        """Refuse a recipe that takes what is not there.

        Optional is whether a recipe names data at all: if it does, all that its methods take of them
        must be there, or a merge would have other bytes on another machine.

        Raises:
            NotMeasured: with the commands that collect all of it.
        """
        missing: dict[str, None] = {}
        for group, name in _taken(recipe):
            for model in group.models:
                if recipe.body.data is None:
                    raise NotMeasured(
                        f"{group.method} requires the statistic {name!r}, and the recipe names no data for "
                        "it. Collect it with `evomerge measure MODEL --statistic "
                        f"{name} --data FILE`, which prints the `data:` to add to the recipe"
                    )
                if self._open(model, name, recipe.body.data.digest) is None:
                    missing[command(self._parents.models[model].name, name, recipe.body.data)] = (
                        None
                    )
        if missing:
            lines = "\n  ".join(missing)
            raise NotMeasured(
                f"statistics that this recipe takes were not collected here; run\n  {lines}"
            )

    def of(
        self, group: Group, origin: Mapping[str, str], data: Calibration | None
    ) -> methods.Stats:
        """What the group's method takes of a tensor, as far as it was collected.

        Args:
            group: merges it.
            origin: model -> the parameter of it that the tensor is.
            data: what the statistics are of.
        """
        found: dict[str, dict[str, Tensor] | None] = {}
        for each in methods.get(group.method).statistics:
            if each not in self._known:
                self._known[each] = STATISTICS.get(each)()
            statistic = self._known[each]
            if not all(self._has(statistic, model, origin[model]) for model in group.models):
                found[each] = None
            elif data is not None:
                values = {m: self._tensor(m, statistic, origin[m], data) for m in group.models}
                found[each] = {m: value for m, value in values.items() if value is not None}
        return found

    def _has(self, statistic: Statistic, model: str, name: str) -> bool:
        stored = self._parents.stored_name(model, name)
        shape = self._parents.models[model].entry(stored).shape
        return statistic.shape(stored, shape) is not None

    def _tensor(
        self, model: str, statistic: Statistic, name: str, data: Calibration
    ) -> Tensor | None:
        file = self._open(model, statistic.name, data.digest)
        if file is None:
            return None
        stored = self._parents.stored_name(model, name)
        try:
            value: Tensor = file.get_tensor(statistic.source(stored))
        except Exception as error:  # safetensors raises its own kind
            path = self._store.file(self._parents.models[model], statistic.name, data.digest)
            raise CheckpointError(
                f"{path}: not what {statistic.name} of {model} is now: {error}; delete it and measure again"
            ) from None
        shape = self._parents.models[model].entry(stored).shape
        by_row = value.dim() > 0 and value.shape[0] == shape[0]
        return self._parents.aligned(model, name, value) if by_row else value

    def _open(self, model: str, statistic: str, digest: str) -> Any:
        """The mapped file; None if there is none."""
        key = model, statistic, digest
        if key not in self._files:
            file = self._store.file(self._parents.models[model], statistic, digest)
            if not file.is_file():
                return None
            self._files[key] = mapped_file(file)
        return self._files[key]


def _taken(recipe: Recipe) -> Iterator[tuple[Group, str]]:
    """The groups of ``recipe`` that take a statistic, and which."""
    for group in recipe.groups:
        method = methods.get(group.method)
        for name in method.required if recipe.body.data is None else method.statistics:
            yield group, name


def command(model: str, statistic: str, data: Calibration) -> str:
    """The command that collects a statistic."""
    items = [] if data.items is None else ["--items", str(data.items)]
    words = ["evomerge", "measure", model, "--statistic", statistic, "--data", data.file, *items]
    return shlex.join(words)
