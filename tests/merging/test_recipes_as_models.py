"""A recipe file stands wherever a model stands: a merge of merges has the bytes of two steps."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from evomerge import merge
from evomerge.checkpoint import ModelRef
from evomerge.cli import main
from evomerge.errors import InputError
from evomerge.interop import to_mergekit
from evomerge.merging import open_model
from evomerge.recipe import Body, Recipe, group


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evomerge" / "merged"


@pytest.fixture
def inner(family: dict[str, Path], tmp_path: Path) -> Path:
    """chat and sea, half of each."""
    refs = {name: ModelRef(str(family[name])) for name in ("chat", "sea")}
    body = Body((group("ties", ("chat", "sea"), {"density": 0.5, "weight": 0.7}),))
    recipe = Recipe(ModelRef(str(family["base"])), refs, body, tokenizer="chat")
    recipe.save(tmp_path / "inner.yaml")
    return tmp_path / "inner.yaml"


def outer(family: dict[str, Path], inner: Path | str, folder: Path) -> Recipe:
    """The inner merge and sea once more; files are named as from ``folder``."""
    models = {"both": ModelRef(str(inner), str(folder)), "sea": ModelRef(str(family["sea"]))}
    body = Body((group("task_arithmetic", ("both", "sea"), {"weight": {"both": 0.9, "sea": 0.3}}),))
    return Recipe(ModelRef(str(family["base"])), models, body, tokenizer="both")


def weights(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))


def test_the_bytes_of_two_steps(
    family: dict[str, Path], inner: Path, tmp_path: Path, cache: Path
) -> None:
    at_once = merge(outer(family, "inner.yaml", tmp_path), tmp_path / "at-once")
    step = merge(Recipe.load(inner), tmp_path / "step")
    twice = merge(outer(family, step, tmp_path), tmp_path / "twice")
    assert weights(at_once) == weights(twice)
    for file in ("config.json", "tokenizer.json"):
        assert (at_once / file).read_bytes() == (twice / file).read_bytes()
    (kept,) = cache.iterdir()
    assert weights(kept) == weights(step)
    before = os.stat(kept / "model.safetensors").st_mtime_ns
    merge(outer(family, "inner.yaml", tmp_path), tmp_path / "again")
    assert os.stat(kept / "model.safetensors").st_mtime_ns == before, "merged once"


def test_the_digest_covers_what_is_named(
    family: dict[str, Path], inner: Path, tmp_path: Path, cache: Path
) -> None:
    first = outer(family, "inner.yaml", tmp_path).digest
    assert outer(family, "inner.yaml", tmp_path).digest == first
    merge(outer(family, "inner.yaml", tmp_path), tmp_path / "first")
    inner.write_text(inner.read_text().replace("density: {chat: 0.5", "density: {chat: 0.4") + "\n")
    edited = inner.read_text().replace("chat: 0.7", "chat: 0.65")
    inner.write_text(edited)
    assert outer(family, "inner.yaml", tmp_path).digest != first
    merge(outer(family, "inner.yaml", tmp_path), tmp_path / "second")
    assert len(list(cache.iterdir())) == 2, "another recipe is another merge"
    assert weights(tmp_path / "first") != weights(tmp_path / "second")


def test_a_parent_whose_tokenizer_changed_is_merged_anew(
    family: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    chat = tmp_path / "chat"
    shutil.copytree(family["chat"], chat)
    refs = {"chat": ModelRef(str(chat)), "sea": ModelRef(str(family["sea"]))}
    body = Body((group("linear", ("chat", "sea"), {"weight": 0.5}),))
    Recipe(None, refs, body, tokenizer="chat").save(tmp_path / "inner.yaml")
    opened = open_model(ModelRef("inner.yaml", str(tmp_path)))
    with (chat / "tokenizer_config.json").open("a") as file:
        file.write("\n")
    again = open_model(ModelRef("inner.yaml", str(tmp_path)))
    assert again.folder != opened.folder and len(list(cache.iterdir())) == 2


def test_a_recipe_stands_for_few_merges_alone(family: dict[str, Path], tmp_path: Path) -> None:
    """A pair of models that are the same recipe of such a pair doubles at each level."""
    body = Body((group("linear", ("a", "b"), {"weight": 0.5}),))

    def write(name: str, a: ModelRef, b: ModelRef) -> None:
        Recipe(None, {"a": a, "b": b}, body, tokenizer="b").save(tmp_path / name)

    last = 9
    write(f"x{last}.yaml", ModelRef(str(family["chat"])), ModelRef(str(family["sea"])))
    for number in reversed(range(last)):
        inner = ModelRef(f"x{number + 1}.yaml", str(tmp_path))
        write(f"x{number}.yaml", inner, inner)
    with pytest.raises(InputError, match=r"x0\.yaml: stands for more than 500 merges"):
        open_model(ModelRef("x0.yaml", str(tmp_path)))
    for number in range(20, 0, -1):
        inner = (
            ModelRef(str(family["sea"]))
            if number == 20
            else ModelRef(f"d{number + 1}.yaml", str(tmp_path))
        )
        write(f"d{number}.yaml", inner, ModelRef(str(family["chat"])))
    with pytest.raises(InputError, match=r"d1\.yaml: its recipes are nested more than 16"):
        open_model(ModelRef("d1.yaml", str(tmp_path)))
    open_model(ModelRef("d19.yaml", str(tmp_path)))


def test_circles_and_missing_files_are_refused(
    family: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        outer(family, f"{other}.yaml", tmp_path).save(tmp_path / f"{name}.yaml")
    with pytest.raises(InputError, match=r"in a circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        open_model(ModelRef("a.yaml", str(tmp_path)))
    with pytest.raises(InputError, match=r"^[^:]*\.yaml: recipes name each other in a circle$"):
        _ = Recipe.load(tmp_path / "a.yaml").digest
    assert main(["merge", str(tmp_path / "a.yaml"), "-o", str(tmp_path / "out")]) == 2
    assert "in a circle" in capsys.readouterr().err
    outer(family, "absent.yaml", tmp_path).save(tmp_path / "c.yaml")
    assert main(["merge", str(tmp_path / "c.yaml"), "-o", str(tmp_path / "out")]) == 2
    assert "absent.yaml" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mergekit_is_told_as_several_merges(
    family: dict[str, Path], inner: Path, tmp_path: Path
) -> None:
    documents = list(yaml.safe_load_all(to_mergekit(outer(family, "inner.yaml", tmp_path))))
    assert [document.get("name") for document in documents] == ["merge-both", None]
    first, last = documents
    assert first["merge_method"] == "ties" and last["merge_method"] == "task_arithmetic"
    named = {source["model"] for part in last["slices"] for source in part["sources"]}
    assert "merge-both" in named and str(family["sea"]) in named
    assert last["tokenizer"] == {"source": "merge-both"}


def test_a_digest_follows_what_is_named_however_deep(
    family: dict[str, Path], inner: Path, tmp_path: Path
) -> None:
    """Also in one process, which has read all of them before."""
    outer(family, "inner.yaml", tmp_path).save(tmp_path / "middle.yaml")
    whole = outer(family, "middle.yaml", tmp_path)
    before = whole.digest
    inner.write_text(inner.read_text().replace("chat: 0.7", "chat: 0.6"))
    assert outer(family, "middle.yaml", tmp_path).digest != before
    inner.write_text(inner.read_text().replace("chat: 0.6", "chat: 0.7"))
    assert outer(family, "middle.yaml", tmp_path).digest == before
