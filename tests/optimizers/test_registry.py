from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge import optimizers
from evomerge.errors import ConfigError, InputError
from evomerge.optimizers import Problem, Told, canonical, cell, get, make, problems, rank
from evomerge.params import Dim
from evomerge.registry import OPTIMIZERS

PROBLEM = Problem((Dim("a", "real"), Dim("k", "integer", 3)))

PLUGIN = """
from evomerge.optimizers.random import Random

class Mine(Random):
    name = "mine"
"""


def python(code: str) -> str:
    run = [sys.executable, "-c", code]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()


def test_libraries_are_imported_only_when_asked_for() -> None:
    loaded = "print(sorted({'cma', 'optuna', 'torch'} & set(sys.modules)))"
    assert (
        python(
            f"import sys; from evomerge.registry import OPTIMIZERS; OPTIMIZERS.names(); {loaded}"
        )
        == "[]"
    )
    assert (
        python(f"import sys; from evomerge.optimizers import get; get('cma'); {loaded}")
        == "['cma']"
    )


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.built_in))
def test_built_in_names_match_their_classes(name: str) -> None:
    assert name in OPTIMIZERS.names()
    assert get(name).name == name


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"unknown name 'cmaes' \(did you mean 'cma'\?\)"):
        get("cmaes")


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        make("cma", Problem(()), seed=0, population=1, options={"sigma": 0.2, "sigma0": "wide"})
    text = str(raised.value)
    assert "sigma: unknown option of 'cma' (did you mean 'sigma0'?)" in text
    assert "sigma0: expected a number, found 'wide'" in text
    assert "population: expected a whole number of at least 2, found 1" in text
    assert "nothing varies" in text


def test_problems_are_told_by_option() -> None:
    assert problems("random", {"speed": 1}) == {"speed": "unknown option of 'random'; it has none"}
    assert problems("cma", {"sigma0": 0.3}) == {}


def test_options_and_defaults_arrive() -> None:
    assert make("cma", PROBLEM, seed=0).options == {"sigma0": 0.1, "guard": 5}
    chosen = make("cma", PROBLEM, seed=0, population=30, options={"sigma0": 0.2})
    assert (chosen.options, chosen.population) == ({"sigma0": 0.2, "guard": 5}, 30)


def test_default_populations_exceed_the_textbook() -> None:
    dims = tuple(Dim(str(axis), "real") for axis in range(24))
    assert make("cma", Problem(dims), seed=0).population == 26  # textbook: 13


def install(folder: Path, entry_point: str) -> None:
    """A distribution as pip would lay it out, without pip."""
    (folder / "evomerge_mine.py").write_text(PLUGIN)
    info = folder / "evomerge_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evomerge-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[evomerge.optimizers]\n{entry_point}\n")


def test_a_plugin_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "mine = evomerge_mine:Mine")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "mine" in OPTIMIZERS.names()
    assert len(make("mine", PROBLEM, seed=0).ask(3, 0)) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("evomerge_absent:Mine", "cannot be loaded"),
        ("evomerge_mine:Absent", "cannot be loaded"),
        ("json:JSONDecoder", "is not an evomerge Optimizer"),
    ],
)
def test_a_broken_plugin_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    install(tmp_path, f"mine = {value}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=f"'mine' .*{message}"):
        get("mine")


def test_a_plugin_cannot_take_a_built_in_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "random = evomerge_mine:Mine")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert get("random").__module__ == "evomerge.optimizers.random"


def test_rank_puts_failures_last_and_keeps_ties_in_order() -> None:
    scores = [0.1, None, 0.5, 0.1, None, 0.9, 0.7]
    missed = [0, 0, 0, 0, 0, 0.2, 0.1]
    told = [Told((0.0,), s, violation=v) for s, v in zip(scores, missed, strict=True)]
    assert rank(told) == [2, 0, 3, 6, 5, 1, 4]


@given(gene=st.floats(-1, 2), size=st.integers(1, 12))
def test_canonical_is_idempotent_and_keeps_the_cell(gene: float, size: int) -> None:
    dims = [Dim("a", "real"), Dim("k", "integer", size), Dim("m", "categorical", size)]
    once = canonical(dims, [gene] * 3)
    assert canonical(dims, once) == once
    assert all(0 <= value <= 1 for value in once)
    assert cell(dims[1], once[1]) == cell(dims[1], gene)


def test_the_registry_lists_what_the_folder_holds() -> None:
    folder = Path(optimizers.__file__).parent
    files = {path.stem for path in folder.glob("[a-z]*.py")}
    listed = {value.split(":")[0].rpartition(".")[2] for value in OPTIMIZERS.built_in.values()}
    assert listed - {"optuna"} == files, "a file each"
    assert (folder / "optuna").is_dir(), "with the studies that are exported for its dashboard"
