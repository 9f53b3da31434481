from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import evomerge.methods
from evomerge.errors import InputError
from evomerge.methods import _registry, get, merge_tensors, names

pytestmark = pytest.mark.usefixtures("registry")

METHOD = '''
from torch import Tensor
from evomerge.methods import merge_method

@merge_method(base="none", paper="https://example.org")
def {name}(tensors: Tensor) -> Tensor:
    """Take the first model."""
    return tensors[0]
'''

BUILT_IN = {
    "dare_linear",
    "dare_ties",
    "linear",
    "passthrough",
    "slerp",
    "task_arithmetic",
    "ties",
    "widen",
}


def install(folder: Path, package: str, module: str, source: str) -> None:
    """What installing a plugin package leaves in site-packages."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[evomerge]\n{module} = {module}\n")
    (folder / f"{module}.py").write_text(source)


def load_again(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.syspath_prepend(folder)
    for file in folder.glob("*.py"):
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
    _registry.load.cache_clear()


def test_built_in_methods_are_found() -> None:
    assert set(names()) >= BUILT_IN


def test_a_new_file_is_a_new_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first_of_all.py").write_text(METHOD.format(name="first_of_all"))
    (tmp_path / "_shared.py").write_text("raise AssertionError('not a method file')")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").write_text("raise AssertionError('not a method file')")
    path = [*evomerge.methods.__path__, str(tmp_path)]
    monkeypatch.setattr(evomerge.methods, "__path__", path)
    _registry.load.cache_clear()
    assert get("first_of_all").summary == "Take the first model."
    monkeypatch.delitem(sys.modules, "evomerge.methods.first_of_all")


def test_a_plugin_brings_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "evomerge-first", "plugin_first", METHOD.format(name="first"))
    load_again(monkeypatch, tmp_path)
    models = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert merge_tensors("first", models).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such"),
        (METHOD.format(name="ties"), "ValueError: two merge methods are named 'ties'"),
        (METHOD.format(name="half") + "1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_broken_plugin_is_named(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "evomerge-broken", "plugin_broken", source)
    load_again(monkeypatch, tmp_path)
    for _ in range(2):  # the second message is the first, not a consequence of it
        with pytest.raises(InputError) as caught:
            names()
        assert "plugin 'plugin_broken' of package 'evomerge-broken'" in str(caught.value)
        assert reason in str(caught.value)
