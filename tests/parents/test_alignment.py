"""Models that differ in vocabulary or in their tied heads, seen as one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge import merge, merge_into, merge_tensors
from evomerge.checkpoint import ABSENT, Checkpoint, ModelRef, matching_rows
from evomerge.engines.huggingface.building import build_model
from evomerge.errors import Incompatible
from evomerge.merging import Materializer
from evomerge.merging.blueprint import Blueprint, notes_on
from evomerge.parents import Parents, check_compatible
from evomerge.recipe import Body, Recipe, group
from evomerge.testing.models import tiny_family

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untied: base, chat and sea."""
    return tiny_family(tmp_path_factory.mktemp("untied"), tie_word_embeddings=False)


def with_vocabulary(
    model: Path, out: Path, tokens: Mapping[str, int], height: int | None = None
) -> Path:
    """A copy of ``model`` whose ``tokens`` (old names for rows that move, or new ones) are all it has.

    A row keeps its token's values; the row of a new token is constant, padding is -1.
    """
    shutil.copytree(model, out)
    content = json.loads((model / "tokenizer.json").read_text())
    before = content["model"]["vocab"]
    content["model"]["vocab"] = dict(tokens)
    content["added_tokens"] = [
        {**token, "id": tokens[token["content"]]}
        for token in content["added_tokens"]
        if token["content"] in tokens
    ]
    (out / "tokenizer.json").write_text(json.dumps(content))
    weights = load_file(model / "model.safetensors")
    height = max(tokens.values()) + 1 if height is None else height
    for name in {EMBED, HEAD} & set(weights):
        old = weights[name]
        weights[name] = torch.full((height, old.shape[1]), -1.0, dtype=old.dtype)
        for token, row in tokens.items():
            if row < height:
                weights[name][row] = old[before[token]] if token in before else 1000.0 + row
    save_file(weights, out / "model.safetensors")
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "vocab_size": height}))
    return out


def tokens_of(model: Path) -> dict[str, int]:
    vocab = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    assert isinstance(vocab, dict)
    return vocab


def opened(folders: Mapping[str, Path], tokenizer: str | None = None) -> Parents:
    checkpoints = {name: Checkpoint.open(ModelRef(str(f))) for name, f in folders.items()}
    return Parents(checkpoints, tokenizer)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


# -- rows ----------------------------------------------------------------------------------------

VOCABULARY = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 9), max_size=8).filter(
    lambda tokens: len(set(tokens.values())) == len(tokens)
)


@given(tokens=VOCABULARY, wanted=VOCABULARY, height=st.integers(1, 12), rows=st.integers(1, 12))
def test_every_row_keeps_its_meaning(
    tokens: dict[str, int], wanted: dict[str, int], height: int, rows: int
) -> None:
    found = matching_rows(tokens, height, wanted, rows)
    ours, theirs = ({row: token for token, row in v.items()} for v in (tokens, wanted))
    assert len(found) == rows
    for row, source in enumerate(found):
        if source == ABSENT:
            token = theirs.get(row)
            # no such token here, or one without a row; or padding there that is not padding here
            assert tokens.get(token, height) >= height if token else row >= height or row in ours
        else:
            assert source < height and ours.get(source) == theirs.get(row)
    used = [row for row in found if row != ABSENT]
    assert len(set(used)) == len(used)


@given(tokens=VOCABULARY, height=st.integers(1, 12))
def test_a_vocabulary_matches_itself(tokens: dict[str, int], height: int) -> None:
    assert matching_rows(tokens, height, tokens, height) == list(range(height))


# -- views ---------------------------------------------------------------------------------------


def test_models_that_agree_are_mapped(models: dict[str, Path]) -> None:
    parents = opened(models)
    assert parents.notes() == []
    for model in models:
        stored = weights(models[model])
        for name in Blueprint.of(parents).names:
            tensor = parents.tensor(model, name)
            assert torch.equal(tensor, stored[name]) and parents.mapped(model, name)
            assert tensor is parents.tensor(model, name)
            assert parents.shape(model, name) == tuple(tensor.shape)


@pytest.mark.parametrize("donor", ["base", "chat", "sea"])
def test_a_shuffled_vocabulary_changes_nothing(
    models: dict[str, Path], tmp_path: Path, donor: str
) -> None:
    """Whoever gives the order, each token has the rows it had."""
    tokens = tokens_of(models["sea"])
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = {token: order[row] for token, row in tokens.items()}
    members = {**models, "sea": with_vocabulary(models["sea"], tmp_path / "sea", shuffled)}
    parents = opened(members, donor)
    result = tokens_of(members[donor])
    for model, folder in models.items():
        stored = weights(folder)
        for name in (EMBED, HEAD):
            ours = parents.tensor(model, name)
            for token, row in result.items():
                assert torch.equal(ours[row], stored[name][tokens[token]])
            moved = (model == "sea") != (donor == "sea")
            assert parents.mapped(model, name) != moved
        assert parents.mapped(model, "model.norm.weight")
    said = parents.notes()
    assert f"{len(tokens)} rows of {donor}" in said[0] and "rows moved" in said[1]


def test_a_token_that_a_model_lacks_comes_from_those_that_have_it(
    models: dict[str, Path], tmp_path: Path
) -> None:
    tokens = tokens_of(models["base"])
    without_b = {token: row for token, row in tokens.items() if token != "b"}
    members = {
        "base": with_vocabulary(models["base"], tmp_path / "base", tokens),
        "chat": with_vocabulary(models["chat"], tmp_path / "chat", {**tokens, "<new>": 258, "<mine>": 259}),
        "sea": with_vocabulary(models["sea"], tmp_path / "sea", {**without_b, "<new>": 260}, 262),
    }  # fmt: skip
    stored = {name: weights(folder) for name, folder in members.items()}
    parents = opened(members, "chat")
    assert (parents.height, parents.shape("base", HEAD)) == (260, (260, 32))
    for name in (EMBED, HEAD):
        base, chat, sea = (parents.tensor(model, name) for model in members)
        assert base.shape == chat.shape == sea.shape == (260, 32)
        assert torch.equal(chat, stored["chat"][name])
        assert torch.equal(base[:258], stored["base"][name])
        assert torch.equal(sea[tokens["b"]], stored["base"][name][tokens["b"]])  # the base has it
        assert (base[258] == (1258.0 + 1260.0) / 2).all()  # the mean of the two that have it
        assert (sea[258] == 1260.0).all()
        assert (base[259] == 1259.0).all() and (sea[259] == 1259.0).all()  # the one that has it
    assert parents.notes() == [
        "vocabularies differ: aligned by token to 260 rows of chat",
        "base: filled with the mean of the models that have them: 2",
        "sea: rows moved: 1, filled from the base: 1, filled with the mean of the models that have them: 1, left out: 4",
    ]
    parents = opened(members, "base")
    assert parents.height == 258
    for name in (EMBED, HEAD):
        assert torch.equal(parents.tensor("chat", name), stored["chat"][name][:258])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_means_of_rows_are_not_rounded(tmp_path: Path, dtype: str) -> None:
    family = tiny_family(tmp_path / "family", dtype=dtype)
    tokens = tokens_of(family["base"])
    fewer = {token: row for token, row in tokens.items() if row < 200}
    members = {**family, "base": with_vocabulary(family["base"], tmp_path / "base", fewer, 200)}
    parents = opened(members, "chat")
    chat, sea = (weights(family[name])[EMBED].float() for name in ("chat", "sea"))
    base = parents.tensor("base", EMBED)
    assert base.dtype == torch.float32
    assert torch.equal(base[200:], (chat[200:] + sea[200:]) / 2)
    # where the stored dtype holds the values, it stays
    members = {"base": members["base"], "chat": family["chat"]}
    base = opened(members, "chat").tensor("base", EMBED)
    assert base.dtype == getattr(torch, dtype)
    assert torch.equal(base[200:].float(), chat[200:])


def test_padding_is_cut_or_taken_from_the_tokenizers_model(
    models: dict[str, Path], tmp_path: Path
) -> None:
    tokens = tokens_of(models["base"])
    tall = with_vocabulary(models["sea"], tmp_path / "tall", tokens, 264)
    for donor, height in (("chat", 258), ("sea", 264)):
        parents = opened({**models, "sea": tall}, donor)
        for model, name in ((m, n) for m in models for n in (EMBED, HEAD)):
            ours = parents.tensor(model, name)
            assert ours.shape == (height, 32)
            assert torch.equal(ours[:258], weights(models[model])[name])
            assert (ours[258:] == -1).all()  # what the only model with padding holds there


def test_a_spare_row_that_became_a_token_is_not_padding(
    models: dict[str, Path], tmp_path: Path
) -> None:
    tokens = tokens_of(models["base"])
    padded = {
        name: with_vocabulary(folder, tmp_path / name, tokens, 260)
        for name, folder in models.items()
    }
    padded["sea"] = with_vocabulary(models["sea"], tmp_path / "new", {**tokens, "<new>": 259}, 260)
    assert (opened(padded, "base").tensor("sea", EMBED)[259] == -1).all()
    assert (opened(padded, "sea").tensor("base", EMBED)[259] == 1259).all()


def test_an_adapter_is_applied_before_its_rows_move(
    models: dict[str, Path], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    options = LoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(models["base"]), options).save_pretrained(
        tmp_path / "lora"
    )
    adapted = f"{models['base']}+{tmp_path / 'lora'}"
    tokens = tokens_of(models["chat"])
    order = {token: len(tokens) - 1 - row for token, row in tokens.items()}
    chat = with_vocabulary(models["chat"], tmp_path / "chat", order)
    refs = {"base": models["base"], "chat": chat, "sea": Path(adapted)}
    expected = Checkpoint.open(ModelRef(adapted)).tensor(EMBED).flip(0)
    assert torch.equal(opened(refs, "chat").tensor("sea", EMBED), expected)


# -- tied heads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied_one", ["base", "sea"])
def test_a_tied_head_becomes_a_copy_beside_one_that_is_not(
    models: dict[str, Path], family: dict[str, Path], tied_one: str
) -> None:
    parents = opened({**models, tied_one: family[tied_one]})
    blueprint = Blueprint.of(parents)
    assert not blueprint.tied and not blueprint.config()["tie_word_embeddings"]
    assert blueprint.shapes[HEAD] == (258, 32)
    head = parents.tensor(tied_one, HEAD)
    assert torch.equal(head, weights(family[tied_one])[EMBED])
    assert parents.mapped(tied_one, HEAD)
    assert torch.equal(parents.tensor("chat", HEAD), weights(models["chat"])[HEAD])
    assert parents.notes() == []
    assert notes_on(parents) == [
        f"{tied_one}: the head is a copy of the embedding, others do not tie"
    ]
    both = Blueprint.of(opened(family))
    assert both.tied and HEAD not in both.names and both.config()["tie_word_embeddings"]


# -- the merged model ----------------------------------------------------------------------------


def test_the_config_is_the_first_models_with_the_tokenizers_tokens(
    models: dict[str, Path], tmp_path: Path
) -> None:
    tokens = tokens_of(models["chat"])
    chat = with_vocabulary(models["chat"], tmp_path / "chat", {**tokens, "<new>": 258}, 272)
    config = json.loads((chat / "config.json").read_text())
    config |= {"eos_token_id": [1, 258], "max_position_embeddings": 7}
    del config["bos_token_id"]
    (chat / "config.json").write_text(json.dumps(config))
    merged = Blueprint.of(opened({**models, "chat": chat}, "chat")).config()
    assert merged["vocab_size"] == 272
    assert merged["eos_token_id"] == [1, 258] and "bos_token_id" not in merged
    assert merged["max_position_embeddings"] == 256
    loaded = AutoConfig.for_model(merged["model_type"]).from_dict(merged)
    assert AutoModelForCausalLM.from_config(loaded).get_input_embeddings().weight.shape[0] == 272


def test_all_models_of_a_recipe_have_a_say_in_rows_that_one_lacks(
    models: dict[str, Path], tmp_path: Path
) -> None:
    tokens = tokens_of(models["base"])
    members = {
        "base": with_vocabulary(models["base"], tmp_path / "base", tokens),
        "chat": with_vocabulary(models["chat"], tmp_path / "chat", {**tokens, "<new>": 258}),
        "sea": with_vocabulary(models["sea"], tmp_path / "sea", {**tokens, "<new>": 259, "<x>": 258}),
    }  # fmt: skip
    refs = {name: ModelRef(str(folder)) for name, folder in members.items()}
    base = refs.pop("base")
    few = Recipe(base, refs, Body((group("task_arithmetic", ("chat",)),)), tokenizer="chat")
    parents = Parents.open(few)
    assert set(parents.models) == {"base", "chat", "sea"}
    everything = opened(members, "chat")
    for model in ("base", "chat"):
        assert torch.equal(parents.tensor(model, EMBED), everything.tensor(model, EMBED))


def test_a_merge_is_what_a_search_scored_whichever_models_its_groups_read(
    models: dict[str, Path], family: dict[str, Path], tmp_path: Path
) -> None:
    """No group reads the base here; that it does not tie its head, and its config, count all the same."""
    config = json.loads((models["base"] / "config.json").read_text())
    base = Path(shutil.copytree(models["base"], tmp_path / "base"))
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    members = {"base": base, "chat": family["chat"], "sea": family["sea"]}
    refs = {name: ModelRef(str(folder)) for name, folder in members.items()}
    groups = (
        group("linear", ("chat",), roles=("embed",)),
        group("linear", ("sea",), roles=("head",)),
        group("linear", ("chat", "sea")),
    )
    recipe = Recipe(refs.pop("base"), refs, Body(groups), dtype="float32", tokenizer="chat")
    scored: dict[str, torch.Tensor] = {}
    materializer = Materializer(opened(members, "chat"))
    materializer.each(recipe, lambda name, tensor: scored.update({name: tensor.clone()}))
    out = merge(recipe, tmp_path / "out")
    merged = weights(out)
    assert scored.keys() == merged.keys() and HEAD in merged
    assert all(torch.equal(scored[name], merged[name]) for name in merged)
    assert torch.equal(merged[HEAD], weights(members["sea"])[EMBED])
    assert json.loads((out / "config.json").read_text())["rms_norm_eps"] == 1e-5


# -- refusals ------------------------------------------------------------------------------------


def refusal(folders: Mapping[str, Path], tokenizer: str = "base") -> str:
    checkpoints = {name: Checkpoint.open(ModelRef(str(f))) for name, f in folders.items()}
    with pytest.raises(Incompatible) as caught:
        check_compatible(checkpoints, tokenizer)
    return str(caught.value)


def test_rows_without_names_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    tokens = tokens_of(models["base"])
    sea = with_vocabulary(models["sea"], tmp_path / "sea", {**tokens, "<new>": 258})
    (sea / "tokenizer.json").unlink()
    for donor, lacking in (("base", "sea"), ("sea", "sea")):
        message = refusal({**models, "sea": sea}, donor)
        assert "vocabularies differ" in message and "259" in message and "258" in message
        assert f"{lacking} has no tokenizer.json to align them by" in message
    shutil.copy(models["sea"] / "model.safetensors", sea)  # as tall as the others: taken as it is
    assert opened({**models, "sea": sea}).notes() == []


def test_other_shapes_are_still_refused(models: dict[str, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"tie_word_embeddings": False}
    wide = tiny_family(tmp_path, ("wide",), hidden_size=64, **options)["wide"]
    assert "shapes differ: model.embed_tokens.weight is (258, 64) and (258, 32)" in refusal(
        {**models, "sea": wide}
    )
    short = Path(shutil.copytree(models["sea"], tmp_path / "short"))
    cut = {n: t[:200].clone() if n == HEAD else t for n, t in weights(short).items()}
    save_file(cut, short / "model.safetensors")
    assert "shapes differ: lm_head.weight is (200, 32) and (258, 32)" in refusal(
        {**models, "sea": short}
    )


# -- merged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", ["base", "chat", "sea"])
@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
def test_models_that_differ_are_merged_by_token(
    models: dict[str, Path],
    family: dict[str, Path],
    tmp_path: Path,
    method: str,
    tokenizer: str,
) -> None:
    """The folder and the live model hold the same bytes, and what a hand-made alignment gives."""
    tokens = tokens_of(models["base"])
    order = {token: len(tokens) - 1 - row for token, row in tokens.items()}
    members = {
        "base": with_vocabulary(models["base"], tmp_path / "base", tokens, 264),
        "chat": with_vocabulary(models["chat"], tmp_path / "chat", {**order, "<new>": 258}),
        "sea": family["sea"],  # tied, and as tall as its tokenizer
    }
    refs = {name: ModelRef(str(folder)) for name, folder in members.items()}
    base = refs.pop("base")
    groups = (group(method, ("chat", "sea"), {"weight": {"chat": 0.5, "sea": 0.25}}),)
    recipe = Recipe(base, refs, Body(groups), dtype="float32", tokenizer=tokenizer)
    merge(recipe, tmp_path / "out")
    disk = weights(tmp_path / "out")
    parents = opened(members, tokenizer)
    live = build_model(Blueprint.of(parents), parents.donor, "float32", "cpu")
    merge_into(recipe, live, parents)
    parameters = dict(live.named_parameters())
    assert parameters.keys() == disk.keys() and {EMBED, HEAD} <= disk.keys()
    assert all(torch.equal(parameters[name], disk[name]) for name in disk)
    height = {"base": 264, "chat": 259, "sea": 258}[tokenizer]
    assert disk[EMBED].shape == disk[HEAD].shape == (height, 32)
    # a token that all know
    stored = {name: weights(folder) for name, folder in members.items()}
    wanted, vocabularies = (
        tokens_of(members[tokenizer]),
        {n: tokens_of(f) for n, f in members.items()},
    )
    for name in (EMBED, HEAD):
        rows = {
            model: stored[model].get(name, stored[model][EMBED])[vocabularies[model]["k"]]
            for model in members
        }
        expected = merge_tensors(
            method,
            {model: rows[model] for model in ("chat", "sea")},
            base=rows["base"] if method == "task_arithmetic" else None,
            parameters={"weight": {"chat": 0.5, "sea": 0.25}},
        )
        torch.testing.assert_close(disk[name][wanted["k"]], expected)
        if tokenizer == "chat":  # the only one that has it
            assert torch.equal(disk[name][258], stored["chat"][name][258])
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert loaded(torch.tensor([[1, 2, height - 1]])).logits.shape[-1] == height
