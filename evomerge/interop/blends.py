"""How mergekit merges each tensor of a file: every level, filter and list over depth resolved.

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
from evomerge.interop.catalogue import VERSION, Argument
from evomerge.interop.document import Document, Settings, Slice, Source
from evomerge.interop.settings import value_at
from evomerge.interop.skeleton import UNKNOWN_DEPTH, Skeleton
from evomerge.params import Value
from evomerge.tensors import Place, places


@dataclass(frozen=True)
class Blend:
    """How mergekit merges the tensors at one place; models by their reference."""

    method: str
    models: tuple[str, ...]
    base: str | None
    values: Mapping[str, Any]

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
    """Resolves documents place by place; what cannot be said in a recipe is noted as a problem."""

    def __init__(
        self, parts: Mapping[str, Document], skeleton: Skeleton, problems: config.Problems
    ) -> None:
        self.parts, self.skeleton, self.problems = parts, skeleton, problems

    def resolve(self, document: Document, above: tuple[str, ...] = ()) -> dict[Place, Blend]:
        """How every place is merged, with merges of the same file looked through."""
        if document.name in above:
            self._problem(document, "name", f"{document.name} is made from itself")
            return {}
        found = self._own(document)
        inner: dict[str, dict[Place, Blend]] = {}
        for place, blend in found.items():
            used = [name for name in (*blend.models, blend.base or "") if name in self.parts]
            if not used:
                continue
            name = blend.copied
            if name not in self.parts:
                self._problem(
                    document,
                    "merge_method",
                    f"{blend.method} merges {used[0]}, itself a merge; a recipe merges models once",
                )
                return found
            assert name is not None
            if name not in inner:
                path = (*above, document.name or "")
                inner[name] = self.resolve(self.parts[name], path)
            found[place] = inner[name].get(place, blend)
        return found

    def _own(self, document: Document) -> dict[Place, Blend]:
        """How every place is merged, by this document alone."""
        layers = self._depth(document)
        if layers is None:
            return {}
        first, last = document.slices[0], document.slices[-1]
        if len(last.sources) > len(first.sources):
            self._problem(
                document,
                "slices",
                f"the last slice has more sources than the first: mergekit {VERSION} leaves some out of the "
                "final norm and the head",
            )
        found: dict[Place, Blend] = {}
        start = 0
        for part in document.slices:
            count = layers if part.sources[0].layers is None else _length(part.sources[0])
            for place in places(layers):
                if place.layer is None:
                    if part is (first if place.role == "embed" else last):
                        found[place] = self._blend(document, part, place, 0.0)
                elif start <= place.layer < start + count:
                    depth = (place.layer - start) / (count - 1) if count > 1 else 1.0
                    found[place] = self._blend(document, part, place, depth)
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
                    self._problem(
                        document,
                        f"slices[{number}]",
                        f"layers [{low}, {high}) of {source.model} become layers [{start}, {start + length}): "
                        "a recipe merges each layer with the same layer of the other models; none is moved, "
                        "repeated or left out",
                    )
                    return None
            start += length
        if start != (self.skeleton.layers or start):
            self._problem(
                document,
                "slices",
                f"give {start} layers, the models have {self.skeleton.layers}: a recipe keeps them all",
            )
            return None
        return start

    def _depth_of_models(self, document: Document) -> int | None:
        if self.skeleton.layers:
            return self.skeleton.layers
        for branch in document.branches:
            if len(branch.values) > 1 or re.search(r"\d", branch.filter or ""):
                self._problem(
                    document, "models", f"values differ between layers, and {UNKNOWN_DEPTH}"
                )
                return None
        return 2  # whatever it is, all layers are alike

    def _blend(self, document: Document, part: Slice, place: Place, depth: float) -> Blend:
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
                        place,
                        depth,
                        source=source,
                    )
                    for source in inputs
                }
            else:
                values[name] = self._value(document, name, argument, shared, place, depth)
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
        place: Place,
        depth: float,
        *,
        source: Source | None = None,
    ) -> Value:
        """The value of a parameter for the tensors at ``place``, which all have the same."""
        found = []
        for tensor in self.skeleton.names(place):
            given = (value_at(level[name], tensor, depth) for level in levels if name in level)
            value = next((value for value in given if value is not None), argument.default)
            if value is None and argument.required:
                whose = f" of {source.model}" if source else ""
                self._problem(
                    document,
                    name,
                    f"missing{whose}, for {tensor} at least; mergekit refuses that, too",
                )
            found.append(0.0 if value is None and argument.required else value)
        if any(value != found[0] for value in found):
            self._problem(
                document,
                name,
                f"its filters tell apart tensors of the role {place.role}; the groups of a recipe go by layer "
                "and role, not by name",
            )
        return found[0]

    def _problem(self, document: Document, key: str, message: str) -> None:
        known = document.node.value.get(key.partition("[")[0])
        problem = config.Problems()
        problem.add(known or document.node, key, message)
        if problem.found[0] not in self.problems.found:  # one message, however many tensors
            self.problems.found += problem.found


def _length(source: Source) -> int:
    assert source.layers is not None
    return source.layers[1] - source.layers[0]
