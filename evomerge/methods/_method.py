"""A merge method: its declaration, the check of its parameters, its application to one tensor."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from evomerge import seeds
from evomerge.errors import InputError, did_you_mean, one_of
from evomerge.params import Parameter, Value

Base = Literal["required", "optional", "none"]

# Checked parameters: public name -> value, or model -> value for a per-model one.
Values = Mapping[str, Value | Mapping[str, Value]]

# What a kernel may ask for by argument name, besides its parameters.
INPUTS = ("deltas", "tensors", "base", "noise", "role")

# The same for data collected once per source model, each [models, ...] float32,
# or None where a tensor has none (a norm has no Gram matrix).
STATISTICS = ("fisher", "gram", "mean_abs_activation")


@dataclass(frozen=True)
class Method:
    """A kernel with everything declared about it; made by ``merge_method``.

    ``inputs`` are the argument names of the kernel that are not parameters. ``elementwise``: an
    entry of the result depends on the same entry of the inputs only, so tiles may be merged apart.
    """

    name: str
    kernel: Callable[..., Tensor]
    base: Base
    elementwise: bool
    paper: str
    min_models: int
    max_models: int | None
    parameters: tuple[Parameter, ...]
    inputs: frozenset[str]
    doc: str
    summary: str

    @property
    def takes(self) -> str:
        """How many models, in words: ``"2 or more + base"``."""
        low, high = self.min_models, self.max_models
        count = (
            f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
        )
        return f"{count} + base" if self.base == "required" else count

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

    def check(self, values: Mapping[str, Any], models: Sequence[str]) -> Values:
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

    @torch.no_grad()
    def apply(
        self,
        models: Mapping[str, Tensor],
        *,
        base: Tensor | None = None,
        values: Values,
        seed: int = 0,
        name: str = "",
        role: str = "other",
        noise: Mapping[str, Tensor] | None = None,
        stats: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> Tensor:
        """The merge of one tensor, base included, in float32 on the device of the models.

        Nothing is validated here: ``values`` come from ``check``, the tensors are of one shape. Any
        floating dtype will do, since all are upcast before they are subtracted. An entry that is
        NaN in a source is NaN in the result.

        Args:
            models: model name -> tensor [*shape].
            base: the base model's tensor [*shape]; ignored if the kernel does not ask for it.
            values: checked parameters.
            seed: recipe seed; keys the noise, together with ``name`` and the models' names.
            name: the tensor's name.
            role: attn, mlp, norm, embed, head or other.
            noise: model -> uniforms [*shape], to use instead of the keyed draw.
            stats: statistic -> model -> tensor.
        """
        device = next(iter(models.values())).device
        stack = _stack(models.values(), device)
        given: dict[str, Any] = {"tensors": stack, "role": role, "base": None}
        if base is not None:
            given["base"] = base.to(device, torch.float32)
        if "deltas" in self.inputs:
            given["deltas"] = stack.sub_(given["base"])
        if "noise" in self.inputs:
            shape = stack.shape[1:]
            drawn = noise or {model: draw_noise(shape, seed, name, model) for model in models}
            given["noise"] = _stack([drawn[model] for model in models], device)
        for statistic in STATISTICS:
            found = (stats or {}).get(statistic)
            given[statistic] = found and _stack([found[model] for model in models], device)
        arguments = {argument: given[argument] for argument in self.inputs}
        for parameter in self.parameters:
            value = values[parameter.name]
            if isinstance(value, Mapping):
                # float64, so that counts such as int(density * n) see no float32 rounding; on the
                # CPU, because kernels use these few numbers one by one
                each = [value[model] for model in models]
                arguments[argument_name(parameter.name)] = torch.tensor(each, dtype=torch.float64)
            elif parameter.domain.kind == "real" and isinstance(value, int):
                arguments[argument_name(parameter.name)] = float(value)
            else:
                arguments[argument_name(parameter.name)] = value
        merged = self.kernel(**arguments)
        return given["base"] + merged if "deltas" in self.inputs else merged


def draw_noise(shape: torch.Size, seed: int, tensor: str, model: str) -> Tensor:
    """Uniforms in [0, 1) for one tensor of one model.

    Drawn on the CPU: the same on every device, in any order, whatever the other models are.
    """
    draw = seeds.uniforms(shape.numel(), seed, "noise", tensor, model)
    return torch.from_numpy(draw).reshape(shape)


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
