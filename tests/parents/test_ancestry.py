"""Models that have no ancestor in common, and tokenizers that nobody can compare, are said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge import config, merge
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.cli import main
from evomerge.parents import Parents, doubts
from evomerge.parents.ancestry import kinship
from evomerge.recipe import Body, Recipe, group
from evomerge.testing.models import tiny_family


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained apart from the family: other random weights."""
    return tiny_family(tmp_path_factory.mktemp("apart"), ("stranger",), seed=7)["stranger"]


def opened(**folders: Path) -> Parents:
    return Parents({n: Checkpoint.open(ModelRef(str(f))) for n, f in folders.items()})


def test_the_family_is_one(family: dict[str, Path]) -> None:
    assert doubts(opened(**family)) == []
    same = kinship(opened(a=family["chat"], b=family["chat"]), "a", "b", ["model.norm.weight"])
    assert same.cosine == pytest.approx(1) and same.ratio == pytest.approx(0)


def test_a_base_that_is_no_ancestor_is_said_of_each_source(
    family: dict[str, Path], stranger: Path
) -> None:
    notes = doubts(opened(base=stranger, chat=family["chat"], sea=family["sea"]))
    assert [
        f"no ancestor of {name} (" in note
        for note, name in zip(notes, ("chat", "sea"), strict=True)
    ]
    for note in notes:
        assert note.startswith(f"note: base ({stranger}) looks like no ancestor of ")
        assert "1.4" in note and "cosine" in note and "wrong base" in note
    (note,) = doubts(opened(**family, other=stranger))
    assert f"no ancestor of other ({stranger})" in note


def test_sources_without_a_base_are_compared_with_the_first(
    family: dict[str, Path], stranger: Path
) -> None:
    (note,) = doubts(opened(chat=family["chat"], sea=family["sea"], other=stranger))
    assert f"other ({stranger}) and chat ({family['chat']}) look unrelated" in note


def test_check_and_merge_say_it_and_merge(
    family: dict[str, Path], stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {"chat": str(family["chat"])}
    recipe = {"base": str(stranger), "models": models, "groups": [{"method": "task_arithmetic"}]}
    path = tmp_path / "recipe.yaml"
    path.write_text(config.dump(recipe))
    assert main(["check", str(path)]) == 0
    assert "looks like no ancestor of chat" in capsys.readouterr().out
    assert main(["merge", str(path), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "looks like no ancestor of chat" in said.err and said.out == f"{tmp_path / 'out'}\n"


def test_little_is_read_of_large_models(family: dict[str, Path]) -> None:
    """Of a matrix some rows, of a model some matrices: the others may hold anything."""
    parents, read = opened(**family), set()

    def tensor(model: str, name: str) -> torch.Tensor:
        read.add(name)
        return Parents.tensor(parents, model, name)

    parents.tensor = tensor  # type: ignore[method-assign]
    assert doubts(parents) == []
    assert 0 < len(read) <= 6 and len({name.split(".")[2] for name in read}) > 2


def test_an_untrained_zero_matrix_is_no_evidence(family: dict[str, Path], tmp_path: Path) -> None:
    zeros = Path(shutil.copytree(family["base"], tmp_path / "zeros"))
    weights = load_file(zeros / "model.safetensors")
    save_file({n: torch.zeros_like(w) for n, w in weights.items()}, zeros / "model.safetensors")
    assert doubts(opened(base=zeros, chat=family["chat"])) == []


def test_tokenizers_that_cannot_be_compared_are_said(
    family: dict[str, Path], tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(family["sea"], tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    (note,) = doubts(opened(base=family["base"], chat=family["chat"], sea=bare))
    assert f"sea ({bare}) and base" in note
    assert "tokenizers cannot be compared: sea has no tokenizer.json" in note
    checkpoints = {n: Checkpoint.open(ModelRef(str(f))) for n, f in {**family, "sea": bare}.items()}
    notes = doubts(Parents(checkpoints, "sea"))
    assert len(notes) == 2 and all("sea has no tokenizer.json" in note for note in notes)


def test_the_merge_says_nothing_where_all_is_well(family: dict[str, Path], tmp_path: Path) -> None:
    refs = {name: ModelRef(str(folder)) for name, folder in family.items()}
    recipe = Recipe(refs.pop("base"), refs, Body((group("task_arithmetic", tuple(refs)),)))
    said: list[str] = []
    merge(recipe, tmp_path / "out", say=said.append)
    assert said == []
