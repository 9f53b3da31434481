"""Row weights: what they do to a merge, how a recipe names them, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from evomerge import merge, merge_into
from evomerge.checkpoint import ModelRef
from evomerge.commands.check import check
from evomerge.errors import InputError
from evomerge.interop import to_mergekit
from evomerge.lines import Lines
from evomerge.merging import Materializer, open_parents
from evomerge.merging.estimate import estimate_rounding
from evomerge.methods.kernel import compiled, passes, tiled
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.rows import BY, COLUMNS, ROWS, RowWeights, Vectors, array_of, count_of, text_of
from evomerge.testing.models import tiny_family

SOURCES = ("chat", "sea")
WEIGHT = {"chat": 0.8, "sea": -0.3}


def recipe_of(folder: Mapping[str, Path], *groups: Group, **changes: Any) -> Recipe:
    models = {name: ModelRef(str(folder[name])) for name in SOURCES}
    groups = groups or (group("task_arithmetic", SOURCES, {"weight": WEIGHT}),)
    body = Body(groups, rows=changes.pop("rows", None))
    return Recipe(ModelRef(str(folder["base"])), models, body, **{"dtype": "float32", **changes})


def drawn(recipe: Recipe, seed: int = 0, by: str = ROWS) -> Vectors:
    """A factor for each row, or column, of each tensor of each source."""
    shapes = Materializer(open_parents(recipe)).outline(None).shapes
    draws = np.random.default_rng(seed)
    return {
        name: {m: draws.uniform(-1, 3, count_of(shape, by)).astype(np.float32) for m in SOURCES}
        for name, shape in shapes.items()
    }


def with_rows(recipe: Recipe, vectors: Vectors, by: str = ROWS) -> Recipe:
    return replace(recipe, body=replace(recipe.body, rows=RowWeights.of(vectors, by)))


def merged(recipe: Recipe) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    materializer = Materializer(open_parents(recipe))
    materializer.each(recipe, lambda name, tensor: found.__setitem__(name, tensor.clone()))
    return found


@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
@pytest.mark.parametrize("architecture", ["Llama", "Qwen2"])
@pytest.mark.parametrize("by", BY)
def test_they_multiply_weights_row_by_row_or_column_by_column(
    tmp_path: Path, method: str, architecture: str, by: str
) -> None:
    """Also those of biases and norms, entry by entry."""
    folder = tiny_family(tmp_path, architecture=architecture)
    values = {"weight": WEIGHT, "normalize": False}
    plain = recipe_of(folder, group(method, SOURCES, values))
    vectors = drawn(plain, by=by)
    parents = open_parents(plain)
    kinds = set()
    for name, found in merged(with_rows(plain, vectors, by)).items():
        whole = [-1, *[1] * (found.ndim - 1)] if by == ROWS else [-1]
        base = parents.tensor("base", name).float() if method == "task_arithmetic" else 0.0
        expected = base + sum(
            (parents.tensor(m, name).float() - base)
            * (WEIGHT[m] * torch.from_numpy(vectors[name][m])).view(whole)
            for m in SOURCES
        )
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        kinds.add(found.ndim)
    assert kinds == {1, 2}


def test_a_line_over_depth_scales_what_they_add(family: dict[str, Path]) -> None:
    lined = group("task_arithmetic", SOURCES, {"weight": WEIGHT}, lines=Lines(0.5, 0.0))
    half = group("task_arithmetic", SOURCES, {"weight": WEIGHT, "lambda": 0.5})
    vectors = drawn(recipe_of(family))
    ours = merged(with_rows(recipe_of(family, lined), vectors))
    name = "model.layers.0.mlp.up_proj.weight"
    theirs = merged(with_rows(recipe_of(family, half), vectors))[name]
    torch.testing.assert_close(ours[name], theirs, rtol=1e-5, atol=1e-6)


def test_what_the_file_does_not_name_is_merged_as_it_is(family: dict[str, Path]) -> None:
    plain = recipe_of(family)
    name, other = "model.embed_tokens.weight", "model.norm.weight"
    some = {name: {"chat": drawn(plain)[name]["chat"]}}
    found, without = merged(with_rows(plain, some)), merged(plain)
    assert not torch.equal(found[name], without[name])
    assert torch.equal(found[other], without[other])
    ones = {name: {m: np.ones(len(v["chat"]), np.float32) for m in SOURCES} for name, v in drawn(plain).items()}  # fmt: skip
    for name, tensor in merged(with_rows(plain, ones)).items():
        assert torch.equal(tensor, without[name])


@pytest.mark.parametrize("by", BY)
def test_what_rounding_takes_of_them_is_told(tmp_path: Path, by: str) -> None:
    plain = recipe_of(tiny_family(tmp_path, architecture="Qwen2"))
    recipe = with_rows(plain, drawn(plain, by=by), by)
    parents = open_parents(recipe)
    exact = merged(recipe)
    change = sum(
        float((t - parents.tensor("base", n).float()).square().sum()) for n, t in exact.items()
    )
    lost = sum(float((t.bfloat16() - t).square().sum()) for t in exact.values())
    [shares] = estimate_rounding(recipe, parents).shares.values()
    assert shares["bfloat16"] == pytest.approx((lost / change) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("by", BY)
def test_one_set_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """In memory, on disk, compiled and tiled, after another recipe in the same model."""
    shape = {"hidden_size": 64, "intermediate_size": 528, "num_hidden_layers": 1}
    folder = tiny_family(tmp_path / "family", **shape)
    plain = recipe_of(folder, dtype="bfloat16")
    recipe = with_rows(plain, drawn(plain, by=by), by)
    recipe.save(tmp_path / "recipe.yaml")
    merge(Recipe.load(tmp_path / "recipe.yaml"), tmp_path / "out")
    from transformers import AutoModelForCausalLM

    on_disk = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(folder["base"], dtype=torch.bfloat16)
    merge_into(recipe, model)
    materializer = Materializer(open_parents(recipe))
    again = AutoModelForCausalLM.from_pretrained(folder["base"], dtype=torch.bfloat16)
    materializer.into(with_rows(plain, drawn(plain, 1, by), by), again)
    materializer.into(recipe, again)
    monkeypatch.setattr(compiled, "_loop", lambda *_, **__: None)
    assert passes.on(torch.device("cpu")) is not tiled
    in_tiles = merged(recipe)
    assert compiled._loop() is None
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(on_disk.named_parameters())[name]), name
        assert torch.equal(parameter, dict(again.named_parameters())[name]), name
        assert torch.equal(parameter, in_tiles[name]), name
    # a merged folder says how it was made, and can be made again
    kept = Recipe.load(tmp_path / "out" / "evomerge.yaml")
    assert kept.body.rows == recipe.body.rows and kept.body.rows.read()  # type: ignore[union-attr]


def test_the_digest_covers_their_content_alone(family: dict[str, Path], tmp_path: Path) -> None:
    plain = recipe_of(family)
    recipe, other = (with_rows(plain, drawn(plain, seed)) for seed in (0, 1))
    assert len({plain.digest, recipe.digest, other.digest}) == 3
    for place in ("here.yaml", "there/again.yaml"):
        recipe.save(tmp_path / place)
        loaded = Recipe.load(tmp_path / place)
        assert loaded.digest == recipe.digest
        assert loaded.portable().digest == recipe.digest
        assert loaded.body.rows is not None
        assert np.array_equal(loaded.body.rows.flat, recipe.body.rows.flat)  # type: ignore[union-attr]
    assert (tmp_path / "there" / "again.rows.safetensors").is_file()


@pytest.mark.parametrize("by", BY)
def test_moved_ones_keep_the_order(family: dict[str, Path], by: str) -> None:
    rows = RowWeights.of(drawn(recipe_of(family), by=by), by)
    moved = rows.moved(rows.flat * 2)
    assert moved.by == rows.renamed({"chat": "c"}).by == by
    for tensor, by_model in rows.vectors.items():
        for model, vector in by_model.items():
            assert np.array_equal(moved.vectors[tensor][model], vector * 2)
    assert rows.moved(rows.flat) == rows
    assert rows.size == len(rows.flat)
    assert np.array_equal(array_of(text_of(rows.flat)), rows.flat)


def test_the_file_says_what_has_a_factor(family: dict[str, Path], tmp_path: Path) -> None:
    """Of a square matrix, no length would tell."""
    plain = recipe_of(family)
    name = "model.layers.0.self_attn.o_proj.weight"
    some = {name: drawn(plain)[name]}
    by_row, by_column = with_rows(plain, some), with_rows(plain, some, COLUMNS)
    assert by_row.digest != by_column.digest
    one, other = merged(by_row)[name], merged(by_column)[name]
    assert one.shape[0] == one.shape[1] and not torch.equal(one, other)
    by_column.save(tmp_path / "recipe.yaml")
    loaded = Recipe.load(tmp_path / "recipe.yaml")
    assert torch.equal(merged(loaded)[name], other)


def test_what_is_no_file_of_theirs_is_refused(family: dict[str, Path], tmp_path: Path) -> None:
    plain = recipe_of(family)
    file = tmp_path / "recipe.yaml"
    with_rows(plain, drawn(plain)).save(file)
    rows = tmp_path / "recipe.rows.safetensors"
    content = rows.read_bytes()
    rows.write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(InputError, match="are not the recipe's"):
        merge(Recipe.load(file), tmp_path / "out")
    rows.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        check(file)


NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({f"chat/{NAME}": np.ones(3, np.float32)}, "expected 48 factors"),
        ({"chat/model.nothing.weight": np.ones(3, np.float32)}, "no tensor of the merged model"),
        ({f"code/{NAME}": np.ones(48, np.float32)}, "its group merges chat, sea"),
        ({NAME: np.ones(48, np.float32)}, "called SOURCE/TENSOR"),
        ({f"chat/{NAME}": np.ones(48, np.float32)}, "'diagonals'; expected rows or columns"),
        ({f"chat/{NAME}": np.ones(48, np.float64)}, "expected float32 vectors"),
        ({f"chat/{NAME}": np.full(48, np.nan, np.float32)}, "NaN or infinite"),
    ],
)
def test_what_does_not_fit_is_refused(
    family: dict[str, Path], tmp_path: Path, flat: dict[str, Any], message: str
) -> None:
    import hashlib

    metadata = {"by": "diagonals"} if "diagonals" in message else None
    save_file(flat, tmp_path / "r.safetensors", metadata)
    sha256 = hashlib.sha256((tmp_path / "r.safetensors").read_bytes()).hexdigest()
    recipe = recipe_of(family, rows=RowWeights("r.safetensors", sha256, str(tmp_path)))
    with pytest.raises(InputError, match=message):
        merged(recipe)


def test_only_what_is_linear_in_its_weights_has_them(
    family: dict[str, Path], tmp_path: Path
) -> None:
    plain = recipe_of(family)
    vectors = {NAME: drawn(plain)[NAME]}
    for method, reason in (("ties", "not linear"), ("linear", "normalize: true")):
        other = with_rows(recipe_of(family, group(method, SOURCES)), vectors)
        with pytest.raises(InputError, match=reason):
            merged(other)
        other.save(tmp_path / "recipe.yaml")
        with pytest.raises(InputError, match=f"rows: no tensor can have row weights.*{reason}"):
            Recipe.load(tmp_path / "recipe.yaml")


def test_check_says_what_they_are_and_mergekit_has_none(
    family: dict[str, Path], tmp_path: Path
) -> None:
    recipe = with_rows(recipe_of(family), drawn(recipe_of(family)))
    recipe.save(tmp_path / "recipe.yaml")
    count = sum(map(len, load_file(tmp_path / "recipe.rows.safetensors").values()))
    said = f"row weights: {count:,} coefficients; this is careful fine-tuning in a small subspace"
    assert any(line.startswith(said) for line in check(tmp_path / "recipe.yaml"))
    with pytest.raises(InputError, match="mergekit has one weight a tensor and model"):
        to_mergekit(recipe)
