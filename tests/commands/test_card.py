"""Cards: what a merge is made of, its licence, what was measured; and nothing of strangers but text."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from evomerge import config
from evomerge.checkpoint import EMBEDDED, ModelRef
from evomerge.cli import main
from evomerge.commands.card import front_matter, parents_of, write_card
from evomerge.errors import InputError
from evomerge.recipe import Body, Recipe, group, passing
from evomerge.report.card import CARD, PICTURE
from evomerge.report.licences import KNOWN, Licence, common, concerns, stated

Say = Callable[..., Path]
EVIL = "</title><script>x</script> | `a` [b](javascript:c)\n---\nlicense: mit\n\x1b[31m"
INTERVAL = {"value": 0.78, "low": 0.74, "high": 0.81}
PROVENANCE = {
    "evomerge": "0.1.0",
    "run": "ab" * 32,
    "candidate": 17,
    "origin": "cma",
    "candidates_tried": 40,
    "select_looks": 120,
    "search_score": {"value": 0.9, "low": None, "high": None, "why": "of a sample"},
    "select_score": INTERVAL,
    "report": {"score": INTERVAL, "objectives": {"sums": INTERVAL, "text": {**INTERVAL, "value": 0.75}}},
    "measured": {
        "sums": {"task": "arithmetic", "metric": "acc", "better": "higher", "items": 120},
        "text": {"of": ["id", "th"], "how": "worst", "better": "lower", "items": 80},
    },
    "beside": {"base": {**INTERVAL, "p": 0.0001, "test": "McNemar"}},
}  # fmt: skip


@pytest.fixture
def models(tmp_path: Path) -> Say:
    """Makes folders of the embedded models, each with metadata in its card."""

    def make(**said: dict[str, Any] | str) -> Path:
        for name, metadata in said.items():
            folder = tmp_path / "models" / name
            if not folder.exists():
                shutil.copytree(EMBEDDED / ("chat" if name == "chat" else "base"), folder)
            front = metadata if isinstance(metadata, str) else config.dump(metadata)
            (folder / CARD).write_text(f"---\n{front}---\n# A parent's own card\n")
        return tmp_path / "models"

    return make


def recipe_of(folder: Path, *, base: bool = True, **changes: Any) -> Recipe:
    names = sorted(each.name for each in folder.iterdir())
    named = {name: ModelRef(str(folder / name)) for name in names}
    return Recipe(
        base=ModelRef("embedded:base") if base else None,
        models=named,
        body=Body((group("linear", tuple(names)),)),
        tokenizer=names[0],
        dtype="float32",
        **changes,
    )


def card(
    folder: Path, recipe: Recipe, licence: Licence | None = None, title: str = "merged"
) -> ModelCard:
    """The card of a merge that is already in its folder, as the hub's library reads it."""
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    write_card(folder, recipe, title, licence)
    return ModelCard((folder / CARD).read_text(encoding="utf-8"))


def test_a_merge_has_its_own_card_not_a_parents(
    models: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apache = {"license": "apache-2.0", "language": ["id", "th"]}
    folder = models(chat=apache, sea={**apache, "language": "en"})
    file, out = tmp_path / "recipe.yaml", tmp_path / "out"
    passed = recipe_of(folder, base=False)
    Recipe(base=None, models=passed.models, body=Body((passing("chat"),)), tokenizer="chat").save(
        file
    )
    assert main(["merge", str(file), "-o", str(out)]) == 0
    written = (out / CARD).read_text()
    assert "A parent's own card" not in written and str(tmp_path) not in written
    found = ModelCard(written).data.to_dict()
    assert found["license"] == "apache-2.0" and found["language"] == ["id", "th", "en"]
    assert found["tags"] == ["merge", "evomerge"] and found["pipeline_tag"] == "text-generation"
    assert found["library_name"] == "transformers" and "base_model" not in found
    assert "| chat | chat | apache-2.0 |" in written and (out / PICTURE).is_file()
    again = tmp_path / "again" / "out"
    assert main(["merge", str(file), "-o", str(again)]) == 0
    assert (again / CARD).read_text() == written
    assert main(["merge", str(file), "-o", str(tmp_path / "x"), "--license", "apach-2.0"]) == 2
    assert "did you mean 'apache-2.0'?" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_licences_that_differ_are_named_and_none_is_taken(models: Say, tmp_path: Path) -> None:
    folder = models(
        chat={"license": "apache-2.0"}, sea={"license": "llama2"}, x={"license": "cc-by-nc-4.0"}
    )
    found = card(tmp_path, recipe_of(folder, base=False))
    assert found.data.license is None
    assert (
        "the parents' licences differ (chat apache-2.0, sea llama2, x cc-by-nc-4.0)"
        in found.text.replace("The", "the")
    )
    assert "cc-by-nc-4.0 forbids commercial use" in found.text
    assert "llama2 has terms of its own" in found.text
    told = card(tmp_path, recipe_of(folder, base=False), stated("cc-by-nc-4.0"))
    assert told.data.license == "cc-by-nc-4.0" and "licences differ" in told.text


def test_a_parent_that_says_nothing_leaves_the_licence_open(models: Say, tmp_path: Path) -> None:
    folder = models(chat={"license": "mit"})
    found = card(tmp_path, recipe_of(folder))  # the base is embedded, without a card
    assert found.data.license is None
    assert "No licence is stated by the card of embedded:base" in found.text


def test_what_was_measured_is_on_untouched_items(models: Say, tmp_path: Path) -> None:
    folder = models(chat={"license": "mit"})
    found = card(tmp_path, recipe_of(folder, provenance=PROVENANCE))
    results = {each.metric_type: each for each in found.data.eval_results}
    assert set(results) == {"score", "sums", "text"}
    assert results["sums"].metric_value == 0.78
    assert results["sums"].metric_name == "sums, 95% interval 0.740 to 0.810"
    assert results["sums"].metric_args == {"low": 0.74, "high": 0.81}
    assert "| sums | 0.780 [0.740, 0.810] | arithmetic, acc | higher | 120 |" in found.text
    assert "| text | 0.750 [0.740, 0.810] | worst of id, th | lower | 80 |" in found.text
    assert results["sums"].dataset_name == "report split of arithmetic, acc"
    assert "| base | 0.780 [0.740, 0.810] | < 0.001 |" in found.text
    assert "40 candidate merges were tried" in found.text and "likely too good" in found.text
    assert found.data.eval_results and "Nothing was measured" not in found.text
    assert "Nothing was measured" in card(tmp_path, recipe_of(folder)).text


def test_folders_of_one_name_are_told_apart(models: Say, tmp_path: Path) -> None:
    folder = models(chat={"license": "mit"})
    shutil.copytree(folder / "chat", other := tmp_path / "others" / "chat")
    (other / CARD).write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    named = {"one": ModelRef(str(folder / "chat")), "two": ModelRef(str(other))}
    recipe = Recipe(
        base=None, models=named, body=Body((group("linear", ("one", "two")),)), tokenizer="one"
    )
    found = card(tmp_path, recipe)
    assert found.data.license is None
    assert "differ (chat mit, chat (two) cc-by-nc-4.0)" in found.text


def test_strangers_texts_are_text(models: Say, tmp_path: Path) -> None:
    folder = models(chat={"license": EVIL, "language": [EVIL, "th"], "base_model": EVIL})
    provenance = {
        **PROVENANCE,
        "origin": EVIL,
        "run": EVIL,
        "candidate": [EVIL],
        "report": {"score": EVIL, "objectives": {EVIL: INTERVAL, "odd": {"value": "x"}}},
        "measured": {
            EVIL: {"task": EVIL, "metric": [EVIL], "better": EVIL, "items": EVIL},
            "odd": EVIL,
        },
        "beside": {EVIL: {**INTERVAL, "p": EVIL}},
        "invalid": [EVIL],
    }
    recipe = recipe_of(folder, provenance=provenance)
    names = {EVIL: recipe.models["chat"]}
    body = Body((group("linear", (EVIL,)),))
    evil = Recipe(
        base=recipe.base, models=names, body=body, tokenizer="base", provenance=provenance
    )
    found = card(tmp_path, evil, title=EVIL)
    written = (tmp_path / CARD).read_text(encoding="utf-8")
    assert "\x1b" not in written
    data = yaml.safe_load(written.split("---\n")[1])
    assert "license" not in data and data["language"] == ["th"]
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.78
    outside = re.sub(r"```+yaml\n.*?\n```+", "", found.text, flags=re.S)
    assert not re.search(r"<\w|</|\]\(javascript", outside)
    assert all(line.count("|") - line.count("\\|") in (0, 3, 4, 6) for line in outside.splitlines())
    picture = ElementTree.fromstring((tmp_path / PICTURE).read_text(encoding="utf-8"))
    tags = {each.tag.rpartition("}")[2] for each in picture.iter()}
    assert tags <= {"svg", "title", "rect", "line", "text", "polyline", "circle"}


@pytest.mark.parametrize(
    "content",
    [
        "", "# no metadata", "---\nlicense: [a, b\n---\n", "---\n- a\n---\n", "---\nlicense: 3\nlanguage: {a: b}\n---\n",
        "---\n" + "a: &a [*a]\n---\n", "---\n!!python/object:os.system x\n---\n", "\x00\xff---\n",
    ],
)  # fmt: skip
def test_a_card_that_says_nothing_readable_says_nothing(
    models: Say, tmp_path: Path, content: str
) -> None:
    folder = models(chat={})
    (folder / "chat" / CARD).write_bytes(content.encode("latin-1"))
    (parent,) = parents_of(recipe_of(folder, base=False))
    assert not parent.languages and not parent.licences["chat"].told
    (folder / "chat" / CARD).unlink()
    assert front_matter(folder / "chat" / CARD) == {}


def test_a_recipe_of_recipes_names_what_they_are_made_of(models: Say, tmp_path: Path) -> None:
    folder = models(chat={"license": "mit"}, sea={"license": "mit"})
    recipe_of(folder, base=False).save(inner := tmp_path / "inner.yaml")
    outer = Recipe(
        base=None,
        models={"half": ModelRef(str(inner)), "chat": ModelRef(str(folder / "chat"))},
        body=Body((group("linear", ("half", "chat")),)),
        tokenizer="chat",
    )
    assert [each.name for each in parents_of(outer)] == ["half: chat", "half: sea", "chat"]
    assert card(tmp_path, outer).data.license == "mit"


def test_what_licences_mean() -> None:
    mit, other = Licence("mit"), Licence("other", "own", "LICENSE")
    assert common({"a": mit, "b": mit}) == mit and common({"a": mit, "b": Licence()}) is None
    assert common({"a": other, "b": Licence("other", "its", "LICENSE")}) is None
    assert concerns({"a": mit, "b": mit}) == []
    assert any("derived" in each for each in concerns({"a": Licence("gpl-3.0")}))
    assert any("shar" in each for each in concerns({"a": Licence("cc-by-nd-4.0")}))
    assert len(set(KNOWN)) == len(KNOWN) > 60
    with pytest.raises(InputError, match="knows no licence"):
        stated("my own")


@pytest.mark.parametrize(
    ("options", "said"), [((), "as an adapter"), (("--experts", "2"), "an expert for each source")]
)
def test_adapters_and_experts_have_cards(
    adapters: dict[str, str], tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    models = {name: adapters[name] for name in "ab"}
    content = {
        "base": adapters["base"],
        "models": models,
        "dtype": "float32",
        "groups": [{"method": "task_arithmetic", "weight": {"a": 0.5, "b": 0.25}}],
    }
    (file := tmp_path / "recipe.yaml").write_text(config.dump(content))
    out = tmp_path / "out"
    assert main(["merge", str(file), "--as-adapter", *options, "-o", str(out)]) == 0
    found = ModelCard((out / CARD).read_text())
    assert said in found.text and str(tmp_path) not in found.text
    data = found.data.to_dict()
    assert data["library_name"] == "peft" and data["language"] == ["th"] and "license" not in data
    assert "| a | base+a | mit; apache-2.0 |" in found.text
    assert "differ (base mit, a apache-2.0, b apache-2.0)" in found.text
    assert "a 0.50 to 0.50; b 0.25 to 0.25" in (out / PICTURE).read_text()
    assert main(["push", str(out), "me/x", "--license", "mit", "--dry-run"]) == 0
