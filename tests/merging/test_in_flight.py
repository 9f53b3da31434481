"""Bytes under way are bounded, whatever the number of threads; a merge has the same bytes for all that."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evomerge import methods
from evomerge.checkpoint import ModelRef
from evomerge.merging import Materializer, open_parents
from evomerge.merging.in_flight import InFlight
from evomerge.recipe import Body, Recipe, group
from evomerge.testing.models import tiny_family

THREADS = 4


class Crowd:
    """Who is inside at a time: the bytes they hold, and how many they are."""

    def __init__(self) -> None:
        self._lock, self._now = threading.Lock(), dict[str, int]()
        self.most = self.many = 0

    def enter(self, name: str, size: int) -> None:
        with self._lock:
            self._now[name] = size
            self.most = max(self.most, sum(self._now.values()))
            self.many = max(self.many, len(self._now))

    def leave(self, name: str) -> None:
        with self._lock:
            del self._now[name]


def test_no_more_than_the_limit_is_held() -> None:
    crowd, bounded, waited = Crowd(), InFlight(10), list[int]()
    done = threading.Semaphore(0)

    def work(number: int) -> None:
        size = 1 + number % 5
        with bounded.hold(size, waiting=lambda: waited.append(number)):
            crowd.enter(str(number), size)
            done.release()
            crowd.leave(str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))
    assert crowd.most <= 10 and all(done.acquire(blocking=False) for _ in range(400))


def test_what_takes_more_than_all_works_alone_and_none_slips_past_it() -> None:
    bounded, order = InFlight(10), list[str]()
    inside, let_go, waits = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with bounded.hold(1):
            inside.set()
            assert let_go.wait(60)
            order.append("first")

    def other(name: str, size: int) -> None:
        with bounded.hold(size, waiting=waits.set):
            order.append(name)

    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(first)]
        assert inside.wait(60)
        asked.append(pool.submit(other, "large", 11))
        assert waits.wait(60)
        asked.append(pool.submit(other, "small", 1))  # would fit, but is behind it
        let_go.set()
        for each in asked:
            each.result(60)
    assert order == ["first", "large", "small"]


def test_a_failure_gives_back_what_was_held() -> None:
    bounded = InFlight(1)
    with pytest.raises(ValueError, match="broken"), bounded.hold(1):
        raise ValueError("broken")
    with bounded.hold(1, waiting=lambda: pytest.fail("it waits")):
        pass


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    family = tiny_family(tmp_path_factory.mktemp("crowd"), ("base", "a", "b"), dtype="bfloat16")
    models = {name: ModelRef(str(family[name])) for name in ("a", "b")}
    body = Body((group("ties", ("a", "b"), {"weight": 0.7, "density": 0.5}),))
    return Recipe(ModelRef(str(family["base"])), models, body, "bfloat16", tokenizer="base")


def test_a_merge_keeps_to_its_limit_and_to_its_bytes(recipe: Recipe) -> None:
    parents = open_parents(recipe)

    def merged(limit: int | None) -> tuple[dict[str, Tensor], int]:
        crowd, found = Crowd(), dict[str, Tensor]()
        both, turns = threading.Barrier(2), itertools.count()

        def take(name: str, tensor: Tensor) -> None:
            crowd.enter(name, 0)
            if limit is None and next(turns) < both.parties:
                both.wait(60)  # two at a time, or it breaks
            found[name] = tensor.clone()
            crowd.leave(name)

        Materializer(parents, threads=THREADS).each(recipe, take, limit=limit)
        return found, crowd.many

    free, many = merged(None)
    alone, one = merged(1)
    assert many > 1 and one == 1
    assert free.keys() == alone.keys()
    assert all(torch.equal(free[name], alone[name]) for name in free)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with matrices that are large beside the tiles that a pass works on."""
    names, shape = ("base", "a", "b"), {"hidden_size": 128, "intermediate_size": 1024}
    folder = tmp_path_factory.mktemp("large")
    return tiny_family(folder, names, dtype="bfloat16", num_hidden_layers=1, **shape)


TILES = 4 << 20  # bytes, at most, whatever is merged


@pytest.mark.parametrize(
    "method",
    ["arcee_fusion", "cabs", "iso_c", "iso_cts", "karcher", "multislerp", "nuslerp", "opcm", "sce", "svd_jitter", "ties", "tsvm", "twin", "widen"],
)  # fmt: skip
def test_a_merge_takes_no_more_than_is_reckoned(method: str, large: dict[str, Path]) -> None:
    """Of what torch allocates while a tensor is merged; its allocator tells."""
    models = ("a", "b")[: methods.get(method).max_models or 2]
    refs = {name: ModelRef(str(large[name])) for name in models}
    base = ModelRef(str(large["base"]))
    recipe = Recipe(base, refs, Body((group(method, models),)), "bfloat16", tokenizer="base")
    materializer = Materializer(open_parents(recipe))
    [task, *_] = materializer._tasks(recipe)
    reckoned = materializer._size(recipe, task)
    out = torch.empty(task.site.shape, dtype=torch.bfloat16)
    with torch.profiler.profile(profile_memory=True) as profiler:
        materializer._merge(recipe, task, out)
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    assert out.nbytes + most <= reckoned + TILES
