"""A merge method: its declaration, the check of its parameters, its application to one tensor."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from evomerge.errors import InputError, NotMeasured, did_you_mean, one_of
from evomerge.factors import Factors
from evomerge.methods._form import Form, form_of
from evomerge.methods.kernel.draws import draw_key, uniforms
from evomerge.methods.kernel.entrywise import Entrywise
from evomerge.methods.kernel.facts import Facts, FactStore
from evomerge.methods.kernel.operands import Operands
from evomerge.params import Parameter, Value
from evomerge.tensors import Place

Base = Literal["required", "optional", "none"]

# Checked parameters: public name -> value, or model -> value for a per-model one.
Arguments = Mapping[str, Value | Mapping[str, Value]]

# What a kernel may ask for by argument name, besides its parameters.
INPUTS = (
    "deltas",
    "tensors",
    "operands",
    "base",
    "noise",
    "role",
    "layer",
    "layers",
    "facts",
    "totals",
    "factors",
)

# Whether a kernel runs without a statistic that it takes.
Need = Literal["required", "optional"]
required: Need = "required"
optional: Need = "optional"

# Statistic -> model -> tensor; None where the tensor has no such statistic (a norm has no Gram matrix).
Stats = Mapping[str, Mapping[str, Tensor] | None]


STEP = 2.0**-6  # of a parameter, for derivatives: large beside rounding, small beside its range

# Is shown the merge of a tensor: a function that gives it at flat indices [n], in float32 [n].
Look = Callable[[Callable[[Tensor], Tensor]], None]

_NOWHERE = Place(None, "other")


@dataclass(frozen=True)
class Inputs:
    """One tensor of every model, and all that its merge depends on.

    Attributes:
        models: model name -> tensor [*shape], any floating dtype; the order is the model order.
        values: checked parameters.
        base: the base model's tensor [*shape]; ignored if nothing asks for it.
        seed: recipe seed; keys the noise, together with ``name`` and the models' names.
        name: the tensor's name.
        place: its role and depth.
        noise: model -> uniforms [*shape], to use instead of the keyed draw.
        stats: statistic -> model -> tensor; None instead for a tensor that has none. What is not there
            was not collected.
        totals: the sums of the method's surveys over the whole model; for a survey, of those before.
        facts: where candidate-invariant work is kept for the next merge.
        rows: model -> factors of its weight, float32, on the CPU: one for each index of the first axis, or
            [1, columns] of a matrix.
        factors: model -> those of its delta; None where a delta is not held so. Where they are given ``models`` may be
            any tensors of the shape, as only factors are read.
    """

    models: Mapping[str, Tensor]
    values: Arguments
    base: Tensor | None = None
    seed: int = 0
    name: str = ""
    place: Place = _NOWHERE
    noise: Mapping[str, Tensor] | None = None
    stats: Stats | None = None
    totals: Sequence[Tensor] = ()
    facts: FactStore | None = None
    rows: Mapping[str, Tensor] | None = None
    factors: Mapping[str, Factors] | None = None

    @property
    def slices(self) -> Iterator[Inputs]:
        """The same for each index of the tensors' first axis, as of tensors of their own [*shape without it]."""
        first = next(iter(self.models.values()))

        def at(index: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {m: t[index] if t.shape == first.shape else t for m, t in tensors.items()}

        for index in range(len(first)):
            stats = self.stats and {n: t and at(index, t) for n, t in self.stats.items()}
            yield replace(
                self,
                models=at(index, self.models),
                base=None if self.base is None else self.base[index],
                name=f"{self.name}[{index}]",
                noise=self.noise and at(index, self.noise),
                stats=stats,
            )


@dataclass(frozen=True)
class Method:
    """A kernel with everything declared about it; made by ``merge_method``.

    ``inputs`` are the argument names of the kernel that are not parameters, ``statistics`` (name -> need)
    among them. The result has a derivative by each of the parameters ``smooth``. ``surveys`` are summed over all tensors before the kernel sees any; ``exempt`` names
    the laws that the method does not obey, with the reason; ``by_default`` names the known recipe that
    the method is at its defaults, if it is another one's; ``by_row`` says whether weights may have factors
    row by row. ``copies`` is how many of a tensor in float32 it works with, for each model and the base.
    """

    name: str
    kernel: Callable[..., Tensor | Entrywise | Factors]
    base: Base
    paper: str
    min_models: int
    max_models: int | None
    parameters: tuple[Parameter, ...]
    inputs: frozenset[str]
    doc: str
    summary: str
    surveys: tuple[Callable[..., Tensor | None], ...] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)
    statistics: Mapping[str, Need] = field(default_factory=dict)
    by_default: str = ""
    smooth: tuple[str, ...] = ()
    by_row: bool = False
    copies: int = 1

    @property
    def required(self) -> tuple[str, ...]:
        """The statistics that the kernel never runs without."""
        return tuple(name for name, need in self.statistics.items() if need == required)

    @property
    def of_adapters(self) -> bool:
        """Whether the kernel works on the factors of adapters, so that its sources are such."""
        return "factors" in self.inputs

    @property
    def takes(self) -> str:
        """How many models, in words: ``"2 or more + base"``."""
        low, high = self.min_models, self.max_models
        count = (
            f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
        )
        count += " adapters" if self.of_adapters else ""
        return f"{count} + base" if self.base == "required" else count

    def team_size(self, count: int) -> int:
        """How many of ``count`` models it merges at a time."""
        return count if self.max_models is None else min(self.max_models, count)

    def arity_problem(self, count: int, has_base: bool) -> str | None:
        """What is wrong with merging ``count`` models, with or without a base; None if nothing."""
        low, high = self.min_models, self.max_models
        if count < low or (high is not None and count > high):
            bounds = f"at least {low}" if high is None else f"{low} to {high}"
            expected = f"exactly {low}" if low == high else bounds
            return f"{self.name} takes {expected} of the source models, found {count}"
        if self.base == "required" and not has_base:
            return f"{self.name} needs the base model, and there is none"
        return None

    def problems(
        self, values: Mapping[str, Any], models: Sequence[str]
    ) -> Iterator[tuple[str, str]]:
        """What is wrong with ``values`` for these models, as (parameter, message).

        A per-model parameter is one value, ``{model: value}`` naming every model, or a sequence in
        model order.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in values:
            if name not in known:
                names = ", ".join(known) or "no parameters"
                yield name, f"no such parameter{did_you_mean(name, known)}; it has {names}"
        for parameter in self.parameters:
            value = values.get(parameter.name, parameter.default)
            if parameter.per_model and isinstance(value, Mapping):
                for model in value:
                    if model not in models:
                        hint = did_you_mean(model, models)
                        yield parameter.name, f"no model {model!r}{hint}; {one_of(models)}"
                if missing := [model for model in models if model not in value]:
                    yield parameter.name, f"no value for {', '.join(missing)}"
                each = list(value.values())
            elif parameter.per_model and _is_sequence(value):
                if len(value) != len(models):
                    expected = f"expected {len(models)} values, one per model"
                    yield parameter.name, f"{expected}, found {len(value)}"
                each = list(value)
            else:
                each = [value]
            for one in each:
                if problem := parameter.domain.problem(one):
                    yield parameter.name, problem

    def check(self, values: Mapping[str, Any], models: Sequence[str]) -> Arguments:
        """``values`` in the form ``apply`` takes, defaults filled in.

        Raises:
            InputError: anything that ``problems`` finds, all in one message.
        """
        if found := [f"{self.name}: {key}: {text}" for key, text in self.problems(values, models)]:
            raise InputError("\n".join(found))
        checked: dict[str, Value | Mapping[str, Value]] = {}
        for parameter in self.parameters:
            value = values.get(parameter.name, parameter.default)
            if parameter.per_model and not isinstance(value, Mapping):
                each = value if _is_sequence(value) else [value] * len(models)
                value = dict(zip(models, each, strict=True))
            checked[parameter.name] = value
        return checked

    def apply(self, inputs: Inputs) -> Tensor:
        """The merge of one tensor, base included, in float32 on the device of the models."""
        return self.run(inputs)[0]

    @torch.no_grad()
    def run(
        self,
        inputs: Inputs,
        *,
        scale: float = 1.0,
        out: Tensor | None = None,
        look: Look | None = None,
    ) -> tuple[Tensor, bool]:
        """The merge of one tensor, base included, and whether all of it is finite.

        Nothing is validated here: values come from ``check``, the tensors are of one shape. Any
        floating dtype will do, since all are upcast before they are subtracted. An entry that is
        NaN or infinite in a source is NaN in the result.

        Args:
            inputs: what is merged.
            scale: factor of the merged delta (a post-operation); other than 1 needs a base.
            out: where the result goes, cast once [*shape], contiguous; None: a new float32 tensor.
            look: is shown the result before the cast.

        Raises:
            NotMeasured: a statistic that the method requires is not in ``inputs``.
        """
        given = _Given(self, inputs)
        return self._finished(given, self.kernel(**self._arguments(given)), scale, out, look)

    @torch.no_grad()
    def form(self, inputs: Inputs, *, scale: float = 1.0) -> Form:
        """What the merge of one tensor is, see ``Form``; ``run`` computes it. Raises as ``run``."""
        given = _Given(self, inputs)
        made = self.kernel(**self._arguments(given))
        return form_of(made, scale, lambda: self._finished(given, made, scale)[0])

    @torch.no_grad()
    def _finished(
        self,
        given: _Given,
        merged: Tensor | Entrywise | Factors,
        scale: float,
        out: Tensor | None = None,
        look: Look | None = None,
    ) -> tuple[Tensor, bool]:
        """What ``run`` returns, of what the kernel made."""
        if isinstance(merged, Entrywise) and (scale == 1.0 or merged.of == "deltas"):
            if look:
                look(partial(given.operands.entries, merged, scale=scale))
            return given.operands.merge(merged, out, scale)
        if isinstance(merged, Entrywise):
            merged, _ = given.operands.merge(merged)
        elif isinstance(merged, Factors) or "deltas" in self.inputs:
            merged = merged.product if isinstance(merged, Factors) else merged
            merged = given.origin + (merged if scale == 1.0 else merged * scale)
            scale = 1.0
        if scale != 1.0:
            merged = given.origin + (merged - given.origin) * scale
        merged = _with_broken(merged, given.inputs.models.values())
        if look:
            look(merged.reshape(-1).__getitem__)
        if out is None:
            return merged, bool(merged.isfinite().all())
        out.copy_(merged.view(out.shape))
        return out, bool(out.isfinite().all())

    def tangents(
        self, inputs: Inputs, *, scale: float = 1.0, names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, str | None, Tensor]]:
        """The derivative of the merge of one tensor by each smooth parameter, of each model.

        By central differences of the kernel itself: exact, but for rounding, where the result is linear
        in the parameter, as it is in most weights; elsewhere to second order in ``STEP``. ``names``: of
        these parameters only.

        Yields:
            parameter, model (None where all share it), and the derivative [*shape] in float32.
        """
        for name in self.smooth if names is None else names:
            value = inputs.values[name]
            models = inputs.models if isinstance(value, Mapping) else (None,)
            for model in models if value is not None else ():
                high, low = (
                    self.run(
                        replace(inputs, values=_moved(inputs.values, name, model, step)),
                        scale=scale,
                    )
                    for step in (STEP, -STEP)
                )
                yield name, model, (high[0] - low[0]) / (2 * STEP)

    def row_tangents(self, inputs: Inputs, *, scale: float = 1.0) -> Iterator[tuple[str, Tensor]]:
        """The derivative of the merge of one tensor by the factor of each of its rows, or columns.

        Yields:
            model, and the derivative [*shape] in float32: each entry by the factor that it has.
        """
        weights: Any = inputs.values["weight"]
        plain = replace(inputs, rows=None)
        for _, model, tangent in self.tangents(plain, scale=scale, names=("weight",)):
            if model is not None and model in (inputs.rows or ()):
                yield model, tangent * weights[model]

    def why_not_by_row(self, values: Arguments) -> str | None:
        """Why weights have no factors row by row, at these values; None where they may."""
        if not self.by_row:
            return f"{self.name} is not linear in its weights"
        if values.get("normalize"):
            return f"{self.name} divides by the sum of its weights (normalize: true)"
        return None

    @torch.no_grad()
    def plain(self, inputs: Inputs) -> Tensor | None:
        """What the kernel itself returns: a merged delta or tensor [*shape].

        None if that is an ``Entrywise``, of which every pass keeps broken entries, or factors.
        """
        merged = self.kernel(**self._arguments(_Given(self, inputs)))
        return merged if isinstance(merged, Tensor) else None

    @torch.no_grad()
    def survey(self, number: int, inputs: Inputs) -> Tensor | None:
        """What survey ``number`` finds in one tensor; None if these values need no survey."""
        function = self.surveys[number]
        wanted = set(inspect.signature(function).parameters)
        values = self._parameters(inputs)
        parameters = {name: value for name, value in values.items() if name in wanted}
        given = _Given(self, inputs).arguments(wanted & {*INPUTS, *self.statistics})
        found: Tensor | None = function(**given, **parameters)
        return found

    def _arguments(self, given: _Given) -> dict[str, Any]:
        """All that the kernel asks for."""
        return {**given.arguments(self.inputs), **self._parameters(given.inputs)}

    def _parameters(self, inputs: Inputs) -> dict[str, Any]:
        """Parameters as the kernel takes them."""
        arguments: dict[str, Any] = {}
        for parameter in self.parameters:
            value: Any = inputs.values[parameter.name]
            if isinstance(value, Mapping):
                # float64, so that counts such as int(density * n) see no float32 rounding; on the
                # CPU, because kernels use these few numbers one by one
                value = torch.tensor([value[m] for m in inputs.models], dtype=torch.float64)
            elif parameter.domain.kind == "real" and isinstance(value, int):
                value = float(value)
            arguments[argument_name(parameter.name)] = value
        return arguments


@dataclass
class _Given:
    """Everything a kernel or survey may ask for, made when it is asked for."""

    method: Method
    inputs: Inputs

    def arguments(self, names: Collection[str]) -> dict[str, Any]:
        return {name: self._input(name) for name in names}

    def _input(self, name: str) -> Any:
        if name in self.method.statistics:
            return self._statistic(name)
        if name in ("role", "layer", "layers"):
            return getattr(self.inputs.place, name)
        if name == "totals":
            return tuple(self.inputs.totals)
        return getattr(self, name)

    def _statistic(self, name: str) -> Tensor | None:
        """One [models, ...] float32; None where the tensor has none, or an optional one is not there."""
        found = (self.inputs.stats or {}).get(name, {})
        if found is None:
            return None
        missing = [model for model in self.inputs.models if model not in found]
        if not missing:
            return _stack([found[model] for model in self.inputs.models], self.device)
        if self.method.statistics[name] == optional:
            return None
        raise NotMeasured(
            f"{self.method.name} requires the statistic {name!r}, and there is none of "
            f"{', '.join(missing)}; `evomerge measure MODEL --statistic {name} --data FILE` collects it"
        )

    @property
    def device(self) -> torch.device:
        return next(iter(self.inputs.models.values())).device

    @property
    def factors(self) -> tuple[Factors, ...] | None:
        """Those of each model's delta, in order; None if one of them has none, or the tensor is no matrix."""
        found = self.inputs.factors
        if found is None:
            return None
        return tuple(found[model].to(self.device) for model in self.inputs.models)

    @cached_property
    def base(self) -> Tensor | None:
        base = self.inputs.base
        return None if base is None else base.to(self.device, torch.float32)

    @property
    def origin(self) -> Tensor:
        """The base where there must be one."""
        assert self.base is not None
        return self.base

    @cached_property
    def tensors(self) -> Tensor:
        return _stack(self.inputs.models.values(), self.device)

    @cached_property
    def deltas(self) -> Tensor:
        return _stack(self.inputs.models.values(), self.device).sub_(self.origin)

    @cached_property
    def facts(self) -> Facts:
        has_base = self.method.base != "none" and self.inputs.base is not None
        # `or` would take an empty store for none
        store = FactStore() if self.inputs.facts is None else self.inputs.facts
        return Facts(store, self.inputs.name, tuple(self.inputs.models), has_base)

    @cached_property
    def operands(self) -> Operands:
        base = None if self.method.base == "none" else self.inputs.base
        given = self.inputs
        return Operands(given.models, base, self.facts, self._key, given.noise, given.rows)

    @property
    def _key(self) -> Callable[[str], int]:
        """By what a model's draws are keyed; no method, which would hold whoever holds it, and the tensors with it."""
        return partial(draw_key, self.inputs.seed, self.inputs.name)

    @property
    def noise(self) -> Tensor:
        models = self.inputs.models
        shape = next(iter(models.values())).shape
        drawn = self.inputs.noise or {
            model: uniforms(self._key(model), 0, shape.numel(), self.device).reshape(shape)
            for model in models
        }
        return _stack([drawn[model] for model in models], self.device)


def _moved(values: Arguments, name: str, model: str | None, step: float) -> Arguments:
    """``values`` with a number in them moved by ``step``."""
    value: Any = values[name]
    return {**values, name: {**value, model: value[model] + step} if model else value + step}


def _with_broken(merged: Tensor, sources: Collection[Tensor]) -> Tensor:
    """The result of a plain kernel, NaN where a source is not finite."""
    for source in sources:
        # a sum is the cheapest look at every entry; one that overflows costs a second look
        if not torch.isfinite(source.sum(dtype=torch.float32)):
            broken = ~source.isfinite().view(merged.shape)
            merged = merged.masked_fill(broken.to(merged.device), torch.nan)
    return merged


def argument_name(public: str) -> str:
    """The kernel's argument for a public name: reserved words take an underscore."""
    return f"{public}_" if keyword.iskeyword(public) else public


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _stack(tensors: Collection[Tensor], device: torch.device) -> Tensor:
    """A fresh float32 tensor [models, ...], each source read once."""
    shape = next(iter(tensors)).shape
    stack = torch.empty(len(tensors), *shape, dtype=torch.float32, device=device)
    for slot, tensor in zip(stack, tensors, strict=True):
        slot.copy_(tensor)
    return stack
