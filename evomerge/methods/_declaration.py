"""``@merge_method``: reads everything about a method from its kernel's signature and docstring."""

from __future__ import annotations

import inspect
import keyword
import re
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from evomerge.methods import _registry
from evomerge.methods._method import INPUTS, Base, Method, Need
from evomerge.params import Parameter, PerModel, Shared

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def merge_method(
    *,
    base: Base,
    paper: str,
    min_models: int = 1,
    max_models: int | None = None,
    name: str | None = None,
    surveys: tuple[Callable[..., Any], ...] = (),
    exempt: Mapping[str, str] | None = None,
    statistics: Mapping[str, Need] | None = None,
    by_default: str = "",
    smooth: Collection[str] = (),
    by_row: bool = False,
    copies: int | None = None,
) -> Callable[[Kernel], Kernel]:
    """Register a kernel as a merge method; the function itself stays as it is.

    The kernel is a pure function. Arguments with these names are inputs, given by the caller:

        deltas   [models, *shape]  sources minus base; the kernel returns the merged *delta*
        tensors  [models, *shape]  the sources; the kernel returns the merged tensor
        operands                   an ``Operands``: the tensors where they lie, with their facts;
                                   the kernel returns what ``entrywise`` makes, to be run in one pass
        base     [*shape]          the base model's tensor, None where it is optional and absent
        noise    [models, *shape]  uniforms in [0, 1), keyed by (recipe seed, tensor, model)
        role     str               attn, mlp, norm, embed, head or other
        layer    int | None        the tensor's block; ``layers``: how many there are
        facts                      a ``Facts``: ``facts.get(name, compute)`` keeps what does not depend
                                   on parameters for the next candidate
        totals   tuple of tensors  the sums of the method's ``surveys``
        factors  tuple | None      a ``Factors`` a model, whose product is its delta, where all deltas are held so: then
                                   nothing else tells of the models; the kernel may return the ``Factors`` of the
                                   merged delta

    and each of its ``statistics`` by name: [models, ...], or None for a tensor that has none. Tensors
    are float32, and exactly one of ``deltas``, ``tensors`` and ``operands`` is taken. An entry that is NaN
    or infinite in a source is NaN in the result, whatever a kernel makes of it. Every other argument
    is a parameter, annotated ``Annotated[type, PerModel(...)]`` (arrives as float64 [models] on the CPU) or
    ``Annotated[type, Shared(...)]`` (arrives as a plain value), and has a line under ``Args:``. A
    name that Python reserves takes a trailing underscore: ``lambda_`` declares ``lambda``.

    Args:
        base: whether the method needs the base model, can use it, or takes none.
        paper: where the method is described (URL).
        min_models: fewest source models, the base not counted.
        max_models: most source models; None for any number.
        name: the method's name if the function's is not it.
        surveys: functions of some of the kernel's arguments whose results (tensors of one shape, or
            None where the parameters need none) are summed over all tensors of the model; the kernel
            and later surveys see the sums as ``totals``.
        exempt: law -> why this method does not obey it; see ``evomerge.testing.methods``.
        statistics: statistic (see ``evomerge.parents.statistics``) -> ``required`` or ``optional``.
            Without one that is required the kernel never runs; an optional one may be None.
        by_default: the known recipe that the method is at its defaults, where it is one: scoring it,
            too, would be a waste.
        smooth: real parameters by which the result has a derivative (at fixed masks, where entries are
            trimmed or dropped), so that slopes can be taken by them. Not weights that elect a sign, which
            jumps.
        by_row: whether the result is linear in each model's ``weight``, and the kernel takes the weights from
            ``operands.weights``, so that a recipe may have row weights.
        copies: float32 copies of a tensor that the kernel works with at most, for each model and the base: so many
            tensors are merged at a time as there is memory for. Default: 1 where it takes ``operands``, else 4.

    Raises:
        TypeError: the signature does not follow these rules.
        ValueError: the name is taken, or a parameter has no ``Args`` line.
    """

    def register(kernel: Kernel) -> Kernel:
        method = name or kernel.__name__
        doc = inspect.getdoc(kernel) or ""
        inputs, parameters = _read_signature(method, kernel, _read_args(doc), {*(statistics or ())})
        _check_inputs(method, base, inputs)
        _check_statistics(method, statistics or {}, inputs)
        real = {parameter.name for parameter in parameters if parameter.domain.kind == "real"}
        if wrong := sorted({*smooth} - real):
            raise TypeError(f"method {method!r}: {wrong[0]!r} in smooth is no real parameter of it")
        _registry.add(
            Method(
                name=method,
                kernel=kernel,
                base=base,
                paper=paper,
                min_models=min_models,
                max_models=max_models,
                parameters=parameters,
                inputs=inputs,
                doc=doc,
                summary=doc.partition("\n\n")[0].replace("\n", " "),
                surveys=surveys,
                exempt=dict(exempt or {}),
                statistics=dict(statistics or {}),
                by_default=by_default,
                smooth=tuple(smooth),
                by_row=by_row,
                copies=(1 if "operands" in inputs else 4) if copies is None else copies,
            )
        )
        return kernel

    return register


def _read_signature(
    method: str, kernel: Callable[..., Any], docs: dict[str, str], statistics: Collection[str]
) -> tuple[frozenset[str], tuple[Parameter, ...]]:
    hints = typing.get_type_hints(kernel, include_extras=True)
    inputs, parameters = set(), []
    for argument in inspect.signature(kernel).parameters.values():
        where = f"method {method!r}, argument {argument.name!r}"
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            raise TypeError(f"{where}: a kernel names each of its arguments")
        if argument.default is not argument.empty:
            raise TypeError(f"{where}: the default belongs into the declared domain, nowhere else")
        if argument.name in INPUTS or argument.name in statistics:
            inputs.add(argument.name)
            continue
        scopes = [
            scope
            for scope in getattr(hints.get(argument.name), "__metadata__", ())
            if isinstance(scope, (PerModel, Shared))
        ]
        if len(scopes) != 1:
            raise TypeError(
                f"{where}: expected Annotated[type, PerModel(...) or Shared(...)], "
                f"one of the inputs {', '.join(INPUTS)}, or a statistic that the declaration names"
            )
        public = _public_name(argument.name)
        if public not in docs:
            raise ValueError(f"{where}: has no line '{public}: ...' under 'Args:' in the docstring")
        parameters.append(Parameter(public, scopes[0], docs[public]))
    return frozenset(inputs), tuple(parameters)


def _check_inputs(method: str, base: Base, inputs: frozenset[str]) -> None:
    if len(inputs & {"deltas", "tensors", "operands"}) != 1:
        raise TypeError(
            f"method {method!r}: takes exactly one of 'deltas', 'tensors' and 'operands'"
        )
    if base not in typing.get_args(Base):
        raise TypeError(
            f"method {method!r}: base is one of {typing.get_args(Base)}, found {base!r}"
        )
    if "deltas" in inputs and base != "required":
        raise TypeError(f"method {method!r}: 'deltas' need base=\"required\", found {base!r}")
    if "factors" in inputs and base != "required":
        raise TypeError(f"method {method!r}: 'factors' need base=\"required\", found {base!r}")
    if "base" in inputs and base == "none":
        raise TypeError(f"method {method!r}: takes 'base' but is declared with base=\"none\"")


def _check_statistics(method: str, statistics: Mapping[str, Need], inputs: frozenset[str]) -> None:
    for name, need in statistics.items():
        if need not in typing.get_args(Need):
            raise TypeError(
                f"method {method!r}: statistic {name!r} is one of {typing.get_args(Need)}, found {need!r}"
            )
        if name in INPUTS or name not in inputs:
            raise TypeError(f"method {method!r}: takes no argument for the statistic {name!r}")


def _read_args(doc: str) -> dict[str, str]:
    """Public name -> text of each entry in the ``Args:`` section of a docstring."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", doc, re.MULTILINE)
    if not section:
        return {}
    entries = re.findall(r"^ {4}(\w+): *((?:.|\n {5,})*)", section[1], re.MULTILINE)
    return {_public_name(name): " ".join(text.split()) for name, text in entries}


def _public_name(argument: str) -> str:
    bare = argument.removesuffix("_")
    return bare if keyword.iskeyword(bare) else argument
