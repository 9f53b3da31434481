"""Parents of several kinds: vision models and text models, reward models and language models, encoders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from evomerge import config, merge, merge_into
from evomerge.checkpoint import ModelRef
from evomerge.cli import main
from evomerge.commands.check import check
from evomerge.commands.search import search
from evomerge.errors import Incompatible, InputError
from evomerge.interop import to_mergekit
from evomerge.merging import open_parents
from evomerge.parents import doubts
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.testing.models import tiny_family
from evomerge.testing.zoo import text_members, tiny_members

PRESET = Path(__file__).parents[2] / "search_spaces" / "vlm_text_backbone.yaml"
PAIRS = {
    "gemma3": ("Gemma3ForConditionalGeneration", "Gemma3ForCausalLM"),
    "llava": ("LlavaForConditionalGeneration", "LlamaForCausalLM"),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", "Qwen2ForCausalLM"),
    "smolvlm": ("SmolVLMForConditionalGeneration", "LlamaForCausalLM"),
}


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Vision models ``vlm`` and ``other``, text models ``base`` and ``math``."""
    folder = tmp_path_factory.mktemp("llava")
    vision = tiny_members(folder, "llava", PAIRS["llava"][0], ("vlm", "other"))
    return {**vision, **text_members(folder, vision["vlm"], PAIRS["llava"][1])}


def recipe_of(
    members: Mapping[str, Path], *groups: Group, tokenizer: str = "vlm", **more: Any
) -> Recipe:
    sources = {name: ModelRef(str(folder)) for name, folder in members.items() if name != "base"}
    base = ModelRef(str(members["base"])) if "base" in members else None
    return Recipe(base, sources, Body(groups), "float32", tokenizer=tokenizer, **more)


def loaded(folder: Path, architecture: str = "AutoModelForImageTextToText") -> Any:
    """Of a folder that has all that the model wants, and nothing else."""
    model, info = getattr(transformers, architecture).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


def language_of(model: Any) -> dict[str, Tensor]:
    """The tensors of the blocks and what is between them, as a text model calls them, and the head."""
    found = getattr(model.model, "language_model", None) or getattr(
        model.model, "text_model", model.model
    )
    return {**found.state_dict(), "head": model.lm_head.weight}


@pytest.mark.parametrize(("model_type", "kinds"), sorted(PAIRS.items()))
def test_a_vision_model_takes_over_what_text_models_know(
    tmp_path: Path, model_type: str, kinds: tuple[str, str]
) -> None:
    """Its language model is merged with theirs, its towers stay."""
    members = tiny_members(tmp_path, model_type, kinds[0], ("vlm",))
    members |= text_members(tmp_path, members["vlm"], kinds[1])
    weights = {"vlm": 0.75, "math": 0.5}
    recipe = recipe_of(members, group("task_arithmetic", ("vlm", "math"), {"weight": weights}))
    made = loaded(merge(recipe, tmp_path / "out"))
    assert type(made).__name__ == kinds[0]
    models = {name: loaded(folder, "AutoModelForImageTextToText" if name == "vlm" else kinds[1])
              for name, folder in members.items()}  # fmt: skip
    texts = {name: language_of(model) for name, model in models.items()}
    for name, tensor in language_of(made).items():
        base, vlm, math = (texts[model][name] for model in ("base", "vlm", "math"))
        assert torch.allclose(tensor, base + 0.75 * (vlm - base) + 0.5 * (math - base), atol=1e-5)
    within = {tensor.data_ptr() for tensor in language_of(models["vlm"]).values()}
    towers = [n for n, t in models["vlm"].state_dict().items() if t.data_ptr() not in within]
    assert towers
    for name in towers:
        assert torch.equal(made.state_dict()[name], models["vlm"].state_dict()[name]), name

    merge_into(recipe, models["vlm"])
    for name, tensor in models["vlm"].state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name]), name

    alone = {"vlm": 0.0, "math": 1.0}
    only = recipe_of(members, group("task_arithmetic", ("vlm", "math"), {"weight": alone}))
    tokens = torch.arange(5, 30)[None]
    ours = loaded(merge(only, tmp_path / "only"))(input_ids=tokens).logits
    assert torch.allclose(ours, models["math"](tokens).logits, atol=1e-4), "it computes what it did"


def test_the_tokenizers_model_decides_what_the_result_is(
    tmp_path: Path, llava: dict[str, Path]
) -> None:
    """Of a text model it is a text model: what the vision model has beyond it is left out."""
    members = {name: llava[name] for name in ("base", "vlm", "math")}
    recipe = recipe_of(members, group("linear", ("vlm", "math")), tokenizer="base")
    made = loaded(merge(recipe, tmp_path / "out"), "LlamaForCausalLM")
    one, other = (
        language_of(loaded(members[name], kind))
        for name, kind in (("vlm", PAIRS["llava"][0]), ("math", "LlamaForCausalLM"))
    )
    for name, tensor in language_of(made).items():
        assert torch.allclose(tensor, (one[name] + other[name]) / 2, atol=1e-6), name
    content = json.loads((tmp_path / "out/config.json").read_text())
    assert content["architectures"] == ["LlamaForCausalLM"] and "vision_config" not in content
    assert any("multi_modal_projector" in note and "left out" in note for note in doubts(open_parents(recipe)))  # fmt: skip


def test_what_one_model_lacks_stays_whatever_a_group_says(
    tmp_path: Path, llava: dict[str, Path]
) -> None:
    """Two vision models mix their towers where a group of theirs says so; a text model has none to mix."""
    stored = {name: load_file(llava[name] / "model.safetensors") for name in ("vlm", "other")}
    tower = next(name for name in stored["vlm"] if "vision_tower" in name)

    def of(*groups: Group) -> Tensor:
        recipe = recipe_of(llava, *groups, group("linear", ("math",)))
        out = merge(recipe, tmp_path / str(len(list(tmp_path.iterdir()))))
        return load_file(out / "model.safetensors")[tower]

    mean = (stored["vlm"][tower] + stored["other"][tower]) / 2
    both = group("linear", ("vlm", "other"), roles=("tower",))
    assert torch.allclose(of(both), mean)
    for kept in (
        group("linear", ("vlm", "math"), roles=("tower",)),
        group("task_arithmetic", ("vlm", "other"), roles=("tower",)),  # whose base has none
        group("passthrough", ("math",)),
    ):
        assert torch.equal(of(kept), stored["vlm"][tower])


def test_a_vision_model_has_tokens_that_text_models_lack(
    tmp_path: Path, llava: dict[str, Path]
) -> None:
    """Its own rows stay; a text model that unties its head unties that of the result."""
    members = {name: shutil.copytree(llava[name], tmp_path / name) for name in ("base", "math")}
    content = json.loads((llava["vlm"] / "tokenizer.json").read_text())
    cut = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)[-1]
    for folder in members.values():
        kind = transformers.LlamaForCausalLM
        model = kind.from_pretrained(folder)
        model.resize_token_embeddings(257)
        model.save_pretrained(folder)
        fewer = json.loads((folder / "tokenizer.json").read_text())
        del fewer["model"]["vocab"][cut]
        (folder / "tokenizer.json").write_text(json.dumps(fewer))
    recipe = recipe_of({**members, "vlm": llava["vlm"]}, group("linear", ("vlm", "math")))
    made = loaded(merge(recipe, tmp_path / "out"))
    own = loaded(llava["vlm"])
    rows = made.get_input_embeddings().weight, own.get_input_embeddings().weight
    assert len(rows[0]) == 258
    assert torch.allclose(rows[0][257], rows[1][257], atol=1e-6), "of those that have it"
    assert not torch.allclose(rows[0][256], rows[1][256], atol=1e-6)


def test_a_head_is_untied_where_one_of_them_unties_it(tmp_path: Path) -> None:
    members = tiny_members(tmp_path, "gemma3", "Gemma3ForConditionalGeneration", ("vlm",))
    members |= text_members(tmp_path, members["vlm"], "Gemma3ForCausalLM", ("math",))
    model = transformers.Gemma3ForCausalLM.from_pretrained(
        members["math"], tie_word_embeddings=False
    )
    model.lm_head.weight = torch.nn.Parameter(2 * model.get_input_embeddings().weight.detach())
    model.save_pretrained(members["math"])
    recipe = recipe_of(members, group("linear", ("vlm", "math")))
    made = loaded(merge(recipe, tmp_path / "out"))
    one, other = loaded(members["vlm"]), model
    head = (one.get_input_embeddings().weight + other.lm_head.weight) / 2
    assert torch.allclose(made.lm_head.weight, head, atol=1e-6)
    assert not torch.allclose(made.get_input_embeddings().weight, head, atol=1e-3)


@pytest.mark.parametrize(
    ("architecture", "shape", "message"),
    [
        ("Mistral", {}, "whose text models are mistral and llama"),
        ("Llama", {"num_hidden_layers": 3}, "depths differ: 3 and 4 layers"),
        ("Llama", {"attention_bias": True}, r"'model.layers.0.self_attn.\w+_proj.bias'.*such tensors in all"),
        ("Llama", {"intermediate_size": 40}, r"shapes differ: language_model.model.layers.0.mlp.\w+_proj.weight is"),
        ("Llama", {"rope_theta": 5e5}, "config.json differs in rope: rope_theta is"),
    ],
)  # fmt: skip
def test_models_without_the_same_blocks_are_refused(
    tmp_path: Path, llava: dict[str, Path], architecture: str, shape: dict[str, Any], message: str
) -> None:
    shape = {"num_key_value_heads": 2, "intermediate_size": 64, **shape}
    text = tiny_family(
        tmp_path, ("math",), architecture=architecture, tie_word_embeddings=False, **shape
    )
    recipe = recipe_of({"vlm": llava["vlm"], **text}, group("linear", ("vlm", "math")))
    with pytest.raises(Incompatible, match=message):
        merge(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_goes_by_the_names_that_transformers_has_in_memory(
    tmp_path: Path, llava: dict[str, Path]
) -> None:
    """Files of this vision model call its tensors otherwise."""
    from peft import LoraConfig, get_peft_model

    targets = r".*language_model.*\.(q_proj|up_proj)|.*projector.linear_1"
    model = get_peft_model(loaded(llava["vlm"]), LoraConfig(r=2, target_modules=targets))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "lora")
    adapted = ModelRef(f"{llava['vlm']}+{tmp_path / 'lora'}")
    body = Body((group("passthrough", ("vlm",)),))
    recipe = Recipe(None, {"vlm": adapted}, body, "float32", tokenizer="vlm")
    made = loaded(merge(recipe, tmp_path / "out"))
    for name, tensor in model.merge_and_unload().state_dict().items():
        assert torch.allclose(tensor, made.state_dict()[name], atol=1e-6), name


def test_preprocessors_go_along(tmp_path: Path, llava: dict[str, Path]) -> None:
    own = shutil.copytree(llava["vlm"], tmp_path / "vlm")
    for name in ("preprocessor_config.json", "processor_config.json"):
        (own / name).write_text('{"size": 3, "auto_map": {"AutoProcessor": "mine.Processor"}}')
    recipe = recipe_of({"vlm": own, "math": llava["math"]}, group("linear", ("vlm", "math")))
    out = merge(recipe, tmp_path / "out")
    assert json.loads((out / "preprocessor_config.json").read_text()) == {"size": 3}
    assert json.loads((out / "processor_config.json").read_text()) == {"size": 3}


def test_check_and_merge_say_what_is_left_out(
    tmp_path: Path, llava: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """No tensor of a recipe's group is counted that is kept from a model."""
    file = tmp_path / "recipe.yaml"
    recipe_of(llava, group("linear", ("vlm", "math"))).save(file)
    said = "note: math is a LlamaForCausalLM, the merge a LlavaForConditionalGeneration as vlm is: "
    assert main(["check", str(file)]) == 0
    assert said in capsys.readouterr().out.replace("\n", " ")
    assert main(["merge", str(file), "-o", str(tmp_path / "out")]) == 0
    assert said in capsys.readouterr().err


def test_mergekit_has_no_merges_of_several_kinds(llava: dict[str, Path]) -> None:
    recipe = recipe_of(llava, group("task_arithmetic", ("vlm", "math")))
    with pytest.raises(
        InputError, match="merges models of one kind, and these are LlamaForCausalLM"
    ):
        to_mergekit(recipe)


@pytest.mark.slow
def test_a_search_over_the_language_model_of_a_vision_model(
    tmp_path: Path, llava: dict[str, Path], run_folder: Callable[..., Path], small: dict[str, Any]
) -> None:
    """By the preset; ``check`` says what is mixed with what, and the winner is a vision model."""
    models = {
        "base": str(llava["base"]),
        "sources": {name: str(llava[name]) for name in ("vlm", "math")},
        "tokenizer": "vlm",
    }
    space = {**config.read(PRESET).plain, "start": ["uniform"]}
    folder = run_folder(
        **{
            **small,
            "models": models,
            "space": space,
            "dtype": "float32",
            "budget": {"evaluations": 8},
        }
    )
    told = "\n".join(check(folder))
    assert "LlavaForConditionalGeneration, 4 layers" in told
    assert "math is a LlamaForCausalLM, the merge a LlavaForConditionalGeneration as vlm is" in told
    assert search(folder).winner is not None
    best = tmp_path / "best.yaml"
    assert main(["export", str(folder), "--output", str(best)]) == 0
    made = loaded(merge(Recipe.load(best), tmp_path / "out"))
    towers = loaded(llava["vlm"]).model.vision_tower.state_dict()
    for name, tensor in made.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, towers[name])
