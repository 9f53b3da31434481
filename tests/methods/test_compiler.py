"""Compiled passes are kept between processes, and what is kept costs time at worst."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import hashlib, json, torch
from evomerge.methods import merge_tensors
from evomerge.methods.kernel import compiler

draws = torch.Generator().manual_seed(0)
base, *sources = (torch.randn(200, 200, generator=draws).bfloat16() for _ in range(4))
models = {f"m{i}": source for i, source in enumerate(sources)}
digest = hashlib.sha256()
for method in ("task_arithmetic", "sce"):
    merged = merge_tensors(method, models, base=base, name="w")
    digest.update(merged.numpy().tobytes())
print(json.dumps([digest.hexdigest(), *compiler.counts()]))
"""


def merged(cache: Path) -> tuple[str, int, int]:
    """In a new process: the bytes of merges, how many passes it compiled and how many it loaded."""
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": path, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    digest, compiled, loaded = json.loads(done.stdout)
    return digest, compiled, loaded


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    digest, compiled, loaded = merged(tmp_path)
    assert compiled > 2 and loaded == 0
    assert merged(tmp_path) == (digest, 0, compiled)

    # what is broken is made again
    files = [path for path in (tmp_path / "evomerge").rglob("*") if path.is_file()]
    for number, path in enumerate(sorted(files)):
        path.write_bytes(path.read_bytes()[: (number % 3) * 40])
    assert merged(tmp_path) == (digest, compiled, 0)
    assert merged(tmp_path) == (digest, 0, compiled)

    # where nothing can be kept, nothing is
    nowhere = tmp_path / "file"
    nowhere.touch()
    assert merged(nowhere) == (digest, compiled, 0)
    assert nowhere.stat().st_size == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="a folder is never read-only to root")
def test_a_folder_that_cannot_be_written_costs_time_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    _, compiled, loaded = merged(tmp_path)
    assert compiled > 2 and loaded == 0
    assert not list(tmp_path.iterdir())
