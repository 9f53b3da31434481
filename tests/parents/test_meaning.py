"""Configs are compared by what they mean: against what transformers computes under them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.activations import ACT2FN

from evomerge import Recipe, config, merge, search
from evomerge.checkpoint.meaning import _SAME_FUNCTION, TOPICS, differences, meanings
from evomerge.cli import main
from evomerge.errors import ConfigError, Incompatible, InputError
from evomerge.run.spec import load_run
from evomerge.testing.models import tiny_family

Config = dict[str, Any]
LENGTH = 32  # tokens of an input
FIVE = int(transformers.__version__.partition(".")[0]) >= 5
SHAPE: Config = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "tie_word_embeddings": True,
}
LINEAR: Config = {"rope_type": "linear", "factor": 4.0}
LLAMA3: Config = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
YARN: Config = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def config_of(model_type: str, **more: Any) -> Config:
    """A config as a file holds it: with what is said here and no more."""
    heads = {"head_dim": 8} if model_type.startswith(("gemma", "qwen3")) else {}
    scale = {"query_pre_attn_scalar": 8} if model_type in ("gemma2", "gemma3_text") else {}
    return {"model_type": model_type, **SHAPE, **heads, **scale, **more}


def logits(config: Config) -> torch.Tensor:
    """What a model of these settings, and the same weights each time, says to one input."""
    kind = CONFIG_MAPPING[config["model_type"]]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = kind.from_dict(json.loads(json.dumps({**config, "torch_dtype": "float32"})))
        model = AutoModelForCausalLM.from_config(made, attn_implementation="eager").eval()
        tokens = torch.randint(0, 40, (1, LENGTH))
    with torch.no_grad():
        return torch.as_tensor(model(tokens).logits)


def computable(*configs: Config) -> bool:
    """False where this transformers is older than a spelling, and computes something else under it."""
    return FIVE or not any("rope_parameters" in config for config in configs)


SAME = [
    ("llama", {}, {"rope_theta": 10000.0}),
    ("llama", {"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500000}}),
    ("llama", {"rope_scaling": None}, {"rope_scaling": {"type": "default"}}),
    ("llama", {"rope_scaling": LINEAR}, {"rope_scaling": {"type": "linear", "factor": 4}}),
    ("llama", {"rope_scaling": LINEAR}, {"rope_parameters": {**LINEAR, "rope_theta": 1e4}}),
    ("llama", {}, {"rope_scaling": {"rope_type": "linear", "factor": 1.0}}),
    ("llama", {"rope_scaling": LLAMA3}, {"rope_scaling": LLAMA3, "max_position_embeddings": 128}),
    ("llama", {"rope_scaling": YARN}, {"rope_scaling": {**YARN, "beta_fast": 32, "beta_slow": 1.0}}),
    ("llama", {}, {"hidden_act": "swish", "rms_norm_eps": 1e-6}),
    ("llama", {}, {"head_dim": 8, "torch_dtype": "bfloat16", "use_cache": False}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 8}, {"sliding_window": 16, "max_window_layers": 1}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 4}, {"sliding_window": 4}),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        {
            "use_sliding_window": True,
            "sliding_window": 8,
            "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2,
        },
    ),
    ("mistral", {"sliding_window": 64}, {"sliding_window": None}),
    ("mistral", {"sliding_window": 8, "max_position_embeddings": 8}, {"sliding_window": 8}),
    *([("gemma", {"hidden_act": "gelu"}, {"hidden_act": "gelu_pytorch_tanh"})] if FIVE else []),
    ("gemma2", {"hidden_act": "silu"}, {"attn_logit_softcapping": 50.0, "hidden_activation": "gelu_pytorch_tanh"}),
    ("gemma3_text", {"rope_theta": 1e6}, {"rope_local_base_freq": 10000.0}),
    (
        "gemma3_text",
        {"rope_local_base_freq": 500.0, "sliding_window_pattern": 2},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    ("granite", {}, {"embedding_multiplier": 1.0, "logits_scaling": 1}),
    ("phi3", {}, {"partial_rotary_factor": 1.0, "sliding_window": None}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "mine", "theirs"), SAME)
def test_spellings_of_one_meaning_are_one(kind: str, mine: Config, theirs: Config) -> None:
    if kind == "phi3":
        mine, theirs = ({**each, "pad_token_id": 0} for each in (mine, theirs))
    ours, other = config_of(kind, **mine), config_of(kind, **theirs)
    assert differences(ours, other) == differences(other, ours) == []
    reads_all = ours["max_position_embeddings"] >= LENGTH
    if reads_all and computable(ours, other):
        torch.testing.assert_close(logits(ours), logits(other), rtol=1e-4, atol=1e-4)


OTHER = [
    ("llama", {}, {"rope_theta": 5e5}, "rope", ("rope_theta", "500000.0", "10000.0")),
    ("llama", {"rope_scaling": None}, {"rope_scaling": LLAMA3}, "rope", ("llama3", "default", "8.0 and none")),
    ("llama", {}, {"rope_parameters": {**LINEAR, "rope_theta": 1e4}}, "rope", ("linear",)),
    ("llama", {"rope_scaling": YARN}, {"rope_scaling": {**YARN, "attention_factor": 2.0}}, "rope", ("2.0 and none",)),
    ("llama", {"rope_scaling": LINEAR}, {"rope_scaling": {**LINEAR, "factor": 2.0}}, "rope", ("2.0 and 4.0",)),
    ("phi3", {}, {"partial_rotary_factor": 0.5}, "rope", ("partial_rotary_factor is 0.5 and none",)),
    ("gemma3_text", {}, {"rope_local_base_freq": 500.0}, "rope", ("500.0",)),
    ("mistral", {"sliding_window": 8}, {"sliding_window": None}, "window", ("sliding_window is none and 8",)),
    ("mistral", {"sliding_window": None}, {"sliding_window": 8}, "window", ("sliding_window is 8 and none",)),
    ("mistral", {"sliding_window": 8}, {"sliding_window": 4}, "window", ("4 and 8",)),
    ("qwen2", {}, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}, "window", ("8 and none",)),
    ("gemma2", {"sliding_window": 8}, {"sliding_window": 4}, "window", ("sliding_window is 4 and 8",)),
    ("gemma2", {}, {"query_pre_attn_scalar": 4}, "attention_scale", ("query_pre_attn_scalar is 4 and 8",)),
    ("gemma2", {}, {"final_logit_softcapping": None}, "soft_cap", ("final_logit_softcapping is none and 30.0",)),
    ("gemma2", {}, {"attn_logit_softcapping": 5.0}, "soft_cap", ("attn_logit_softcapping is 5.0 and 50.0",)),
    ("granite", {}, {"attention_multiplier": 0.1}, "attention_scale", ("0.1 and 1.0",)),
    ("granite", {}, {"residual_multiplier": 0.2}, "multipliers", ("residual_multiplier is 0.2 and none",)),
    ("granite", {"logits_scaling": 8.0}, {}, "multipliers", ("logits_scaling is none and 8.0",)),
    ("llama", {}, {"hidden_act": "gelu"}, "activation", ("hidden_act is 'gelu' and 'silu'",)),
    ("llama", {}, {"num_attention_heads": 2, "num_key_value_heads": 1}, "heads", ("num_attention_heads is 2 and 4",)),
    ("llama", {}, {"rms_norm_eps": 0.1}, "epsilon", ("rms_norm_eps is 0.1 and 1e-06",)),
    ("mixtral", {"num_local_experts": 4}, {"num_local_experts": 4, "num_experts_per_tok": 1}, "experts", ("1 and 2",)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "first", "second", "topic", "says"), OTHER)
def test_another_meaning_is_found(
    kind: str, first: Config, second: Config, topic: str, says: tuple[str, ...]
) -> None:
    if kind == "phi3":
        first, second = ({**each, "pad_token_id": 0} for each in (first, second))
    ours, other = config_of(kind, **second), config_of(kind, **first)
    (found,) = [each for each in differences(ours, other) if each.topic]
    assert found.topic == topic and found.grave
    for part in says:
        assert part in str(found)
    assert [each.topic for each in differences(other, ours) if each.grave] == [topic]
    if topic != "heads" and computable(ours, other):  # with fewer heads the shapes are others, too
        assert (logits(ours) - logits(other)).abs().max() > 1e-3


@pytest.mark.parametrize(("one", "other"), _SAME_FUNCTION.items())
def test_functions_that_are_taken_for_one_are_one(one: str, other: str) -> None:
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    torch.testing.assert_close(ACT2FN[one](x), ACT2FN[other](x), rtol=0, atol=1e-9)
    assert not torch.allclose(ACT2FN["gelu"](x), ACT2FN["gelu_pytorch_tanh"](x), atol=1e-5)


def test_small_epsilons_and_unknown_keys_are_told_and_not_grave() -> None:
    ours = config_of("llama", rms_norm_eps=1e-5, retrieval_heads=[1], initializer_range=0.02)
    epsilon, unknown = differences(ours, config_of("llama"))
    assert (epsilon.topic, epsilon.grave, str(epsilon)) == (
        "epsilon",
        False,
        "rms_norm_eps is 1e-05 and 1e-06",
    )
    assert (unknown.topic, unknown.grave, str(unknown)) == (
        "",
        False,
        "retrieval_heads is [1] and none",
    )


def test_a_setting_that_is_not_read_changes_nothing() -> None:
    ours, other = config_of("llama", sliding_window=8, residual_multiplier=0.5), config_of("llama")
    (found,) = differences(ours, other)
    assert not found.grave and set(found.mine) == {"sliding_window", "residual_multiplier"}
    assert torch.equal(logits(ours), logits(other))
    # Mistral knows no switch for its window
    ours, other = (
        config_of("mistral", sliding_window=size, use_sliding_window=False) for size in (8, None)
    )
    assert [each.topic for each in differences(ours, other)] == ["window"]
    assert not torch.allclose(logits(ours), logits(other), atol=1e-3)


def test_a_language_model_inside_another_is_read() -> None:
    text = {k: v for k, v in config_of("gemma3_text").items() if k != "tie_word_embeddings"}
    ours, other = (
        {"model_type": "gemma3", "text_config": {**text, **more}, "vision_config": {}}
        for more in ({}, {"final_logit_softcapping": 20.0})
    )
    (found,) = differences(ours, other)
    assert found.topic == "soft_cap" and differences(ours, ours) == []


@pytest.mark.parametrize("kind", ["house_made", None, 7, ["llama"]])
def test_what_transformers_does_not_know_is_read_as_it_is_written(kind: Any) -> None:
    plain = {**SHAPE, "model_type": kind, "hidden_act": "silu"}
    same = {**plain, "hidden_act": "swish", "rope_scaling": {"type": "linear", "factor": 1}}
    assert differences(plain, same) == []
    scaled = {**plain, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    assert [each.topic for each in differences(plain, scaled)] == ["rope"]
    windowed = {**plain, "sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}
    assert [each.topic for each in differences(plain, windowed)] == ["window"]
    assert differences(plain, {**windowed, "use_sliding_window": False}) == []


@pytest.mark.parametrize(
    "broken",
    [
        {"rope_scaling": 3},
        {"rope_scaling": {"rope_type": ["x"], "factor": "many"}},
        {"rope_parameters": {"full_attention": {}, "sliding_attention": None}},
        {"layer_types": [["x"], {}], "sliding_window": "8"},
        {"num_hidden_layers": -1, "sliding_window": True, "hidden_act": {}},
        {"num_attention_heads": 0, "rms_norm_eps": "small", "max_position_embeddings": []},
        {"text_config": [], "query_pre_attn_scalar": float("nan")},
    ],
)
def test_nonsense_is_compared_not_obeyed(broken: Config) -> None:
    for kind in ("llama", "gemma2", "house_made"):
        nonsense = config_of(kind, **broken)
        assert set(meanings(nonsense)) == set(TOPICS)
        assert differences(nonsense, json.loads(json.dumps(nonsense))) == []
        differences(nonsense, config_of(kind))


# -- allowing ------------------------------------------------------------------------------------


@pytest.fixture
def scaled(family: dict[str, Path], tmp_path: Path) -> Path:
    """A recipe of ``chat`` and of a parent with another rope."""
    other = tiny_family(tmp_path, ("other",), rope_scaling={**LINEAR, "rope_theta": 1e4})["other"]
    recipe = {
        "base": str(family["base"]),
        "models": {"chat": str(family["chat"]), "other": str(other)},
        "dtype": "float32",
        "groups": [{"method": "task_arithmetic"}],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(config.dump(recipe))
    return path


def test_a_difference_is_merged_where_it_is_allowed(
    scaled: Path, family: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = Recipe.load(scaled), tmp_path / "out"
    with pytest.raises(Incompatible, match=r"rope_type is 'linear' and 'default'.*allow: \[rope\]"):
        merge(recipe, out)
    allowed = recipe.allowing(["rope"])
    assert allowed.digest != recipe.digest and recipe.allowing([]) == recipe
    merge(allowed, out)
    made, base = (json.loads((d / "config.json").read_text()) for d in (out, family["base"]))
    keys = ("rope_parameters", "rope_scaling", "rope_theta")
    assert [made.get(k) for k in keys] == [base.get(k) for k in keys]  # the first model's
    assert Recipe.load(out / "evomerge.yaml").allow == ("rope",)

    for command in (["check", scaled], ["merge", scaled, "-o", tmp_path / "again"]):
        assert main([str(each) for each in (*command, "--allow", "rope", "window")]) == 0
        said = capsys.readouterr()
        assert "note: other (" in said.out + said.err
        assert "config.json differs in rope: rope_type is 'linear'" in said.out + said.err
    scaled.write_text("allow: rope\n" + scaled.read_text())
    assert Recipe.load(scaled).allow == ("rope",)
    assert main(["check", str(scaled)]) == 0


def test_a_recipe_keeps_what_it_allows(scaled: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(scaled).allowing(["window", "rope", "window"])
    assert recipe.allow == ("window", "rope")
    recipe.save(tmp_path / "saved.yaml")
    assert Recipe.load(tmp_path / "saved.yaml") == recipe
    assert Recipe.from_plain(recipe.plain, str(tmp_path)) == recipe
    assert recipe.with_body(recipe.body.plain(tuple(recipe.models))).allow == recipe.allow
    assert "allow" not in Recipe.load(scaled).plain


def test_a_run_allows_under_models(run_folder: Any) -> None:
    folder = run_folder()
    plain = config.read(folder / "run.yaml").plain
    plain["models"]["allow"] = ["rope"]
    (folder / "run.yaml").write_text(config.dump(plain))
    spec = load_run(folder)
    assert spec.template("float32").allow == ("rope",) == spec.allow
    plain["models"]["allow"] = ["ropes"]
    (folder / "run.yaml").write_text(config.dump(plain))
    with pytest.raises(ConfigError, match=r"models.allow: no topic 'ropes' \(did you mean 'rope'"):
        load_run(folder)


def test_a_search_merges_what_its_run_allows(
    run_folder: Any,
    small: Config,
    family: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tiny_family(tmp_path, ("other",), hidden_act="gelu")["other"]
    models = {
        "base": str(family["base"]),
        "sources": {"chat": str(family["chat"]), "other": str(other)},
    }
    refused = run_folder("refused", **small, models=models)
    assert main(["check", str(refused)]) == 2
    assert "allow: [activation]" in capsys.readouterr().err
    folder = run_folder("allowed", **small, models={**models, "allow": ["activation"]})
    assert main(["check", str(folder)]) == 0
    assert "config.json differs in activation: hidden_act is 'gelu'" in capsys.readouterr().out
    assert main(["check", str(folder), "--allow", "rope"]) == 2
    assert "under models.allow" in capsys.readouterr().err
    search(folder)
    capsys.readouterr()
    assert main(["export", str(folder)]) == 0
    exported = tmp_path / "best.yaml"
    exported.write_text(capsys.readouterr().out)
    assert Recipe.load(exported).allow == ("activation",)


def test_a_topic_that_there_is_not_is_refused(scaled: Path) -> None:
    with pytest.raises(InputError, match=r"no topic 'ropes' \(did you mean 'rope'\?\).*soft_cap"):
        Recipe.load(scaled).allowing(["ropes"])
    scaled.write_text("allow: [tying]\n" + scaled.read_text())
    with pytest.raises(ConfigError, match=r"recipe.yaml:1: allow: no topic 'tying'"):
        Recipe.load(scaled)
