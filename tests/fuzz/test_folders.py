"""Whatever lies in a model folder: one clear message, or it is merged. ``make fuzz`` tries more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import Files, damaged, example
from test_fuzz import Hangs, limited, surprise, unclear

from evomerge.checkpoint import Checkpoint, read_json
from evomerge.commands.check import check
from evomerge.engines.huggingface.building import build_model, generation_of
from evomerge.engines.tokenizer import load_tokenizer
from evomerge.errors import CandidateFailed, InputError
from evomerge.merging import open_parents
from evomerge.merging.blueprint import Blueprint
from evomerge.merging.disk import write_merge
from evomerge.recipe import Recipe

INPUTS = int(os.environ.get("EVOMERGE_TEST_FUZZ", "5000")) // 25  # each is checked and merged
SEED = os.environ.get("EVOMERGE_TEST_FUZZ_SEED", "0")
LOADED = 10  # one in so many is opened by transformers, too
SHOWN = 5  # failures
WRITTEN = {
    *("config.json", "model.safetensors", "evomerge.yaml", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("modules.json", "1_Pooling/config.json"),
}


def merged(folder: Path) -> None:
    """Check the recipe of ``folder``, and write its merge."""
    check(folder / "recipe.yaml")
    recipe = Recipe.load(folder / "recipe.yaml")
    out = write_merge(recipe, open_parents(recipe), folder / "out", force=True)
    every = list(out.rglob("*"))
    assert {str(path.relative_to(out)) for path in every if not path.is_dir()} <= WRITTEN
    assert not any(path.is_symlink() for path in every)
    Checkpoint("out", out)
    for name in ("config.json", "tokenizer_config.json"):
        if (out / name).is_file():
            classes = str(read_json(out / name).get("auto_map") or "")
            assert "tokenization" not in classes and "configuration" not in classes


def loaded(folder: Path) -> None:
    """What a worker makes of it."""
    parents = open_parents(Recipe.load(folder / "recipe.yaml"))
    load_tokenizer(parents.donor).encode("text")
    build_model(Blueprint.of(parents), parents.donor, "float32", "cpu")
    generation_of(parents.donor)


def fault(folder: Path, *, load: bool) -> str:
    """What is wrong with how the folders in ``folder`` are read; nothing as a rule."""
    for read in (merged, loaded) if load else (merged,):
        try:
            with limited():
                read(folder)
        except CandidateFailed:
            continue
        except InputError as error:
            if found := unclear(str(error), str(folder), "\x00\x1b\x07\ud800", 20_000):
                return found
        except (Exception, Hangs) as error:
            return surprise(error)
    return ""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Files]]:
    folder = tmp_path_factory.mktemp("folders")
    yield folder, example(folder)


def test_the_example_is_merged_and_loaded(folders: tuple[Path, Files]) -> None:
    folder, _ = folders
    merged(folder)
    loaded(folder)
    assert len(list((folder / "out").iterdir())) == len(WRITTEN)


def test_no_folder_is_a_surprise(folders: tuple[Path, Files]) -> None:
    folder, files = folders
    failures: dict[str, str] = {}
    for number in range(INPUTS):
        key = f"{SEED} {number}"
        changed = damaged(files, key)
        for name, content in changed.items():
            if content is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(content)
        if found := fault(folder, load=number % LOADED == 0):
            failures.setdefault(found[:300], f"{key}: {', '.join(changed)}")
        for name in changed:
            content = files[name]
            assert content is not None
            (folder / name).write_bytes(content)
    if failures:
        texts = [f"{why} (mutant {which})" for why, which in failures.items()]
        pytest.fail(f"{len(texts)} kinds of failures\n" + "\n".join(texts[:SHOWN]))
