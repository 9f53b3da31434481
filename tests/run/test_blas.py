"""What a driver computes takes one thread of NumPy's libraries, whatever the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from evomerge.cli import main
from evomerge.commands.search import search
from evomerge.inference import importance
from evomerge.optimizers import get

DECOMPOSED = """
import hashlib
import numpy as np
from evomerge.blas import one_thread

genes = np.random.default_rng(0).random((100, 100))
with one_thread():
    values, vectors = np.linalg.eigh(genes @ genes.T)
print(hashlib.sha256(values.tobytes() + vectors.tobytes()).hexdigest())
"""


def threads() -> set[int]:
    """Of each library of linear algebra."""
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Threads in each ask and tell of an optimizer, and in each fit of a page."""
    found: list[set[int]] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*given: Any, **named: Any) -> Any:
            found.append(threads())
            return real(*given, **named)

        monkeypatch.setattr(owner, name, watched)

    for name in ("ask", "tell"):
        watch(get("cma"), name)
    watch(importance, "_features")
    return found


def test_a_decomposition_is_the_same_on_any_number_of_cores() -> None:
    digests = set()
    for count in ("1", "2", "4"):
        env = {**os.environ, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        run = subprocess.run(
            [sys.executable, "-c", DECOMPOSED], env=env, check=True, capture_output=True
        )
        digests.add(run.stdout)
    assert len(digests) == 1


@pytest.mark.slow
def test_a_search_and_its_page_take_one(
    run_folder: Callable[..., Path], seen: list[set[int]], tmp_path: Path
) -> None:
    job = {"budget": {"evaluations": 30}, "optimizer": {"name": "cma", "population": 6}}
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        folder = run_folder(**job)
        search(folder)
        asked = len(seen)
        main(["report", str(folder), "-o", str(tmp_path / "page.html")])
        assert threads() == before
    assert asked > 5
    assert len(seen) > asked
    assert set().union(*seen) <= {1}
