"""Every family of decoders that transformers has: merged, loaded, merged in place and scored as it computes.

``make families`` does that for all of them; here a few stand for the others, and the skeleton of each is read.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from evomerge import config, merge, merge_into
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.engines import EngineOptions, Request
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import ConfigError, Incompatible, InputError
from evomerge.interop import load_recipe, to_mergekit
from evomerge.merging import Materializer, open_parents
from evomerge.merging.materializer import Merge
from evomerge.paths import Hop
from evomerge.recipe import Body, Recipe, group
from evomerge.skeleton import Skeleton
from evomerge.skeleton.conversion import views
from evomerge.skeleton.modules import tied_names
from evomerge.testing.models import byte_tokenizer
from evomerge.testing.zoo import LEFT_OUT, decoders, tiny_config, tiny_members

WRAPPERS = {
    "gemma3": "Gemma3ForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
}
WHOLE = bool(os.environ.get("EVOMERGE_TEST_FAMILIES"))  # else those that stand for the others
SOME = ("bamba", "bloom", "cohere2", "deepseek_v3", "falcon_h1", "gemma4_text", "gpt2", "gpt_oss", "granitemoehybrid",
        "jamba", "llama", "mamba2", "mixtral", "mllama", "opt", "phi3", "qwen3_moe", "qwen3_next", "roberta", "rwkv")  # fmt: skip
# whose layers are what they are by a rule that other layers do not follow, or that have a tensor of all layers
BY_NUMBER = ("beam", "big_bird", "diffllama", "ernie4_5_moe", "gemma3n_text", "gemma4", "gemma4_text", "hy_v4",
             "jamba", "llama4", "llama4_text", "minicpm3", "minimax", "mllama", "modernbert-decoder", "rwkv",
             "xlm", "zaya")  # fmt: skip
WALKED = [pair for pair in sorted(decoders().items()) if pair[0] not in LEFT_OUT]


pytestmark = pytest.mark.usefixtures("quiet")


def recipe_of(members: dict[str, Path], *groups: Any) -> Recipe:
    sources = {name: ModelRef(str(folder)) for name, folder in members.items() if name != "base"}
    chosen = groups or (group("ties", tuple(sources), {"weight": 0.7, "density": 0.6}),)
    return Recipe(ModelRef(str(members["base"])), sources, Body(chosen), "float32")


def loaded(folder: Path, architecture: str) -> Any:
    model, info = getattr(transformers, architecture).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


def merged(recipe: Recipe, members: dict[str, Path], architecture: str, out: Path) -> Any:
    """Of the folder; merged in place it is the same bit for bit."""
    model = loaded(merge(recipe, out), architecture)
    live = getattr(transformers, architecture).from_pretrained(members["base"])
    merge_into(recipe, live)
    for name, tensor in live.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    return model


def test_at_least_125_families_are_walked() -> None:
    assert len(WALKED) >= 125
    unknown = set(LEFT_OUT) - set(decoders())
    assert not unknown, "transformers no longer has them"


@pytest.mark.parametrize(("model_type", "architecture"), WALKED)
def test_a_family_has_a_skeleton(model_type: str, architecture: str) -> None:
    """Of the names that it stores, each with a layer or a role outside; merged in place, each is a view."""
    live = getattr(transformers, architecture)(tiny_config(model_type, architecture))
    config = {**live.config.to_dict(), "architectures": [architecture]}
    skeleton, held = Skeleton.of(config, model_type), views(live)
    assert set(held) == set(skeleton.places)
    for name, part in skeleton.parts.items():
        assert part.tied or tuple(held[name].shape) == part.shape, name
    sizes: Counter[str] = Counter()
    for name, place in skeleton.places.items():
        sizes["inside" if place.layer is not None else place.role] += held[name].numel()
    assert skeleton.layers == 0 or sizes["inside"] > 0
    assert sum(sizes.values()) == sum(p.numel() for p in live.state_dict().values()) - sum(
        live.state_dict()[name].numel() for name in tied_names(live)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "architecture"), [pair for pair in WALKED if WHOLE or pair[0] in SOME]
)
def test_a_family_is_merged_and_scored(tmp_path: Path, model_type: str, architecture: str) -> None:
    members = tiny_members(tmp_path, model_type, architecture)
    recipe = recipe_of(members)
    model = merged(recipe, members, architecture, tmp_path / "out")
    parents = open_parents(recipe)
    materializer = Materializer(parents)
    engine = HuggingFaceEngine.open(materializer.outline(None), parents.donor, EngineOptions())
    engine.load(Merge(materializer, recipe))
    assert_scores(engine, model)
    deeper = replace(recipe, body=replace(recipe.body, path=twice(materializer)))
    try:
        materializer.outline(deeper.body.path)
    except Incompatible as error:
        assert model_type in BY_NUMBER, error
        return
    assert model_type not in BY_NUMBER
    engine.load(Merge(materializer, deeper))
    assert_scores(engine, loaded(merge(deeper, tmp_path / "deeper"), architecture))
    engine.load(Merge(materializer, recipe))
    assert_scores(engine, model)


def twice(materializer: Materializer) -> tuple[Hop, ...]:
    """The first block twice."""
    return (Hop(0), *map(Hop, range(materializer.outline(None).layers)))


def assert_scores(engine: HuggingFaceEngine, model: Any) -> None:
    """The engine scores as the model's plain forward pass does, texts that share beginnings too."""
    drawn = torch.Generator().manual_seed(3)

    def text(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, 250, (count,), generator=drawn).tolist())

    heads = text(9), text(5)
    requests = [Request(head + text(3), text(count)) for head in heads for count in (1, 2, 5)]
    requests += [Request(heads[0] + (7, 8), text(count)) for count in (2, 4)]
    for request, scored in zip(requests, engine.loglikelihood(requests), strict=True):
        tokens = torch.tensor([request.context + request.continuation])
        with torch.no_grad():
            nats = model(tokens).logits[0].float().log_softmax(-1)
        first = len(request.context) - 1
        plain = sum(float(nats[first + n, t]) for n, t in enumerate(request.continuation))
        assert scored.nats == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize(("model_type", "architecture"), sorted(WRAPPERS.items()))
def test_of_a_vision_model_the_text_tower_is_merged(
    tmp_path: Path, model_type: str, architecture: str
) -> None:
    """Everything else is that of the model whose tokenizer the result has, unless a group names it."""
    members = tiny_members(tmp_path, model_type, architecture)
    recipe = recipe_of(members)
    model = merged(recipe, members, architecture, tmp_path / "out")
    roles = {name: place.role for name, place in Checkpoint.open(recipe.base).places.items()}  # type: ignore[arg-type]
    assert {"attn", "mlp", "norm", "embed", "tower"} <= set(roles.values())
    files = {name: stored(folder) for name, folder in members.items()}
    out = stored(tmp_path / "out")
    assert set(out) == set(roles)
    for name, role in roles.items():
        same = torch.equal(out[name], files["base"][name])
        assert same == (role == "tower"), name
    tower = group("linear", ("a", "b"), roles=("tower",))
    named = recipe_of(members, tower, *recipe.groups)
    merge(named, tmp_path / "named")
    for name in (name for name, role in roles.items() if role == "tower"):
        mean = (files["a"][name] + files["b"][name]) / 2
        assert torch.allclose(stored(tmp_path / "named")[name], mean), name
    assert model.config.model_type == model_type


def stored(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("mixtral", "MixtralForCausalLM"), ("qwen3_moe", "Qwen3MoeForCausalLM"), ("gpt_oss", "GptOssForCausalLM")],
)  # fmt: skip
def test_routers_are_kept_and_experts_merged(
    tmp_path: Path, model_type: str, architecture: str
) -> None:
    members = tiny_members(tmp_path, model_type, architecture)
    merge(recipe_of(members), tmp_path / "out")
    checkpoint = Checkpoint.open(ModelRef(str(members["base"])))
    roles = {name: place.role for name, place in checkpoint.places.items()}
    assert {"router", "expert", "attn"} <= set(roles.values())
    out, base = stored(tmp_path / "out"), stored(members["base"])
    assert {name for name in out if torch.equal(out[name], base[name])} == {
        name for name, role in roles.items() if role == "router"
    }


def test_what_no_group_matches_of_routers_is_kept(tmp_path: Path) -> None:
    """A space of single tensors has no group for them; with the vocabulary of all they are the base's."""
    members = tiny_members(tmp_path, "mixtral", "MixtralForCausalLM")
    places = Checkpoint.open(ModelRef(str(members["base"]))).places
    plain = recipe_of(members).groups[0]
    varied = [name for name, place in places.items() if place.role != "router"]
    recipe = recipe_of(members, replace(plain, tensors=tuple(varied)))
    for number, tokenizer in enumerate(("base", "union")):
        out = stored(merge(replace(recipe, tokenizer=tokenizer), tmp_path / f"out-{number}"))
        base = stored(members["base"])
        kept = {name for name in out if torch.equal(out[name], base[name])}
        assert kept == set(places) - set(varied)


def test_roles_may_be_said_by_patterns_of_names(tmp_path: Path) -> None:
    """Here a router is merged as attention is, and keys are kept as routers are."""
    members = tiny_members(tmp_path, "mixtral", "MixtralForCausalLM")
    place = {r"block_sparse_moe\.gate": "attn", r"\.k_proj": "router"}
    recipe = replace(recipe_of(members), place=place)
    assert Recipe.parse(config.parse(recipe.to_yaml(), str(tmp_path))) == recipe
    merged(recipe, members, "MixtralForCausalLM", tmp_path / "out")
    out, base = stored(tmp_path / "out"), stored(members["base"])
    kept = {name for name in out if torch.equal(out[name], base[name])}
    assert kept and kept == {name for name in out if ".k_proj" in name}
    with pytest.raises(ConfigError, match=r"place\.gate: no role 'routr' \(did you mean 'router'"):
        Recipe.parse(config.parse(f"{recipe_of(members).to_yaml()}place: {{gate: routr}}\n"))


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("falcon_h1", "FalconH1ForCausalLM"),
        ("granitemoehybrid", "GraniteMoeHybridForCausalLM"),
        ("lfm2", "Lfm2ForCausalLM"),
        ("mamba2", "Mamba2ForCausalLM"),
        ("qwen3_5_text", "Qwen3_5ForCausalLM"),
        ("qwen3_next", "Qwen3NextForCausalLM"),
    ],
)
def test_models_with_recurrent_states_read_a_shared_context_once(
    tmp_path: Path, model_type: str, architecture: str
) -> None:
    members = tiny_members(tmp_path, model_type, architecture, ("base",))
    model = loaded(members["base"], architecture).requires_grad_(False)
    engine = HuggingFaceEngine(model, byte_tokenizer())
    context = tuple(range(10, 50))
    requests = [Request(context, (n, n + 1, n + 2)) for n in range(60, 68)]
    scored = engine.loglikelihood(requests)
    assert engine.tokens == len(context) - 1 + len(requests) * 3
    for request, found in zip(requests, scored, strict=True):
        nats = model(torch.tensor([context + request.continuation])).logits[0].log_softmax(-1)
        plain = sum(
            float(nats[len(context) - 1 + n, token]) for n, token in enumerate(request.continuation)
        )
        assert found.nats == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("qwen3_moe", "Qwen3MoeForCausalLM"), ("lfm2", "Lfm2ForCausalLM"), ("afmoe", "AfmoeForCausalLM")],
)  # fmt: skip
def test_a_mergekit_file_mixes_all_tensors_of_a_model(
    tmp_path: Path, model_type: str, architecture: str
) -> None:
    """Routers too, as mergekit does; layers may be of several kinds."""
    members = tiny_members(tmp_path, model_type, architecture)
    file = tmp_path / "mergekit.yaml"
    file.write_text(
        f"models:\n"
        f"  - {{model: {members['a']}, parameters: {{weight: [{{filter: norm, value: 0.8}}, {{value: 0.5}}]}}}}\n"
        f"  - {{model: {members['b']}, parameters: {{weight: 0.5}}}}\n"
        f"merge_method: linear\nparameters: {{normalize: false}}\ndtype: float32\n"
    )
    recipe, _ = load_recipe(file)
    out = stored(merge(recipe, tmp_path / "out"))
    a, b = stored(members["a"]), stored(members["b"])
    for name, tensor in out.items():
        expected = (0.8 if "norm" in name else 0.5) * a[name] + 0.5 * b[name]
        assert torch.allclose(tensor, expected, atol=1e-6), name
    with pytest.raises(InputError, match=r"materialize|is called"):
        to_mergekit(recipe_of(members))


def test_layers_of_several_kinds_are_exported(tmp_path: Path) -> None:
    """Block 0 of this one has no attention, by whose names it would be said; file and recipe merge alike."""
    members = tiny_members(tmp_path, "qwen3_5_text", "Qwen3_5ForCausalLM")
    named = group("task_arithmetic", ("a", "b"), {"weight": 0.3}, roles=("attn",))
    recipe = recipe_of(members, named, group("task_arithmetic", ("a", "b"), {"weight": 0.6}))
    (tmp_path / "mergekit.yaml").write_text(to_mergekit(recipe))
    again, _ = load_recipe(tmp_path / "mergekit.yaml")
    ours, theirs = (
        stored(merge(recipe, tmp_path / "ours")),
        stored(merge(again, tmp_path / "theirs")),
    )
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-6), name
