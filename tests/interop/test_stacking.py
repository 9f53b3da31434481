"""Files of several merges: what is merged once more is a recipe of its own, and gives the two-stage result."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.cli import main
from evomerge.errors import ConfigError, InputError
from evomerge.interop import files_from_mergekit, from_mergekit, load_recipe
from evomerge.recipe import Recipe

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, family: dict[str, Path]) -> Write:
    def make(text: str) -> Path:
        path = tmp_path / "mergekit.yaml"
        path.write_text(textwrap.dedent(text).format(**family).lstrip(), encoding="utf-8")
        return path

    return make


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evomerge"


@pytest.fixture
def stored(family: dict[str, Path]) -> dict[str, dict[str, Tensor]]:
    return {name: load_file(folder / "model.safetensors") for name, folder in family.items()}


FIRST = """
    name: First
    merge_method: linear
    models:
      - {{model: {chat}, parameters: {{weight: 0.5}}}}
      - {{model: {sea}, parameters: {{weight: 0.5}}}}
    dtype: {dtype}
    """
LAST = """
    merge_method: task_arithmetic
    base_model: {base}
    models:
      - {{model: First, parameters: {{weight: 0.7}}}}
      - {{model: {sea}, parameters: {{weight: 0.4}}}}
    dtype: float32
    """


def two_stages(dtype: str = "float32") -> str:
    return FIRST.replace("{dtype}", dtype) + "---" + LAST


def by_hand(
    stored: dict[str, dict[str, Tensor]], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    found = {}
    for name, base in stored["base"].items():
        sea = stored["sea"][name]
        first = ((stored["chat"][name] + sea) / 2).to(dtype).float()
        found[name] = base + 0.7 * (first - base) + 0.4 * (sea - base)
    return found


def merged(recipe: Path, out: Path) -> dict[str, Tensor]:
    assert main(["merge", str(recipe), "-o", str(out)]) == 0
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_two_stage_result(
    write: Write, stored: dict[str, dict[str, Tensor]], tmp_path: Path, dtype: str
) -> None:
    """Rounded to the inner merge's dtype between; imported, and merged as it is."""
    path = write(two_stages(dtype))
    found = merged(path, tmp_path / "at-once")
    expected = by_hand(stored, getattr(torch, dtype))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    (tmp_path / "made").mkdir()
    assert main(["import", str(path), "-o", str(tmp_path / "made" / "best.yaml")]) == 0
    shutil.move(tmp_path / "made", tmp_path / "moved")  # the two lie beside one another
    names = sorted(file.name for file in (tmp_path / "moved").iterdir())
    assert names == ["best-First.yaml", "best.yaml"]
    again = merged(tmp_path / "moved" / "best.yaml", tmp_path / "imported")
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_the_merged_folder_says_how_it_was_made_without_the_cache(
    write: Write, tmp_path: Path, cache: Path
) -> None:
    found = merged(write(two_stages()), tmp_path / "out")
    shutil.rmtree(cache)
    again = merged(tmp_path / "out" / "evomerge.yaml", tmp_path / "again")
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_the_order_in_the_file_makes_no_difference(write: Write, tmp_path: Path) -> None:
    text = two_stages()
    first, last = text.split("---")
    forth = files_from_mergekit(write(text))
    assert list(forth) == ["recipe-First.yaml", "recipe.yaml"]
    assert files_from_mergekit(write(f"{last}---{first}")) == forth


def test_check_reads_it(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(write(two_stages()))]) == 0
    said = capsys.readouterr().out
    assert "First = recipe-First.yaml" in said and "mergekit.yaml: ok" in said


def test_a_merge_may_be_the_base_and_be_used_twice(
    write: Write, stored: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    """Three floors; the last one has no name, or a name that nobody uses."""
    text = """
        name: low
        merge_method: linear
        models: [{{model: {chat}}}, {{model: {sea}}}]
        parameters: {{weight: 1}}
        dtype: float32
        ---
        name: high
        merge_method: task_arithmetic
        base_model: low
        models: [{{model: {chat}, parameters: {{weight: 2.0}}}}]
        dtype: float32
        ---
        name: model
        merge_method: linear
        models: [{{model: low, parameters: {{weight: 0.25}}}}, {{model: high, parameters: {{weight: 0.75}}}}]
        dtype: float32
        """
    found = merged(write(text), tmp_path / "named")
    for name, chat in stored["chat"].items():
        low = (chat + stored["sea"][name]) / 2
        expected = 0.25 * low + 0.75 * (low + 2 * (chat - low))
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)
    unnamed = merged(write(text.replace("        name: model\n", "")), tmp_path / "unnamed")
    assert all(torch.equal(unnamed[name], found[name]) for name in found)


def test_a_merge_that_is_only_passed_on_is_looked_through_unless_it_rounds(write: Write) -> None:
    """What mergekit writes in float32, or in the dtype of the result, may as well not be written."""
    text = FIRST + "---\n    merge_method: passthrough\n    models: [{{model: First}}]\n    dtype: "
    for inner, outer, files in (
        ("float32", "bfloat16", 1),
        ("bfloat16", "bfloat16", 1),
        ("bfloat16", "float32", 2),
        ("float16", "bfloat16", 2),
    ):
        found = files_from_mergekit(write(text.replace("{dtype}", inner) + outer))
        assert len(found) == files, (inner, outer)
        assert f"dtype: {outer}" in found["recipe.yaml"]
    assert f"dtype: {inner}" in found["recipe-First.yaml"]


def test_dtype_and_tokenizer_come_from_the_merge_below(write: Write, tmp_path: Path) -> None:
    text = (
        FIRST.replace("{dtype}", "float16\n    tokenizer_source: {sea}")
        + """---
    merge_method: linear
    models: [{{model: First, parameters: {{weight: 0.5}}}}, {{model: {chat}, parameters: {{weight: 0.5}}}}]
    tokenizer_source: First
    """
    )
    recipe, notes = load_recipe(write(text))
    assert (recipe.dtype, recipe.tokenizer) == ("float16", "First")
    inner = Recipe.load(recipe.models["First"].portable)
    assert (inner.dtype, inner.tokenizer) == ("float16", "sea")
    assert not any("tokenizer" in note for note in notes)


def test_names_that_files_cannot_have(write: Write) -> None:
    text = two_stages().replace("First", "../a b")
    other = text.split("---")[0].replace("../a b", "a/b")
    path = write(f"{other}---{text.replace('{sea}', 'a/b')}")
    assert list(files_from_mergekit(path, "x.yml")) == ["x-a-b.yaml", "x-a-b-2.yaml", "x.yml"]


def test_an_unused_merge_is_left_out_and_said(write: Write) -> None:
    text = two_stages() + "---" + FIRST.replace("First", "Other").replace("{dtype}", "float32")
    files = files_from_mergekit(write(text))
    assert list(files) == ["recipe-First.yaml", "recipe.yaml"]
    assert "# Other: left out, as the model is not made of it" in files["recipe.yaml"]


def test_several_files_need_a_place(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(two_stages())
    with pytest.raises(InputError, match="say with -o FILE where they go"):
        from_mergekit(path)
    assert main(["import", str(path)]) == 2
    out = tmp_path / "recipe.yaml"
    (tmp_path / "recipe-First.yaml").write_text("mine")
    assert main(["import", str(path), "-o", str(out)]) == 2
    assert "recipe-First.yaml: exists already" in capsys.readouterr().err
    assert not out.exists() and (tmp_path / "recipe-First.yaml").read_text() == "mine"
    assert main(["import", str(path), "-o", str(out), "--force"]) == 0


PLAIN = "merge_method: linear\nmodels: [{{model: {chat}}}, {{model: {sea}}}]\nparameters: {{weight: 1}}\n"


def merging(*names: str) -> str:
    models = ", ".join(f"{{{{model: {name}}}}}" for name in names)
    return f"merge_method: linear\nmodels: [{models}]\nparameters: {{{{weight: 1}}}}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{PLAIN}---\n{PLAIN}", r"2 merges have no name \(merge_method in lines 1, 5\): expected one"),
        (f"name: a\n{PLAIN}---\nname: b\n{PLAIN}", "a, b: each makes a model that no other merge uses"),
        (f"name: a\n{PLAIN}---\nname: a\n{PLAIN}---\n{merging('a')}", r":6: name: two merges are called 'a'"),
        (f"name: a\n{merging('a', '{chat}')}", r":1: name: is made from itself: a -> a$"),
        (
            f"name: a\n{merging('b', '{chat}')}---\nname: b\n{merging('c')}---\nname: c\n{merging('a')}---\n{merging('c')}",
            r":1: name: is made from itself: a -> b -> c -> a$",
        ),
        (f"name: First\n{PLAIN}---\n{merging('Frist', '{chat}')}", r"'Frist' is no merge .* \(did you mean 'First'\?\)"),
        (f"name: First\n{PLAIN}---\n{merging('First+some/adapter')}", "First is a merge of this file, and an adapter"),
        (f"name: a\n{merging('{chat}')}---\n{merging('a')}".replace("{chat}", "a"), "is made from itself"),
    ],
)  # fmt: skip
def test_names_that_are_not_clear_are_refused(write: Write, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        files_from_mergekit(write(text))
    assert re.search(says, str(caught.value), re.MULTILINE), caught.value


def test_an_absent_merge_is_an_absent_folder(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(f"name: a\n{PLAIN}---\n{merging('a', 'Something')}")
    assert main(["merge", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "Something: no such folder" in capsys.readouterr().err
