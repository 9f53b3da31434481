"""The materializer: merges recipes over the same parents, one after the other.

One task a tensor; every consumer (a resident model, a folder on disk) takes the same tasks, so a
recipe gives the same bytes everywhere, on any number of threads. What merges of the same parents
share is kept between them, and a tensor that the last recipe merged the same way is left alone.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge import methods
from evomerge.checkpoint import DTYPES, tensor_bytes
from evomerge.errors import CandidateFailed, Incompatible
from evomerge.lines import LINES
from evomerge.merging.blueprint import Blueprint, Site
from evomerge.merging.in_flight import InFlight
from evomerge.merging.remembered import remembered
from evomerge.merging.tally import Tally
from evomerge.parents import Parents
from evomerge.parents.adapters import check_adapters, deltas_in_factors, groups_of
from evomerge.parents.statistics import Statistics
from evomerge.recipe import BASE, Group, Recipe, check_named, check_rows, passing
from evomerge.rows import COLUMNS, Array
from evomerge.skeleton.conversion import views

if TYPE_CHECKING:
    import torch

PATHS = 64  # of the last candidates, whose outlines are kept


@dataclass(frozen=True)
class _Task:
    """One tensor's merge: everything that decides its bytes."""

    site: Site
    group: Group
    totals: tuple[torch.Tensor, ...]
    signature: str


class Materializer:
    """Merges candidates over ``parents``.

    Attributes:
        outline: what a merge looks like whose recipe has a path; without one, what all others do.
        heard: is called after each tensor that was merged, by several threads.

    Args:
        parents: the opened models.
        device: where kernels run; those of a tensor that a resident model has on another device run there.
        threads: tensors merged at a time, each on one core.
        memory: bytes for what candidates share (see ``FactStore``); 0 keeps nothing, for a single
            merge.
    """

    def __init__(
        self,
        parents: Parents,
        *,
        device: str = "cpu",
        threads: int = 1,
        memory: int = 0,
    ) -> None:
        self._parents, self._device = parents, device
        self.outline = lru_cache(PATHS)(partial(Blueprint.of, parents))
        self.facts = methods.FactStore(memory)
        self.heard: Callable[[], None] = lambda: None
        self._statistics = Statistics(parents)
        self._threads = threads if device == "cpu" else 1
        self._resident: dict[str, str] = {}  # tensor -> signature of its merge in the last model
        self._model: Callable[[], Any] = lambda: None  # held by whoever runs it
        self._live: Mapping[str, torch.Tensor] = {}  # its memory, by the names of sites
        self._spread = False  # whether that lies on several devices

    def into(self, recipe: Recipe, model: Any) -> None:
        """Merge ``recipe`` into the parameters of ``model``; see ``merge_into``.

        The same model again: only tensors that the recipe merges otherwise than the last one did are
        merged. Nothing else may write to it between.

        Raises:
            Incompatible: no group of the recipe matches a tensor, or the model has other parameters.
            NotMeasured: a statistic that the recipe requires is not in the cache.
            CheckpointError: a parent's file is not the one that was opened.
            CandidateFailed: a merged tensor is not finite, or has no result.
        """
        import torch

        outline = self.outline(recipe.body.path)
        if model is not self._model():
            self._take(model)
        parameters = self._live
        _check_fit(parameters, outline)
        dtype = getattr(torch, recipe.dtype)
        room = _Room(dtype)
        tasks = [
            task
            for task in self._tasks(recipe)
            if task.site.name in parameters and self._resident.get(task.site.name) != task.signature
        ]
        for task in tasks:  # until it is merged again, nothing is known of what the tensor holds
            self._resident.pop(task.site.name, None)

        def merge(task: _Task) -> None:
            parameter = parameters[task.site.name]
            # rounded to the recipe's dtype first, as on disk
            fits = parameter.dtype == dtype and parameter.is_contiguous()
            out = parameter if fits else room.of(parameter.shape, self._device_of(task.site))
            self._merge(recipe, task, out)
            if out is not parameter:
                parameter.copy_(out)
            self._resident[task.site.name] = task.signature

        self._each(merge, tasks)

    def each(
        self,
        recipe: Recipe,
        take: Callable[[str, torch.Tensor], None],
        *,
        tally: Tally | None = None,
        only: Collection[str] | None = None,
        limit: int | None = None,
    ) -> None:
        """Hand every merged tensor of ``recipe`` to ``take``, in no order, from several threads.

        The tensor is on the CPU, in the recipe's dtype, and its memory is used again afterwards.

        Args:
            recipe: what to merge.
            take: gets a tensor's name and the tensor.
            tally: counts what rounding takes.
            only: names of the tensors that are merged, as if there were no others; None: all.
            limit: bytes that all tensors under way take together, about, unless one alone takes more; None: any.
        """
        import torch

        room, under_way = _Room(getattr(torch, recipe.dtype)), InFlight(limit)

        def merge(task: _Task) -> None:
            with under_way.hold(self._size(recipe, task), waiting=room.clear):
                out = room.of(task.site.shape, self._device_of(task.site))
                self._merge(recipe, task, out, tally)
                take(task.site.name, out.cpu())

        self._each(merge, self._tasks(recipe, only))

    def forms(
        self,
        recipe: Recipe,
        take: Callable[[Site, methods.Form], None],
        only: Collection[str] | None = None,
    ) -> None:
        """Hand what the merge of every tensor is to ``take``, in no order, from several threads; see ``methods.Form``.

        ``only``: names of the tensors that are merged, as if there were no others; None: all.
        """

        def form(task: _Task) -> None:
            method, scale = methods.get(task.group.method), task.group.scale(task.site.place)
            take(task.site, method.form(self._given(recipe, task), scale=scale))

        self._each(form, self._tasks(recipe, only))

    def tangents(
        self, recipe: Recipe
    ) -> Callable[[str], Iterator[tuple[str, str | None, torch.Tensor]]]:
        """By the name of a tensor: its derivatives by the recipe's coefficients.

        They are ``Method.tangents``, and where a line over depth scales what changes in the base, the
        derivative by that factor, called ``lines``.
        """
        import torch

        tasks = {task.site.name: task for task in self._tasks(recipe)}

        def of(name: str) -> Iterator[tuple[str, str | None, torch.Tensor]]:
            task = tasks[name]
            parts = [_tangents(task, given) for given in self._parts(recipe, task)]
            for together in zip(*parts, strict=True):
                parameter, model, tangent = together[0]
                if tuple(tangent.shape) != task.site.shape:
                    tangent = torch.stack([each for _, _, each in together])
                factor = task.site.factor
                yield parameter, model, tangent if factor == 1.0 else tangent * factor

        return of

    def row_tangents(self, recipe: Recipe) -> Callable[[str], Iterator[tuple[str, torch.Tensor]]]:
        """By the name of a tensor: its derivatives by row weights, see ``Method.row_tangents``."""
        tasks = {task.site.name: task for task in self._tasks(recipe)}

        def of(name: str) -> Iterator[tuple[str, torch.Tensor]]:
            task = tasks[name]
            method = methods.get(task.group.method)
            if method.by_row:
                given, scale = self._given(recipe, task), task.group.scale(task.site.place)
                for model, tangent in method.row_tangents(given, scale=scale):
                    yield model, tangent * task.site.factor

        return of

    def _take(self, model: Any) -> None:
        """Write into ``model`` from now on. What it shares with the last one's memory holds what it held."""
        held = {_memory(self._live[name]): merged for name, merged in self._resident.items()}
        self._model, self._live = weakref.ref(model, self._gone), views(model)
        self._spread = len({tensor.device for tensor in self._live.values()}) > 1
        memory = {name: _memory(tensor) for name, tensor in self._live.items()}
        self._resident = {name: held[at] for name, at in memory.items() if at in held}

    def _gone(self, model: weakref.ref[Any]) -> None:
        """The last model is gone: its memory is not held for its views' sake."""
        if model is self._model:
            self._live, self._resident = {}, {}

    # -- tasks -----------------------------------------------------------------------------------

    def _tasks(self, recipe: Recipe, only: Collection[str] | None = None) -> list[_Task]:
        """One task a tensor, the biggest first, so that no thread is left with one at the end.

        Every merge begins with it: parents that changed meanwhile are told before they are read.
        """
        for parent in self._parents.models.values():
            parent.check_unchanged()
        self._statistics.require(recipe)
        check_adapters(self._parents, groups_of(recipe))
        outline = self.outline(recipe.body.path)
        merge = outline.merge
        check_rows(recipe, merge.shapes, merge.places)
        groups: dict[int, tuple[Group, list[Site]]] = {}
        for site in merge.sites:
            group = recipe.group_of(site.place)
            if group is None:
                raise Incompatible(
                    f"no group of the recipe matches {site.name!r} (layer {site.place.layer}, role "
                    f"{site.place.role}); end the list of groups with one that has neither layers nor roles nor "
                    "tensors"
                )
            if only is None or site.name in only:
                groups.setdefault(id(group), (group, []))[1].append(site)
        check_named(recipe, merge.names, merge.ties)
        alone = {hop.model: passing(hop.model) for hop in outline.path if hop.model}
        for group in alone.values():
            groups[id(group)] = group, []
        prepared: dict[int, tuple[tuple[torch.Tensor, ...], str]] = {}
        for number, (group, members) in groups.items():
            totals = self._survey(recipe, group, members)
            common = f"{group.method} {group.models} {sorted(group.values.items())} {recipe.seed} {recipe.dtype}"
            if recipe.body.data and methods.get(group.method).statistics:
                common += f" {recipe.body.data.digest}"
            digest = hashlib.sha256(common.encode())
            for total in totals:
                digest.update(total.numpy().tobytes())
            prepared[number] = totals, digest.hexdigest()
        tasks = []
        for site in outline.sites:
            if only is not None and site.name not in only:
                continue
            found = alone[site.model] if site.model else recipe.group_of(site.place)
            assert found is not None
            totals, common = prepared[id(found)]
            signature = f"{common} {found.scale(site.place)} {site.place.tensor} {site.factor}"
            for model, factors in _factors_of(recipe, site).items():
                sha256 = hashlib.sha256(factors.tobytes()).hexdigest()
                signature += f" {model} {factors.shape} {sha256}"
            tasks.append(_Task(site, found, totals, signature))
        return sorted(tasks, key=lambda task: -math.prod(task.site.shape))

    def _survey(
        self, recipe: Recipe, group: Group, members: list[Site]
    ) -> tuple[torch.Tensor, ...]:
        """What the group's method wants to know of all its tensors."""
        method = methods.get(group.method)
        if not method.surveys:
            return ()
        with _one_torch_thread():
            return methods.survey(method, _Members(self, recipe, group, members))

    def _inputs(self, recipe: Recipe, group: Group, site: Site) -> methods.Inputs:
        """What the merge of one tensor depends on, but for the totals of surveys."""
        import torch

        reads_base = group.needs_base and recipe.base is not None
        rows = {name: torch.from_numpy(each) for name, each in _factors_of(recipe, site).items()}
        factors = None
        if methods.get(group.method).of_adapters:
            factors = deltas_in_factors(self._parents, group.models, site.origin)
        # what is held in factors is not multiplied out only to be left unread
        read = {model: BASE if factors else model for model in group.models}
        return methods.Inputs(
            models={model: self._tensor(own, site) for model, own in read.items()},
            values=group.values,
            base=self._tensor(BASE, site) if reads_base else None,
            seed=recipe.seed,
            name=site.place.tensor,
            place=site.place,
            facts=self.facts,
            stats=self._statistics.of(group, site.origin, recipe.body.data),
            rows=rows or None,
            factors=factors,
        )

    def _tensor(self, model: str, site: Site) -> torch.Tensor:
        """A parent's tensor on the device; what had to be computed or moved is kept if it fits."""
        parents, name, device = self._parents, site.origin[model], self._device_of(site)
        if device == "cpu" and parents.mapped(model, name):
            return parents.tensor(model, name)
        return self.facts.get(
            ("tensor", model, name, device), lambda: parents.tensor(model, name).to(device)
        )

    def _size(self, recipe: Recipe, task: _Task) -> int:
        """Bytes that the merge of a tensor takes, about: of its result, of what is no file's, and of what its method
        works with."""
        site, group = task.site, task.group
        computed = sum(
            not self._parents.mapped(model, site.origin[model]) for model in group.models
        )
        copies = methods.get(group.method).copies * (len(group.models) + 1)
        part = site.shape[1:] if site.packed else site.shape  # experts are merged one by one
        entries = computed * math.prod(site.shape) + copies * math.prod(part)
        return tensor_bytes(site.shape, recipe.dtype) + 4 * entries

    def _device_of(self, site: Site) -> str:
        """Where a tensor is merged: in a resident model of several devices on its own."""
        live = self._live.get(site.name) if self._spread else None
        return self._device if live is None else str(live.device)

    def _given(self, recipe: Recipe, task: _Task) -> methods.Inputs:
        """What the merge of a tensor depends on."""
        return replace(self._inputs(recipe, task.group, task.site), totals=task.totals)

    def _parts(self, recipe: Recipe, task: _Task) -> Iterator[methods.Inputs]:
        """The same; of packed experts, one after the other."""
        yield from _apart(task.site, self._given(recipe, task))

    def _merge(
        self, recipe: Recipe, task: _Task, out: torch.Tensor, tally: Tally | None = None
    ) -> None:
        site, method = task.site, methods.get(task.group.method)
        scale = task.group.scale(site.place)
        wanted = tally is not None and tally.wants(site.name)
        for number, given in enumerate(self._parts(recipe, task)):
            part = out if given.name == site.place.tensor else out[number]
            look = None
            if tally and wanted and number == 0:  # of packed experts, one stands for all
                known = given.base if tally.origin == BASE else given.models.get(tally.origin)
                if known is None:
                    whole = self._tensor(tally.origin, site)
                    known = whole if part is out else whole[number]
                share = known.numel() / max(1, out.numel())
                look = partial(tally.look, site.name, known, share=share)
            if site.factor == 1.0:
                _, finite = method.run(given, scale=scale, out=part, look=look)
            else:  # rounded once, behind it
                exact, _ = method.run(given, scale=scale)
                part.copy_(exact.mul_(site.factor).view(part.shape))
                finite = bool(part.isfinite().all())
            if not finite:
                raise CandidateFailed(
                    f"{site.name} of the merged model holds {self._why_not_finite(task, given, recipe.dtype)}"
                )
        self.heard()

    def _why_not_finite(self, task: _Task, given: methods.Inputs, dtype: str) -> str:
        """What a merged tensor holds that is no finite number of ``dtype``."""
        import torch

        exact, finite = methods.get(task.group.method).run(
            given, scale=task.group.scale(task.site.place)
        )
        if not finite:
            return "NaN or infinite values"
        holding = [n for n in DTYPES if exact.to(getattr(torch, n)).isfinite().all()]
        return (
            f"values up to {exact.abs().max():.4g}, which {dtype} cannot: it ends at "
            f"{torch.finfo(getattr(torch, dtype)).max:.4g}. Merge in {' or '.join(sorted(holding))}, which can"
        )

    def _each(self, merge: Callable[[_Task], None], tasks: list[_Task]) -> None:
        """Run the tasks, several at a time; the first failure stops the rest."""
        with _one_torch_thread():
            if self._threads == 1:
                for task in tasks:
                    merge(task)
            else:
                pool = ThreadPoolExecutor(self._threads, initializer=_set_one_thread)
                try:
                    for _ in pool.map(merge, tasks):
                        pass
                finally:
                    pool.shutdown(cancel_futures=True)
        if self.facts.dropped and self.facts.limit:
            warnings.warn(
                f"what candidates share takes more than {self.facts.limit / 2**30:.1f} GB, so part of it "
                "is computed again for each; more memory a worker would make merging faster",
                RuntimeWarning,
                stacklevel=2,
            )


@dataclass(frozen=True)
class Merge:
    """What an engine loads: a recipe, merged by ``materializer`` while its weights are taken."""

    materializer: Materializer
    recipe: Recipe

    @property
    def outline(self) -> Blueprint:
        """What the merged model looks like."""
        return self.materializer.outline(self.recipe.body.path)

    def into(self, model: Any) -> None:
        """See ``Materializer.into``."""
        self.materializer.into(self.recipe, model)

    def each(self, take: Callable[[str, torch.Tensor], None]) -> None:
        """See ``Materializer.each``."""
        self.materializer.each(self.recipe, take)

    @cached_property
    def tangents(self) -> Callable[[str], Iterator[tuple[str, str | None, torch.Tensor]]]:
        """See ``Materializer.tangents``; one scorer after the other asks for them."""
        return remembered(self.materializer.tangents(self.recipe))

    @cached_property
    def row_tangents(self) -> Callable[[str], Iterator[tuple[str, torch.Tensor]]]:
        """See ``Materializer.row_tangents``; likewise."""
        return remembered(self.materializer.row_tangents(self.recipe))


def _apart(site: Site, given: methods.Inputs) -> Iterator[methods.Inputs]:
    """A tensor's inputs; of packed experts those of each, but where row weights are of the packed tensor, which
    only what is linear has."""
    yield from given.slices if site.packed and not given.rows else (given,)


def _tangents(task: _Task, given: methods.Inputs) -> Iterator[tuple[str, str | None, torch.Tensor]]:
    method = methods.get(task.group.method)
    if not method.smooth and task.group.lines is None:
        return
    yield from method.tangents(given, scale=task.group.scale(task.site.place))
    if task.group.lines is not None and given.base is not None:
        whole, _ = method.run(given)
        yield LINES, None, whole - given.base.float()


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Where a tensor lies, as long as it is held."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def _check_fit(parameters: Mapping[str, torch.Tensor], outline: Blueprint) -> None:
    """Refuse a model whose parameters are not the merged ones."""
    problems = []
    for name, expected in outline.shapes.items():
        if name not in parameters:
            # files may hold heads for more tokens, which no model of transformers has; and a block that a path has
            # twice may lie in memory once
            fine = outline.places[name].role == "tower" or name in outline.again
            problems += [] if fine else [f"it has no {name}"]
        elif tuple(parameters[name].shape) != expected:
            problems.append(f"{name} is {tuple(parameters[name].shape)}, merged {expected}")
    problems += [
        f"it has {n}, the merged one has not" for n in parameters if n not in outline.shapes
    ]
    if problems:
        shown = "\n  ".join(problems[:5])
        raise Incompatible(
            f"the model does not fit the merged one ({len(problems)} differences):\n  {shown}"
        )


def _factors_of(recipe: Recipe, site: Site) -> Mapping[str, Array]:
    """Source -> row weights of a tensor, where the recipe has any: [rows], or [1, columns] of a matrix."""
    rows = recipe.body.rows
    if rows is None or site.model:
        return {}
    found = rows.vectors.get(site.place.tensor, {})
    if rows.by == COLUMNS and len(site.shape) > 1:
        return {model: factors[None] for model, factors in found.items()}
    return found


class _Room(threading.local):
    """Memory for one result, used again for the next: every thread has its own."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._memory: dict[str, torch.Tensor] = {}

    def of(self, shape: Sequence[int], device: str) -> torch.Tensor:
        """A contiguous tensor on ``device`` that holds anything; the last one there is gone."""
        import torch

        size, known = math.prod(shape), self._memory.get(device)
        # the largest tensors come first: what they took is given back soon after
        if known is None or not size <= known.numel() <= 2 * size:
            known = None
            self._memory.pop(device, None)
            known = self._memory[device] = torch.empty(size, dtype=self._dtype, device=device)
        return known[:size].view(tuple(shape))

    def clear(self) -> None:
        """Hold none."""
        self._memory.clear()


class _Members:
    """The tensors of a group as a survey goes through them, as often as it wants."""

    def __init__(
        self,
        materializer: Materializer,
        recipe: Recipe,
        group: Group,
        members: list[Site],
    ) -> None:
        self._materializer, self._recipe, self._group = materializer, recipe, group
        self._members = members

    def __iter__(self) -> Iterator[methods.Inputs]:
        for site in self._members:
            yield from _apart(site, self._materializer._inputs(self._recipe, self._group, site))


def shared_memory(threads: int = 1) -> int:
    """Bytes for what candidates share, by default: of a quarter of the machine's memory, the share of
    a process that has ``threads`` of its cores."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # a container's limit; "max" is none
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return int(memory / 4 * min(1.0, threads / (os.cpu_count() or 1)))


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Torch on one core, for bytes that do not depend on the number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _set_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
