"""Objectives and tasks of the user's own that exit, or raise what nobody expects: told, and never a success."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import main
from evomerge.record.events import JOURNAL, EvaluationLine, read_lines

RunFolder = Callable[..., Path]
Capture = pytest.CaptureFixture[str]

WAYS = """
import decimal, os, signal, sys
import numpy as np

class Gone(BaseException):
    pass

def go(way):
    if way == "sys.exit": sys.exit(0)
    if way == "os._exit": os._exit(0)
    if way == "GeneratorExit": raise GeneratorExit
    if way == "BaseException": raise Gone("away")
    if way == "KeyboardInterrupt": raise KeyboardInterrupt
    if way == "SIGTERM": os.kill(os.getpid(), signal.SIGTERM)
    if way == "child" and not os.fork(): os._exit(0)
    if way == "drained" and not os.path.exists(mark := __file__ + ".drained"):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
    return {
        "10**400": 10**400, "complex": 1j, "nan": float("nan"), "numpy": np.float32(0.5), "text": "good",
        "decimal": decimal.Decimal("sNaN"), "child": 1, "drained": 1,
    }.get(way)
"""

OBJECTIVE = """
ways = {ways!r}

def score(model, tokenizer, *, split):
    norm = repr(float(sum(each.abs().sum() for each in model.parameters())))
    with open(__file__ + ".models", "a+") as file:  # base and parents come first
        file.seek(0)
        models = file.read().split()
        if norm not in models:
            print(norm, file=file)
    number = [*models, norm].index(norm)
    return number if number < {after} else go(ways[(number - {after}) % len(ways)])
"""

TASK = """
def results(doc, results):
    return {{"acc": go({way!r} if {where!r} == "results" else "numpy")}}

def text(doc):
    if {where!r} == "text": go({way!r})
    return doc["question"]

def mean(values):
    return go({way!r} if {where!r} == "mean" else "numpy")

def docs(dataset):
    if {where!r} == "docs": go({way!r})
    return dataset
"""

FAILS = {
    "sys.exit": "it called sys.exit(0)",
    "os._exit": "it called os._exit(0)",
    "GeneratorExit": "it raised GeneratorExit",
    "BaseException": "it raised Gone: away",
    "10**400": "not a finite number",
    "nan": "not a finite number",
}


@pytest.fixture
def objective(
    run_folder: RunFolder, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """A run whose objective goes wrong in these ways, one a model, but for the first ``after``."""

    def make(*ways: str, after: int = 3) -> Path:
        name = f"objective_{uuid.uuid4().hex[:8]}"
        fitness = {
            "objectives": {"mine": {"function": f"{name}:score", "direction": "maximize"}},
            "items": {"probe": 0},
        }
        folder = run_folder(name, **{**small, "fitness": fitness})
        source = WAYS + OBJECTIVE.format(ways=ways, after=after)
        (folder / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(folder)
        return folder

    return make


def errors(folder: Path) -> list[str]:
    lines = read_lines(folder / JOURNAL)
    return [line.error for line in lines if isinstance(line, EvaluationLine) and line.error]


def search(folder: Path, *place: str) -> int:
    return main(["search", str(folder), "--quiet", *(place or ("--ray", "off"))])


ON_RAY = pytest.param(
    ("--ray", "local", "--workers", "1", "--num-cpus", "0.5"),
    marks=pytest.mark.skipif(
        not os.environ.get("EVOMERGE_TEST_KILLS"), reason="a minute: make soak"
    ),
    id="ray",
)


@pytest.mark.parametrize("place", [("--ray", "off"), ON_RAY])
def test_a_candidate_fails_by_an_objective_that_would_end_the_search(
    place: Sequence[str], objective: Callable[..., Path]
) -> None:
    on_ray = "local" in place  # whose workers end by SIGTERM, which is nobody's fault
    folder = objective(*FAILS, "numpy", "child", *["drained"] * on_ray)
    assert search(folder, *place) == 0
    told = errors(folder)
    assert (folder / f"{folder.name}.py.drained").exists() == on_ray
    assert all(
        any(e.startswith("objective_") and says in e for e in told) for says in FAILS.values()
    )
    assert all(any(says in e for says in FAILS.values()) for e in told)


def test_an_objective_that_raises_what_ctrl_c_does_is_no_ctrl_c(
    objective: Callable[..., Path], capsys: Capture
) -> None:
    folder = objective("KeyboardInterrupt")
    assert search(folder) == 0
    assert set(errors(folder)) == {f"{folder.name}:score: it raised KeyboardInterrupt"}
    folder = objective("SIGTERM")
    assert search(folder) == 130 and not errors(folder)
    assert "stopped" in capsys.readouterr().err


@pytest.mark.parametrize(("way", "says"), [("complex", "1j"), ("text", "'good'")])
def test_an_objective_that_gives_no_number_stops_the_search(
    way: str, says: str, objective: Callable[..., Path], capsys: Capture
) -> None:
    folder = objective(way)
    assert search(folder) == 1
    told = capsys.readouterr().err
    assert f"the function ({folder}/{folder.name}.py) returned {says}" in told
    assert "Traceback" not in told


def test_an_objective_that_ends_base_and_parents_is_named(
    objective: Callable[..., Path], capsys: Capture
) -> None:
    folder = objective("os._exit", after=2)
    assert search(folder) == 1
    told = capsys.readouterr().err
    assert f"sea itself could not be scored: {folder.name}:score: it called os._exit(0)" in told


def test_a_module_that_exits_as_it_is_imported_is_named(
    objective: Callable[..., Path], capsys: Capture
) -> None:
    folder = objective()
    file = folder / f"{folder.name}.py"
    file.write_text("import sys\nsys.exit(0)\n")
    assert search(folder) == 2
    told = capsys.readouterr().err
    assert f"called sys.exit(0): <module> ({file}:2)" in told


@pytest.mark.parametrize(
    ("way", "where", "status", "says"),
    [
        ("sys.exit", "docs", 2, "sums ({0}.yaml): go ({0}_code.py:9) called sys.exit(0)"),
        ("os._exit", "text", 2, "sums ({0}.yaml): go ({0}_code.py:10) called os._exit(0)"),
        ("sys.exit", "results", 1, "sums: go ({0}_code.py:9) called sys.exit(0)"),
        ("BaseException", "mean", 1, "sums: go ({0}_code.py:12) raised Gone: away"),
        ("complex", "results", 1, "sums ({0}.yaml): its process_results gave 1j for acc of item "),
        ("10**400", "results", 1, "base itself could not be scored: sums, item "),
        ("10**400", "mean", 1, "base itself could not be scored: sums: the model's answer is not"),
    ],
)
def test_a_task_that_would_end_the_search_is_named_with_its_place(
    way: str,
    where: str,
    status: int,
    says: str,
    run_folder: RunFolder,
    small: dict[str, Any],
    capsys: Capture,
) -> None:
    folder = run_folder(where, **small)
    file = folder / "sums.yaml"
    kept = file.read_text().partition("output_type")[0]
    (folder / "sums_code.py").write_text(WAYS + TASK.format(way=way, where=where))
    file.write_text(
        kept + "output_type: generate_until\n"
        "doc_to_text: !function sums_code.text\ndoc_to_target: label\n"
        "process_docs: !function sums_code.docs\nprocess_results: !function sums_code.results\n"
        "generation_kwargs: {until: ['\\n'], max_gen_toks: 2}\n"
        "metric_list:\n"
        "  - {metric: acc, aggregation: !function sums_code.mean, higher_is_better: true}\n"
    )
    assert search(folder) == status
    told = capsys.readouterr().err
    assert says.format(folder / "sums") in told and "Traceback" not in told
