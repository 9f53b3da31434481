"""The sweep over the number of parents in docs/choosing.md: its recipes are whole, and its table is right."""

from __future__ import annotations

import json
import re
from math import comb
from pathlib import Path

import pytest

from evomerge.recipe import Recipe

DOCUMENT = Path(__file__).parents[2] / "docs" / "choosing.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)
NAMES = ("maths", "code", "thai")


def test_every_choice_of_parents_by_every_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write, tell = BLOCKS
    here: dict[str, object] = {}
    exec(write, here)
    recipes = {file.stem: Recipe.load(file) for file in Path("sweep").glob("*.yaml")}
    assert len({recipe.digest for recipe in recipes.values()}) == 4 * (comb(3, 2) + comb(3, 3))
    for name, recipe in recipes.items():
        count, method, chosen = name.split("-", 2)
        [group] = recipe.groups
        assert group.method == method and list(recipe.models) == chosen.split("-")
        assert len(recipe.models) == int(count) and set(recipe.models) <= set(NAMES)
        value = NAMES.index(chosen.split("-")[0]) + int(count)
        scores = {"objectives": {"skill": {"value": value, "low": None, "high": None}}}
        Path("sweep", f"{name}.json").write_text(json.dumps(scores))
    exec(tell, here)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 * 2
    assert " ".join(lines[0].split()) == "skill dare_linear 2 parents: 2.333 (3 merges)"
    assert " ".join(lines[1].split()) == "skill dare_linear 3 parents: 3.000 (1 merges)"
