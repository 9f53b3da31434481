"""Imports run one way, heavy libraries stay in their corners, and a cheap import stays cheap."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import evomerge

PACKAGE = Path(evomerge.__file__).parent

# A module imports from lines below its own and from its own package, never from its own line.
ORDER = """
__main__
cli
commands testing
trackers
report
run interop demo
record
judging
evolution
worker pool collecting
slopes footing
scorers
engines space merging
parents suite optimizers
estimators
recipe
methods checkpoint
skeleton
lines calibration rows tokens rounding paths
tensors inference factors durable cache passages
params seeds config registry objects presets
patterns
errors visible squeezing plain_files blas installed
"""
LINE = {name: n for n, line in enumerate(ORDER.strip().splitlines()) for name in line.split()}

# The module or small package that alone may import a library.
CORNERS = {
    "accelerate": "evomerge.engines.huggingface.spreading",
    "ray": "evomerge.pool.ray",
    "lm_eval": "evomerge.scorers.lm_eval",
    "cma": "evomerge.optimizers.cma",
    "optuna": "evomerge.optimizers.optuna",
    "scipy": "evomerge.optimizers.sobol",
    "threadpoolctl": "evomerge.blas",
    "regex": "evomerge.patterns",
    "vllm": "evomerge.engines.vllm",
    "pyarrow": "evomerge.report.frames",
    "tensorboard": "evomerge.trackers.tensorboard",
    "wandb": "evomerge.trackers.wandb",
    "mlflow": "evomerge.trackers.mlflow",
    "trackio": "evomerge.trackers.trackio",
    "vl_convert": "evomerge.report.page.chart",
}


def modules() -> dict[str, ast.Module]:
    """Every module of the package, parsed, by dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imported(module: ast.Module) -> Iterator[str]:
    """Dotted names of what a module imports, anywhere in it."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES or node.module == "evomerge" else node.module


def part_of(name: str) -> str:
    """The module or package right under evomerge."""
    return name.split(".")[1]


def edges() -> Iterator[tuple[str, str]]:
    """The importing module, and the part of evomerge that it imports."""
    for name, module in MODULES.items():
        if name == "evomerge":
            continue  # its public names load on first use
        for target in imported(module):
            if target.startswith("evomerge.") and target != "evomerge.__version__":
                yield name, part_of(target)


def test_every_module_has_its_place() -> None:
    parts = {part_of(name) for name in MODULES if name != "evomerge"}
    assert parts - set(LINE) == set()


def test_imports_run_one_way() -> None:
    wrong = {
        f"{name} imports {target}"
        for name, target in edges()
        if target != part_of(name) and LINE[target] <= LINE[part_of(name)]
    }
    assert wrong == set()


def test_no_circle_between_files() -> None:
    needs = {
        name: {other for other in imported(module) if other in MODULES and other != "evomerge"}
        for name, module in MODULES.items()
        if name != "evomerge"
    }
    while free := {name for name, others in needs.items() if not others & needs.keys()}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert needs == {}, "what is left imports itself, by way of others"


MOST = 6  # positional arguments of a call: with more, two of one type are soon swapped


def test_calls_name_their_arguments() -> None:
    wrong = {
        f"{name}:{node.lineno}"
        for name, module in MODULES.items()
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and sum(not isinstance(argument, ast.Starred) for argument in node.args) > MOST
    }
    assert wrong == set()


def test_heavy_libraries_are_imported_in_one_corner_each() -> None:
    importers: dict[str, set[str]] = {library: set() for library in CORNERS}
    for name, module in MODULES.items():
        for target in imported(module):
            if (corner := CORNERS.get(library := target.partition(".")[0])) is not None:
                inside = name == corner or name.startswith(f"{corner}.")
                importers[library].add(corner if inside else name)
    assert importers == {library: {corner} for library, corner in CORNERS.items()}


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_merging_loads_neither_ray_nor_lm_eval() -> None:
    loaded = loaded_by("import evomerge; evomerge.merge; evomerge.Recipe; evomerge.merge_tensors")
    assert "torch" in loaded
    assert not loaded & {"ray", "lm_eval", "cma", "optuna", "transformers", "datasets"}


def test_help_loads_no_torch() -> None:
    loaded = loaded_by("from evomerge.cli import main\ntry: main(['--help'])\nexcept SystemExit: 0")
    assert not loaded & {"torch", "numpy", "ray", "lm_eval", "transformers"}
