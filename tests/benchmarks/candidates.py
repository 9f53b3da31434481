"""Candidates made by evomerge in process, timed: one process a method, so that the first is cold.

    PYTHON candidates.py TOY_FAMILY FAMILY METHOD WARM

prints a JSON object (``measure``).
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from families import MODELS

from evomerge import methods
from evomerge.checkpoint import ModelRef
from evomerge.merging import Materializer, shared_memory
from evomerge.merging.blueprint import Blueprint
from evomerge.params import Real
from evomerge.parents import Parents
from evomerge.recipe import Body, Recipe, group

# narrower than declared, so that every method, mergekit's too, takes every value
RANGES = {"density": (0.3, 0.7), "epsilon": (0.05, 0.15), "weight": (0.2, 1.2)}


def values(method: str, number: int) -> dict[str, Any]:
    """Searched parameters of candidate ``number``: every real one has another value each time."""
    drawn: dict[str, Any] = {}
    for parameter in methods.get(method).parameters:
        domain = parameter.domain
        if not (parameter.searched and isinstance(domain, Real)):
            continue

        def draw(model: str, name: str = parameter.name, domain: Real = domain) -> float:
            gene = random.Random(f"{name} {model} {number}").random()
            low, high = RANGES.get(name, (domain.low, domain.high))
            return Real(low, high, default=None, scale=domain.scale).decode(gene)

        models = sources_of(method)
        drawn[parameter.name] = (
            {model: draw(model) for model in models} if parameter.per_model else draw("")
        )
    return drawn


def sources_of(method: str) -> tuple[str, ...]:
    """As many of the family's sources as the method takes."""
    most = methods.get(method).max_models or 3
    return tuple(MODELS[1 : 1 + most])


def recipe(family: Path, method: str, number: int) -> Recipe:
    models = sources_of(method)
    return Recipe(
        ModelRef(str(family / "base")),
        {model: ModelRef(str(family / model)) for model in models},
        Body((group(method, models, values(method, number)),)),
    )


class Resident:
    """A model as the materializer sees it: parameters in memory that was touched before."""

    def __init__(self, parents: Parents) -> None:
        self._parameters = {
            name: torch.nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16), requires_grad=False)
            for name, shape in Blueprint.of(parents).shapes.items()
        }

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return iter(self._parameters.items())


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """CPU seconds, wall seconds and page faults of a piece of work."""
    before, wall, cpu = _faults(), time.perf_counter(), time.process_time()
    work()
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "faults": _faults() - before,
    }


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def bandwidth() -> float:
    """Bytes read and written per second by one thread that copies: the median of several copies."""
    source, target = torch.ones(1 << 26), torch.zeros(1 << 26)
    seconds = [timed(lambda: target.copy_(source))["cpu"] for _ in range(7)]
    return 2 * source.numel() * source.element_size() / statistics.median(seconds)


def rebuilding(parents: Parents) -> float:
    """CPU seconds of one matrix product for each matrix, as rebuilding it from its factors takes."""
    seconds = 0.0
    for shape in Blueprint.of(parents).shapes.values():
        if len(shape) == 2:
            inner = min(shape)
            left, right = torch.ones(shape[0], inner), torch.ones(inner, shape[1])
            out = torch.zeros(shape)
            left @ right[:, :8]  # warm
            seconds += timed(partial(torch.mm, left, right, out=out))["cpu"]
    return seconds


def measure(toy: Path, family: Path, method: str, warm: int) -> dict[str, Any]:
    """What candidates of a method cost.

    Returns:
        compile: CPU seconds of two merges of tiny models: imports and compilation.
        first: the first candidate of the family, with everything compiled.
        warm: later ones, every parameter new each time, on one thread.
        two: the same on two threads.
        bytes: of all parents that the method reads and of the result.
        bandwidth: of copying, bytes per second.
        rebuilding: see there.
    """
    torch.set_num_threads(1)
    speed = bandwidth()

    def candidates(folder: Path, parents: Parents, threads: int) -> Callable[[int], None]:
        maker = Materializer(parents, threads=threads, memory=shared_memory())
        return lambda number: maker.into(recipe(folder, method, number), models[number % 2])

    parents = Parents.open(recipe(toy, method, 0))
    models = [
        Resident(parents),
        Resident(parents),
    ]  # in turns: no tensor is as the last merge left it
    make = candidates(toy, parents, threads=1)
    compiling = [timed(partial(make, number)) for number in (0, 1)]
    parents = Parents.open(recipe(family, method, 0))
    models = [Resident(parents), Resident(parents)]
    make = candidates(family, parents, threads=1)
    first = timed(partial(make, 0))
    later = [timed(partial(make, number)) for number in range(1, 1 + warm)]
    two = []
    if first["cpu"] < 60:
        make = candidates(family, parents, threads=2)
        make(0)
        two = [timed(partial(make, number)) for number in (1, 2)]
    result = sum(p.numel() * p.element_size() for _, p in models[0].named_parameters())
    spectral = method.startswith(("iso", "tsvm"))
    return {
        "compile": sum(each["cpu"] for each in compiling),
        "first": first,
        "warm": later,
        "two": two,
        "bytes": result * (len(parents.models) + 1),
        "bandwidth": max(speed, bandwidth()),
        "rebuilding": rebuilding(parents) if spectral else 0.0,
    }


if __name__ == "__main__":
    toy, family, method, warm = sys.argv[1:]
    print(json.dumps(measure(Path(toy), Path(family), method, int(warm))))
