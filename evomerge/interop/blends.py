"""How mergekit merges each tensor: every level, filter and list over depth of a file resolved.

What mergekit *does* counts, not what its file seems to say: the final norm and the head take the
first value of a list over depth, a slice of one layer the last; the embedding follows the first
slice, final norm and head the last one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge import config
from evomerge.interop.anatomy import UNKNOWN_DEPTH, Anatomy
from evomerge.interop.catalogue import VERSION, Argument
from evomerge.interop.document import Document, Settings, Slice, Source
from evomerge.interop.settings import value_at
from evomerge.params import Value


@dataclass(frozen=True)
class Blend:
    """How mergekit merges a tensor; models by their reference."""

    method: str
    models: tuple[str, ...]
    base: str | None
    values: Mapping[str, Any]

    @property
    def references(self) -> tuple[str, ...]:
        """The models, and the base if there is one."""
        return (*self.models, *([self.base] if self.base else []))

    @property
    def copied(self) -> str | None:
        """The one model whose tensors this passes on as they are, if it does."""
        if self.method == "passthrough" and len(self.models) == 1:
            return self.models[0] if self.values["scale"] in (None, 1.0) else None
        if self.method != "linear":
            return None
        weights = {model: w for model, w in self.values["weight"].items() if w}
        whole = len(weights) == 1 and (self.values["normalize"] or set(weights.values()) == {1.0})
        return next(iter(weights)) if whole else None


class Resolver:
    """Resolves documents tensor by tensor; what cannot be said in a recipe is noted as a problem.

    Args:
        parts: the merges of the file that have a name, none of them made from itself.
        anatomy: of the models.
        problems: where to note.
    """

    def __init__(
        self, parts: Mapping[str, Document], anatomy: Anatomy, problems: config.Problems
    ) -> None:
        self.parts, self.anatomy, self.problems = parts, anatomy, problems
        self.layers = 0  # of what was resolved last; all documents have as many
        self._missing: set[tuple[str | None, str, str]] = set()

    def resolve(self, document: Document, dtype: str | None) -> tuple[dict[str, Blend], list[str]]:
        """How every tensor is merged, and which merges of the file were looked through for it.

        Those are merges whose tensors ``document`` passes on as they are, if that makes no difference: one that
        rounds to another dtype than ``dtype``, that of the result, stays a model, as one that is merged does.
        """
        found, through = self._own(document), dict[str, None]()
        inner: dict[str, dict[str, Blend]] = {}
        for tensor, blend in found.items():
            name = blend.copied
            part = self.parts.get(name) if name else None
            if name is None or part is None or part.dtype not in (None, "float32", dtype):
                continue
            if name not in inner:
                inner[name], more = self.resolve(part, dtype)
                through |= dict.fromkeys((name, *more))
            found[tensor] = inner[name].get(tensor, blend)
        return found, list(through)

    def _own(self, document: Document) -> dict[str, Blend]:
        """How every tensor is merged, by this document alone."""
        layers = self._depth(document)
        if layers is None:
            return {}
        self.layers = layers
        first, last = document.slices[0], document.slices[-1]
        if len(last.sources) > len(first.sources):
            document.problem(
                self.problems,
                "slices",
                f"the last slice has more sources than the first: mergekit {VERSION} leaves some out of the "
                "final norm and the head",
            )
        found: dict[str, Blend] = {}
        start = 0
        for part in document.slices:
            count = layers if part.sources[0].layers is None else _length(part.sources[0])
            for tensor, place in self.anatomy.places(layers).items():
                if place.layer is None:
                    if part is (first if place.role == "embed" else last):
                        found[tensor] = self._blend(document, part, tensor, 0.0)
                elif start <= place.layer < start + count:
                    depth = (place.layer - start) / (count - 1) if count > 1 else 1.0
                    found[tensor] = self._blend(document, part, tensor, depth)
            start += count
        return found

    def _depth(self, document: Document) -> int | None:
        """Number of layers made, if a recipe can make them; None after a problem."""
        if document.slices[0].sources[0].layers is None:
            return self._depth_of_models(document)
        start = 0
        for number, part in enumerate(document.slices):
            length = _length(part.sources[0])
            for source in part.sources:
                low, high = source.layers or (0, 0)
                if (low, high) != (start, start + length):
                    document.problem(
                        self.problems,
                        f"slices[{number}]",
                        f"layers [{low}, {high}) of {source.model} become layers [{start}, {start + length}): "
                        "a recipe merges each layer with the same layer of the other models; none is moved, "
                        "repeated or left out",
                    )
                    return None
            start += length
        if start != (self.anatomy.layers or start):
            document.problem(
                self.problems,
                "slices",
                f"give {start} layers, the models have {self.anatomy.layers}: a recipe keeps them all",
            )
            return None
        return start

    def _depth_of_models(self, document: Document) -> int | None:
        if self.anatomy.layers:
            return self.anatomy.layers
        for branch in document.branches:
            if len(branch.values) > 1 or re.search(r"\d", branch.filter or ""):
                document.problem(
                    self.problems, "models", f"values differ between layers, and {UNKNOWN_DEPTH}"
                )
                return None
        return 2  # whatever it is, all layers are alike

    def _blend(self, document: Document, part: Slice, tensor: str, depth: float) -> Blend:
        inputs, base = document.arrange(part)
        shared = (part.settings, *document.settings)
        values: dict[str, Any] = {}
        for name, argument in document.peer.arguments.items():
            if argument.per_model:
                values[name] = {
                    source.model: self._value(
                        document,
                        name,
                        argument,
                        (source.settings, *shared),
                        tensor,
                        depth,
                        source=source,
                    )
                    for source in inputs
                }
            else:
                values[name] = self._value(document, name, argument, shared, tensor, depth)
        if document.method == "passthrough":  # one model: what it calls per model is shared here
            values = {name: next(iter(value.values())) for name, value in values.items()}
        overall = document.base or document.slices[0].base
        if (
            document.method == "slerp"
            and base != overall
            and [overall] == [s.model for s in inputs]
        ):
            # from the other end of the arc, as mergekit-evolve writes it
            return Blend("slerp", (base or "",), overall, {"t": 1.0 - values["t"]})
        return Blend(document.method, tuple(s.model for s in inputs), base, values)

    def _value(
        self,
        document: Document,
        name: str,
        argument: Argument,
        levels: Sequence[Settings],
        tensor: str,
        depth: float,
        *,
        source: Source | None = None,
    ) -> Value:
        """The value of a parameter for ``tensor``."""
        given = (value_at(level[name], tensor, depth) for level in levels if name in level)
        value = next((value for value in given if value is not None), argument.default)
        if value is not None or not argument.required:
            return value
        whose = f" of {source.model}" if source else ""
        if (document.name, name, whose) not in self._missing:  # one message, however many tensors
            self._missing.add((document.name, name, whose))
            document.problem(
                self.problems,
                name,
                f"missing{whose}, for {tensor} at least; mergekit refuses that, too",
            )
        return 0.0


def _length(source: Source) -> int:
    assert source.layers is not None
    return source.layers[1] - source.layers[0]
