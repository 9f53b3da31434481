"""How mergekit merges each tensor: every level, filter and list over depth of a file resolved.

What mergekit *does* counts, not what its file seems to say: the final norm and the head take the
first value of a list over depth, a slice of one layer the last; the embedding follows the first
slice, final norm and head the last one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge import config
from evomerge.interop.anatomy import UNKNOWN_DEPTH, Anatomy
from evomerge.interop.catalogue import VERSION, Argument
from evomerge.interop.document import Document, Settings, Slice, Source
from evomerge.interop.settings import value_at
from evomerge.params import Value
from evomerge.paths import MOST, SCALE, Hop, Path
from evomerge.skeleton.residual import adds


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


@dataclass(frozen=True)
class Resolved:
    """What a document merges.

    Attributes:
        blends: how every tensor is merged, by its name in the models.
        layers: blocks of the models.
        through: merges of the file that were looked through for it.
        path: the blocks of the result, models by their reference; None: all of the merge, in order.
    """

    blends: dict[str, Blend]
    layers: int
    through: tuple[str, ...] = ()
    path: Path | None = None


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
        self._missing: set[tuple[str | None, str, str]] = set()

    def resolve(self, document: Document, dtype: str | None) -> Resolved:
        """How every tensor is merged, and which merges of the file were looked through for it.

        Those are merges whose tensors ``document`` passes on as they are, if that makes no difference: one that
        rounds to another dtype than ``dtype``, that of the result, stays a model, as one that is merged does, or
        one of other blocks than its models.
        """
        own = self._own(document)
        found, through = own.blends, dict[str, None]()
        inner: dict[str, Resolved] = {}
        for tensor, blend in found.items():
            name = blend.copied
            part = self.parts.get(name) if name else None
            if name is None or part is None or part.dtype not in (None, "float32", dtype):
                continue
            if name not in inner:
                inner[name] = self.resolve(part, dtype)
            if inner[name].path is None and inner[name].layers == own.layers:
                through |= dict.fromkeys((name, *inner[name].through))
                found[tensor] = inner[name].blends.get(tensor, blend)
        return replace(own, through=tuple(through))

    def _own(self, document: Document) -> Resolved:
        """How every tensor is merged, by this document alone."""
        lined = self._lined_up(document)
        if lined is None:
            return Resolved({}, 0)
        layers, blocks = lined
        first, last = document.slices[0], document.slices[-1]
        if len(last.sources) > len(first.sources):
            document.problem(
                self.problems,
                "slices",
                f"the last slice has more sources than the first: mergekit {VERSION} leaves some out of the "
                "final norm and the head",
            )
        inside: dict[int, list[str]] = {}
        found: dict[str, Blend] = {}
        for tensor, place in self.anatomy.places(layers).items():
            if place.layer is None:
                part = first if place.role == "embed" else last
                found[tensor] = self._blend(document, part, tensor, 0.0)
            else:
                inside.setdefault(place.layer, []).append(tensor)
        made = [
            (layer, {name: self._blend(document, part, name, depth) for name in inside[layer]})
            for part, layer, depth in blocks
        ]
        if [layer for layer, _ in made] == list(range(layers)):
            for _, block in made:
                found |= block
            return Resolved(found, layers)
        path = self._path(document, made)
        merged: dict[int, dict[str, Blend]] = {}
        for (layer, block), hop in zip(made, path, strict=True):
            if hop.model is None:
                merged[layer] = block
        for layer, block in made:
            merged.setdefault(layer, block)
        near = made[0][0]
        for layer in range(layers):
            near = layer if layer in merged else near
            # what no block of the path is made of, is merged as what lies before it
            own = dict(zip(inside[near], inside[layer], strict=False))
            found |= {own[name]: blend for name, blend in merged[near].items() if name in own}
        return Resolved(found, layers, path=path)

    def _path(self, document: Document, made: Sequence[tuple[int, dict[str, Blend]]]) -> Path:
        """The blocks of the result: of the merge, or of one model where a block stands twice and differs."""
        variants: dict[int, list[dict[str, Blend]]] = {}
        for layer, block in made:
            known = variants.setdefault(layer, [])
            if block not in known:
                known.append(block)
        if all(len(known) == 1 for known in variants.values()):
            return tuple(Hop(layer) for layer, _ in made)
        for scaled in (False, True):
            alone = [self._alone(block, scaled) for _, block in made]
            merges = {
                layer: sum(self._alone(block, scaled) is None for block in known)
                for layer, known in variants.items()
            }
            twice = next((layer for layer, count in merges.items() if count > 1), None)
            if twice is None:
                break
        else:
            document.problem(
                self.problems,
                "slices",
                f"layer {twice} is merged in {merges[twice or 0]} ways: a recipe merges each layer once, and takes it, or "
                "that of one model, as often as is wanted",
            )
        path, before = [], 1.0
        for (layer, _), found in zip(made, alone, strict=True):
            model, factor = found or (None, 1.0)
            if problem := SCALE.domain.problem(before / factor):
                document.problem(
                    self.problems, "slices", f"layer {layer}: a hop's scale: {problem}"
                )
            path.append(Hop(layer, model, before / factor))
            before = factor
        return tuple(path)

    def _alone(self, block: Mapping[str, Blend], scaled: bool) -> tuple[str, float] | None:
        """The one model whose block this is, and by what that which it adds is multiplied, as a scaled hop does it;
        None where it is a merge."""
        models, factors = set(), dict[bool, set[float]]({True: set(), False: {1.0}})
        for tensor, blend in block.items():
            if blend.method == "passthrough" and scaled:
                models.add(blend.models[0])
                scale = blend.values["scale"]
                factors[adds(tensor)].add(1.0 if scale is None else scale)
            else:
                models.add(blend.copied or "")
                factors[True].add(1.0)
        if len(models) > 1 or "" in models or factors[False] != {1.0} or len(factors[True]) > 1:
            return None
        (model,), (factor,) = models, factors[True] or {1.0}
        return (model, factor) if factor > 0 else None

    def _lined_up(self, document: Document) -> tuple[int, list[tuple[Slice, int, float]]] | None:
        """Blocks of the models, and for each of the result its slice, which block it is of the models, and how far
        in the slice it stands; None after a problem."""
        if document.slices[0].sources[0].layers is None:
            layers = self._depth_of_models(document)
            if layers is None:
                return None
            return layers, [(document.slices[0], n, _share(n, layers)) for n in range(layers)]
        blocks: list[tuple[Slice, int, float]] = []
        deepest = 0
        for number, part in enumerate(document.slices):
            low, high = part.sources[0].layers or (0, 0)
            for source in part.sources:
                if source.layers != (low, high):
                    document.problem(
                        self.problems,
                        f"slices[{number}]",
                        f"layers {_range(source.layers)} of {source.model} are merged with {_range((low, high))} of "
                        f"{part.sources[0].model}: a recipe merges each layer with the same layer of the other "
                        "models",
                    )
                    return None
            known = self.anatomy.layers
            if high > (known or MOST):
                there = f"the models have {known}" if known else f"no model has more than {MOST:,}"
                document.problem(
                    self.problems, f"slices[{number}]", f"layers {_range((low, high))}: {there}"
                )
                return None
            if len(blocks) + high - low > MOST:
                document.problem(
                    self.problems, "slices", f"give more than {MOST:,} layers, which no model has"
                )
                return None
            deepest = max(deepest, high)
            blocks += [(part, n, _share(n - low, high - low)) for n in range(low, high)]
        if not blocks:
            document.problem(self.problems, "slices", "are empty: expected at least one layer")
            return None
        return self.anatomy.layers or deepest, blocks

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


def _share(number: int, count: int) -> float:
    """How far block ``number`` of ``count`` lies in them."""
    return number / (count - 1) if count > 1 else 1.0


def _range(layers: tuple[int, int] | None) -> str:
    return f"[{layers[0]}, {layers[1]})" if layers else "of all depths"
