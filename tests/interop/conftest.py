from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoint import ModelRef
from evomerge.recipe import Body, Group, Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def recipe_of() -> MakeRecipe:
    """Makes a recipe of the models in a family's folders."""

    def make(family: Mapping[str, Path | str], *groups: Group, **options: Any) -> Recipe:
        refs = {name: ModelRef(str(folder)) for name, folder in family.items()}
        base = refs.pop("base")
        return Recipe(
            base, refs, Body(groups), **{"dtype": "float32", "tokenizer": "chat", **options}
        )

    return make


@pytest.fixture
def hub(family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Hub ids of the tiny family, as if it had been downloaded: the hub's cache holds it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    commit = "0" * 40
    for name, folder in family.items():
        cached = tmp_path / "cache" / f"models--tiny--{name}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text(commit)
        (cached / "snapshots").mkdir()
        (cached / "snapshots" / commit).symlink_to(folder)
    return {name: f"tiny/{name}" for name in family}
