"""Adapters that train tokens: rows, whole embeddings, more of them, one end of a tied model; as peft computes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import merge
from evomerge.checkpoint import Checkpoint, ModelRef, vocabulary
from evomerge.errors import CheckpointError
from evomerge.recipe import Recipe
from evomerge.testing.models import tiny_family

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SIZE = 258
MORE = ["<|a|>", "<|b|>"]
SAVED = {"modules_to_save": ["embed_tokens", "lm_head"]}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tied" if request.param else "untied")
    return tiny_family(folder, ("base",), tie_word_embeddings=request.param, num_hidden_layers=2)[
        "base"
    ]


def is_tied(base: Path) -> bool:
    return bool(json.loads((base / "config.json").read_text())["tie_word_embeddings"])


def trained(
    base: Path, out: Path, more: list[str] | None = None, tokenizer: bool = True, **options: Any
) -> dict[str, Tensor]:
    """An adapter that peft saved into ``out``, with ``more`` tokens; what peft merges."""
    from peft import LoraConfig, get_peft_model

    model, words = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    if more:
        words.add_tokens(more, special_tokens=True)
        model.resize_token_embeddings(len(words))
    settings = {"r": 2, "target_modules": ["v_proj"], "init_lora_weights": False, **options}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(out)
    if tokenizer:
        words.save_pretrained(out)
    merged = adapted.merge_and_unload()
    return {
        EMBED: merged.get_input_embeddings().weight.detach().clone(),
        HEAD: merged.get_output_embeddings().weight.detach().clone(),
    }


def opened(base: Path, adapter: Path) -> Checkpoint:
    return Checkpoint.open(ModelRef(f"{base}+{adapter}"))


@pytest.mark.parametrize(
    ("options", "apart"),
    [
        ({"trainable_token_indices": [7, 3]}, False),
        ({"trainable_token_indices": {"embed_tokens": [3, 5]}}, False),
        ({"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [9, 2]}}, False),
        ({"modules_to_save": ["embed_tokens"]}, True),
        ({"modules_to_save": ["lm_head"]}, True),
        (SAVED, True),
        ({"more": MORE, **SAVED}, True),
        ({"more": MORE, "modules_to_save": ["embed_tokens"]}, True),
        ({"more": MORE, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, False),
        ({"more": MORE}, False),
        ({"more": MORE, "trainable_token_indices": [SIZE, SIZE + 1]}, False),
    ],
    ids=str,
)
def test_embedding_and_head_are_what_peft_merges(
    base: Path, tmp_path: Path, options: dict[str, Any], apart: bool
) -> None:
    """``apart``: a tied model's ends are trained apart, so that it is tied no longer."""
    if is_tied(base) and isinstance(options.get("trainable_token_indices"), dict):
        options = {"trainable_token_indices": {"embed_tokens": [3, 5]}}
    expected = trained(base, tmp_path / "lora", **options)
    model = opened(base, tmp_path / "lora")
    assert model.tied == (is_tied(base) and not apart)
    torch.testing.assert_close(model.tensor(EMBED), expected[EMBED])
    if model.tied:
        assert torch.equal(expected[EMBED], expected[HEAD]) and HEAD not in model.names
    else:
        torch.testing.assert_close(model.tensor(HEAD), expected[HEAD])
        assert model.entry(HEAD).shape == expected[HEAD].shape
    assert model.height == len(expected[EMBED])
    assert len(vocabulary(model)) == SIZE + len(options.get("more", ()))


def test_merges_have_its_tokens_and_ends(base: Path, tmp_path: Path) -> None:
    expected = trained(base, tmp_path / "lora", MORE, **SAVED)
    recipe = Recipe.from_plain(
        {
            "base": str(base),
            "models": {"tuned": f"{base}+{tmp_path / 'lora'}"},
            "dtype": "float32",
            "tokenizer": "tuned",
            "groups": [{"method": "task_arithmetic", "weight": 0.5}],
        }
    )
    out = merge(recipe, tmp_path / "out")
    stored, found = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    for name in (EMBED, HEAD):
        plain = stored.get(name, stored[EMBED])
        ours = (plain + expected[name][:SIZE]) / 2
        torch.testing.assert_close(found[name][:SIZE], ours, rtol=0, atol=1e-6)
        # which the base lacks, and takes from the only one that has them
        torch.testing.assert_close(found[name][SIZE:], expected[name][SIZE:], rtol=0, atol=1e-6)
    assert AutoTokenizer.from_pretrained(out).encode("<|b|>") == [SIZE + 1]
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == SIZE + 2


def test_more_rows_need_a_tokenizer_and_both_ends(base: Path, tmp_path: Path) -> None:
    trained(base, tmp_path / "bare", MORE, tokenizer=False, **SAVED)
    with pytest.raises(CheckpointError, match=r"as \(260, 32\), but in .* \(258, 32\)"):
        opened(base, tmp_path / "bare")
    if is_tied(base):
        return
    trained(base, tmp_path / "half", MORE, **SAVED)
    file = tmp_path / "half" / "adapter_model.safetensors"
    kept = {key: value for key, value in load_file(file).items() if ".lm_head." not in key}
    save_file(kept, file)
    with pytest.raises(CheckpointError, match=r"has 260 rows and lm_head\.weight 258: save both"):
        opened(base, tmp_path / "half")


@pytest.mark.parametrize("said", [None, [3], [3, SIZE], ["3", 5], {"lm_head": [3, 5]}])
def test_rows_whose_numbers_are_not_said_are_refused(
    base: Path, tmp_path: Path, said: object
) -> None:
    trained(base, tmp_path / "lora", trainable_token_indices=[3, 5])
    file = tmp_path / "lora" / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "trainable_token_indices": said}))
    with pytest.raises(
        CheckpointError, match=r"trainable_token_indices: expected|belongs to another"
    ):
        opened(base, tmp_path / "lora")


def test_the_tokenizer_beside_an_adapter_is_part_of_what_a_score_depends_on(
    base: Path, tmp_path: Path
) -> None:
    from evomerge.checkpoint.contents import files_of

    trained(base, tmp_path / "lora")
    assert "adapter/tokenizer.json" in files_of(opened(base, tmp_path / "lora"))
