"""Methods and a fourth optimizer, each one file of an installed package that nobody here knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.testing.drivers import Drivers

METHOD = '''
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from evomerge import merge_method
from evomerge.params import PerModel, Real, Shared


@merge_method(base="required", paper="none")
def tug(
    deltas: Float[Tensor, " models *shape"],
    pull: Annotated[Float[Tensor, " models"], PerModel(Real(0, 3, default=1))],
    grip: Annotated[float, Shared(Real(0.1, 0.9, default=0.5))],
) -> Float[Tensor, "*shape"]:
    """Pull the base towards each model.

    Args:
        deltas: task vectors [models, *shape].
        pull: how hard each model pulls.
        grip: how much the base gives way.

    Returns:
        The merged task vector [*shape].
    """
    return grip * sum(float(p) * d for p, d in zip(pull, deltas))
'''

# Cold methods: a kernel of whole tensors, one of entries, and one that loses what it should keep.
MEDIAN = '''
from jaxtyping import Float
from torch import Tensor

from evomerge import merge_method


@merge_method(base="required", paper="none")
def median(deltas: Float[Tensor, " models *shape"]) -> Float[Tensor, "*shape"]:
    """Take the median of the deltas."""
    return deltas.median(dim=0).values
'''

HUSH = '''
from typing import Annotated, NamedTuple

from jaxtyping import Float
from torch import Tensor

from evomerge import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise, where
from evomerge.methods.kernel.operands import Operands
from evomerge.params import PerModel, Real

QUIET = 0.001


class Voice(NamedTuple):
    volume: float
    least: float


@merge_method(base="required", paper="none")
def hush(
    operands: Operands,
    volume: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
) -> Entrywise:
    """Add up what is not quiet.

    Args:
        operands: the sources and the base.
        volume: of the model.
    """
    return entrywise(loud, [Voice(float(each), 0.5 * QUIET) for each in volume])


def loud(deltas, models):
    total = 0.0
    for d, m in zip(deltas, models):
        total = total + where(abs(d) > max_of(m.least, QUIET * 1.1), d, 0.0) * m.volume
    return total


def max_of(a, b):
    return where(a > b, a, b)
'''

LOUDEST = '''
import torch
from jaxtyping import Float
from torch import Tensor

from evomerge import merge_method


@merge_method(base="required", paper="none", exempt={"order": "the later of equals is taken"})
def loudest(deltas: Float[Tensor, " models *shape"]) -> Float[Tensor, "*shape"]:
    """Take the largest delta."""
    found = deltas[0]
    for delta in deltas[1:]:
        found = torch.where(found.abs() > delta.abs(), found, delta)
    return found
'''

CONTRACT = """
from evomerge.testing.methods import MethodContract


class TestMine(MethodContract):
    method = "{}"
"""

OPTIMIZER = '''
from evomerge import seeds
from evomerge.optimizers import Ask, canonical
from evomerge.optimizers.random import Random


class Stubborn(Random):
    """Never moves far from the middle."""

    name = "stubborn"

    def ask(self, count, batch):
        draws = seeds.generator(self.seed, "ask", batch).random((count, len(self.dims)))
        return [Ask(canonical(self.dims, row)) for row in (0.4 + 0.2 * draws).tolist()]
'''

METADATA = "Metadata-Version: 2.1\nName: tugboat\nVersion: 1.0\n"
ENTRY_POINTS = "[evomerge]\ntug = tugboat\n\n[evomerge.optimizers]\nstubborn = stubborn:Stubborn\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip leaves it: modules, and the metadata that names their entry points."""
    site = tmp_path / "site"
    (site / "tugboat-1.0.dist-info").mkdir(parents=True)
    (site / "tugboat.py").write_text(METHOD)
    (site / "stubborn.py").write_text(OPTIMIZER)
    (site / "tugboat-1.0.dist-info" / "METADATA").write_text(METADATA)
    (site / "tugboat-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


def evomerge(site: Path, *arguments: str, status: int = 0) -> str:
    """The standard output of an ``evomerge`` command that sees the plugin."""
    path = os.pathsep.join([str(site), *map(os.path.abspath, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "evomerge", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.fixture
def drivers(site: Path, tmp_path: Path) -> Iterator[Drivers]:
    made = Drivers(tmp_path, site)
    yield made
    made.close()


@pytest.mark.slow
def test_a_plugin_is_as_good_as_built_in(
    drivers: Drivers, run_folder: Callable[..., Path], family: dict[str, Path], tmp_path: Path
) -> None:
    assert "grip" in drivers.run("methods", "tug")
    declared = json.loads(drivers.run("methods", "tug", "--json"))
    assert declared["name"] == "tug"
    assert "tug" in drivers.run("methods")

    folder = run_folder(
        space={
            "methods": ["ties", "tug"],
            "method_gene": "group",
            "groups": {"layers": 2},
            "parameters": {"pull": {"range": [0, 2]}, "grip": 0.25},
            "start": ["uniform", "tug"],
        },
        optimizer={"name": "stubborn", "population": 4},
        budget={"evaluations": 13},
    )
    drivers.run("search", folder, "--ray", "off", "--quiet")
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    genes = events[0]["dims"]
    assert any("pull.chat" in gene for gene in genes) and not any("grip" in gene for gene in genes)
    candidates = {c["id"]: c for e in events if e["event"] == "batch" for c in e["candidates"]}
    origins = {c["origin"] for c in candidates.values()}
    assert {"tug", "stubborn"} <= origins
    tugs = [
        group
        for c in candidates.values()
        if c["origin"] == "stubborn"
        for group in c["body"]["groups"]
        if group["method"] == "tug"
    ]
    assert tugs and all(group["grip"] == 0.25 for group in tugs), "as the space says"
    assert all(0.8 <= group["pull"]["sea"] <= 1.2 for group in tugs), "the narrowed range's middle"
    assert all(e["error"] is None for e in events if e["event"] == "evaluation")
    assert events[-1]["event"] == "end"

    started = next(c["id"] for c in candidates.values() if c["origin"] == "tug")
    recipe, merged = tmp_path / "tug.yaml", tmp_path / "merged"
    drivers.run("export", folder, "--candidate", started, "-o", recipe)
    drivers.run("merge", recipe, "-o", merged)
    base, chat, sea, result = (
        load_file(path / "model.safetensors")["model.norm.weight"]
        for path in (family["base"], family["chat"], family["sea"], merged)
    )
    torch.testing.assert_close(result, base + 0.25 * (chat - base + sea - base))

    without = evomerge(tmp_path, "merge", str(recipe), "-o", str(tmp_path / "other"), status=2)
    assert "no method 'tug'" in without and not (tmp_path / "other").exists()


def outcome_of_contract(site: Path, name: str, source: str) -> str:
    """What pytest prints of ``MethodContract`` for the one method of a plugin."""
    (site / "tugboat.py").write_text(source)
    test = site / "test_mine.py"
    test.write_text(CONTRACT.format(name))
    path = os.pathsep.join([str(site), *map(os.path.abspath, sys.path)])
    options = ["-q", "-rf", "--import-mode=importlib", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        env=os.environ | {"PYTHONPATH": path},
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "source"),
    [("tug", METHOD), ("median", MEDIAN), ("hush", HUSH)],
    ids=["tug", "median", "hush"],
)
def test_a_method_of_a_plugin_passes_the_contract(site: Path, name: str, source: str) -> None:
    printed = outcome_of_contract(site, name, source)
    assert "passed" in printed and "failed" not in printed and "error" not in printed, printed


@pytest.mark.slow
def test_a_kernel_that_loses_nan_fails_the_contract(site: Path) -> None:
    printed = outcome_of_contract(site, "loudest", LOUDEST)
    assert "loudest makes a number of NaN" in printed, printed
    assert "1 failed" in printed, "and evomerge itself keeps it"


def test_a_broken_plugin_is_named(site: Path) -> None:
    (site / "tugboat.py").write_text("import no_such_module\n")
    message = evomerge(site, "methods", status=2)
    assert "plugin 'tug' of package 'tugboat'" in message and "no_such_module" in message
    assert "Traceback" not in message
