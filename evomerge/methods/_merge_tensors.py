"""``merge_tensors`` and ``merge_states``: a merge of given tensors, everything checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from evomerge.errors import InputError
from evomerge.factors import Factors
from evomerge.methods._method import Inputs, Method, Stats
from evomerge.methods._registry import get
from evomerge.tensors import Place


def merge_tensors(
    method: str | Method,
    models: Mapping[str, Tensor],
    *,
    base: Tensor | None = None,
    parameters: Mapping[str, Any] | None = None,
    stats: Stats | None = None,
    seed: int = 0,
    name: str = "",
    role: str | None = None,
    noise: Mapping[str, Tensor] | None = None,
    factors: Mapping[str, tuple[Tensor, Tensor]] | None = None,
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
        factors: model -> (left [rows, rank], right [rank, columns]) whose product is the model's delta, for
            methods that merge adapters; scales (alpha / r) are part of them. A model that has some need not be
            among ``models``.

    Returns:
        The full merged tensor [*shape] (base included) in float32.

    Raises:
        InputError: unknown method or parameter, value out of range, wrong number of models, base
            missing or superfluous, tensors that do not fit together, a required statistic missing.
    """
    held = {
        model: Factors(left.float(), right.float())
        for model, (left, right) in (factors or {}).items()
    }
    if base is not None:
        models = {
            **models,
            **{m: base.float() + f.product for m, f in held.items() if m not in models},
        }
    merged = merge_states(
        method,
        {model: {name: tensor} for model, tensor in models.items()},
        base=None if base is None else {name: base},
        parameters=parameters,
        stats=None if stats is None else {name: stats},
        seed=seed,
        places={name: Place(None, _role_of(name) if role is None else role)},
        noise=None if noise is None else {name: noise},
        factors=None if factors is None else {name: held},
    )
    return merged[name]


def merge_states(
    method: str | Method,
    models: Mapping[str, Mapping[str, Tensor]],
    *,
    base: Mapping[str, Tensor] | None = None,
    parameters: Mapping[str, Any] | None = None,
    stats: Mapping[str, Stats] | None = None,
    seed: int = 0,
    places: Mapping[str, Place] | None = None,
    noise: Mapping[str, Mapping[str, Tensor]] | None = None,
    factors: Mapping[str, Mapping[str, Factors]] | None = None,
) -> dict[str, Tensor]:
    """Merge whole models with one method: as ``merge_tensors``, for methods that look at all tensors.

    Args:
        method: a method or its name.
        models: model name -> tensor name -> tensor; all with the first one's names.
        base: tensor name -> tensor, where the method takes a base.
        parameters: parameter -> value.
        stats: tensor name -> statistic -> model -> tensor.
        seed: recipe seed.
        places: tensor name -> role and depth; the role is read off the name if not given.
        noise: tensor name -> model -> uniforms.
        factors: tensor name -> model -> those of its delta.

    Returns:
        Tensor name -> merged tensor, float32.

    Raises:
        InputError: as ``merge_tensors``.
    """
    method = get(method) if isinstance(method, str) else method
    if problem := method.arity_problem(len(models), base is not None):
        raise InputError(problem)
    if base is not None and method.base == "none":
        raise InputError(
            f"{method.name} takes no base; leave it out, or list it among the models to merge it"
        )
    values = method.check(parameters or {}, tuple(models))
    given: dict[str, Inputs] = {}
    for name in next(iter(models.values())):
        each = {model: state[name] for model, state in models.items()}
        own = None if base is None else base[name]
        _check_tensors(method.name, each, own)
        extra: dict[str, Mapping[str, object]] = {}
        extra |= {k: found for k, found in (stats or {}).get(name, {}).items() if found is not None}
        draws = (noise or {}).get(name)
        if draws is not None:
            _check_tensors(f"{method.name}: noise", draws, next(iter(each.values())))
            extra["noise"] = draws
        if (held := (factors or {}).get(name)) is not None:
            _check_factors(method, held, next(iter(each.values())))
            extra["factors"] = held
        for what, found in extra.items():
            if missing := [model for model in each if model not in found]:
                raise InputError(f"{method.name}: {what}: nothing for model {', '.join(missing)}")
        given[name] = Inputs(
            models=each,
            values=values,
            base=own,
            seed=seed,
            name=name,
            place=(places or {}).get(name) or Place(None, _role_of(name)),
            noise=draws,
            stats=(stats or {}).get(name),
            factors=held,
        )
    totals = survey(method, given.values())
    return {name: method.apply(replace(one, totals=totals)) for name, one in given.items()}


def survey(method: Method, tensors: Iterable[Inputs]) -> tuple[Tensor, ...]:
    """The totals of the method's surveys over ``tensors``."""
    totals: list[Tensor] = []
    for number in range(len(method.surveys)):
        total: Tensor | None = None
        for one in tensors:
            found = method.survey(number, replace(one, totals=totals))
            if found is None:
                break  # these parameters need none
            total = found if total is None else total + found
        if total is not None:
            totals.append(total)
    return tuple(totals)


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


def _check_factors(method: Method, factors: Mapping[str, Factors], tensor: Tensor) -> None:
    """Refuse factors that the method does not take, or whose product is no delta of ``tensor``."""
    if not method.of_adapters:
        raise InputError(
            f"{method.name} does not merge factors; leave them out, and give the models' tensors"
        )
    for model, each in factors.items():
        left, right = list(each.left.shape), list(each.right.shape)
        if len(left) != 2 or len(right) != 2 or left[1] != right[0] or each.shape != tensor.shape:
            raise InputError(
                f"{method.name}: factors: {model}: their shapes are {left} and {right}; expected [rows, rank] and "
                f"[rank, columns] of a tensor {list(tensor.shape)}"
            )


def _role_of(name: str) -> str:
    """The roles that matter where no model's naming scheme is known."""
    if name.endswith("embed_tokens.weight"):
        return "embed"
    return "head" if name.endswith("lm_head.weight") else "other"
