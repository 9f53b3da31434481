"""``merge_tensors``: one merge of one tensor, everything checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from evomerge.errors import InputError
from evomerge.methods._method import Method
from evomerge.methods._registry import get


def merge_tensors(
    method: str | Method,
    models: Mapping[str, Tensor],
    *,
    base: Tensor | None = None,
    parameters: Mapping[str, Any] | None = None,
    stats: Mapping[str, Mapping[str, Tensor]] | None = None,
    seed: int = 0,
    name: str = "",
    role: str | None = None,
    noise: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Merge the tensors of some models with one method.

    Args:
        method: a method or its name.
        models: model name -> tensor [*shape] of any floating dtype; the order is the model order.
        base: the base model's tensor [*shape], where the method takes one.
        parameters: parameter -> value; a per-model one may be ``{model: value}`` or a sequence in
            model order. Those not given take their declared defaults.
        stats: statistic -> model -> tensor, for methods informed by data.
        seed: recipe seed; with ``name`` and a model's name it keys that model's random draw.
        name: the tensor's name.
        role: attn, mlp, norm, embed, head or other; read off ``name`` if not given.
        noise: model -> uniforms [*shape], to use instead of the keyed draw (an entry is kept where
            its uniform is below the density).

    Returns:
        The full merged tensor [*shape] (base included) in float32.

    Raises:
        InputError: unknown method or parameter, value out of range, wrong number of models, base
            missing or superfluous, tensors that do not fit together.
    """
    method = get(method) if isinstance(method, str) else method
    if problem := method.arity_problem(len(models), base is not None):
        raise InputError(problem)
    if base is not None and method.base == "none":
        raise InputError(
            f"{method.name} takes no base; leave it out, or list it among the models to merge it"
        )
    values = method.check(parameters or {}, tuple(models))
    _check_tensors(method.name, models, base)
    extra = dict(stats or {})
    if noise is not None:
        _check_tensors(f"{method.name}: noise", noise, next(iter(models.values())))
        extra["noise"] = noise
    for what, given in extra.items():
        if missing := [model for model in models if model not in given]:
            raise InputError(f"{method.name}: {what}: nothing for model {', '.join(missing)}")
    return method.apply(
        models,
        base=base,
        values=values,
        seed=seed,
        name=name,
        role=_role_of(name) if role is None else role,
        noise=noise,
        stats=stats,
    )


def _check_tensors(where: str, tensors: Mapping[str, Tensor], base: Tensor | None) -> None:
    named = [*tensors.items()] if base is None else [("base", base), *tensors.items()]
    for name, tensor in named:
        if not tensor.is_floating_point():
            raise InputError(f"{where}: {name}: expected a floating dtype, found {tensor.dtype}")
        if tensor.shape != named[0][1].shape:
            raise InputError(
                f"{where}: {name} has shape {list(tensor.shape)}, "
                f"{named[0][0]} has {list(named[0][1].shape)}; all must be equal"
            )


def _role_of(name: str) -> str:
    """The roles that matter where no model's naming scheme is known."""
    if name.endswith("embed_tokens.weight"):
        return "embed"
    return "head" if name.endswith("lm_head.weight") else "other"
