"""A shared adapter, experts of low rank and their router: what a server adds up is what Twin-Merging says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evomerge import config, merge
from evomerge.cli import main
from evomerge.errors import InputError
from evomerge.merging import merge_experts
from evomerge.merging.experts import router_weights
from evomerge.recipe import Recipe
from evomerge.testing.models import tiny_family

NAMES = ("a", "b", "c")
WEIGHTS = {"a": 1.0, "b": 0.5, "c": 0.5}
TWIN = {"method": "twin", "weight": WEIGHTS, "scaling": 0.4, "mask_rate": 0.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base, and adapters of other ranks and targets."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("experts")
    base = tiny_family(folder, ("base",), tie_word_embeddings=False, num_hidden_layers=2)["base"]
    made = {"base": str(base)}
    for seed, name in enumerate(NAMES):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            targets = ["q_proj", "up_proj", *(["v_proj"] if name == "b" else [])]
            settings = LoraConfig(
                r=3 + seed, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM",
                **({"modules_to_save": ["model.norm"]} if name == "c" else {}),
            )  # fmt: skip
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
        model.save_pretrained(folder / name)
        made[name] = f"{base}+{folder / name}"
    return made


def recipe(models: dict[str, str], *names: str, **group: Any) -> Recipe:
    sources = {name: models[name] for name in names or ("a", "b")}
    weight = {name: WEIGHTS[name] for name in sources}
    return Recipe.from_plain(
        {
            "base": models["base"],
            "models": sources,
            "dtype": "float32",
            "groups": [group or {**TWIN, "weight": weight}],
        }
    )


def test_of_full_rank_they_add_up_to_the_merge_in_peft(
    models: dict[str, str], tmp_path: Path
) -> None:
    from peft import PeftModel

    said: list[str] = []
    out = merge_experts(recipe(models), tmp_path / "out", rank=48, say=said.append)
    assert [line.partition(":")[0] for line in said] == ["shared", "a", "b"]
    router = config.read(out / "router.yaml").plain
    assert router == {
        "base": models["base"],
        "shared": "shared",
        "experts": {
            "a": {"adapter": "experts/a", "weight": pytest.approx(2 / 3)},
            "b": {"adapter": "experts/b", "weight": pytest.approx(1 / 3)},
        },
    }
    plain = AutoModelForCausalLM.from_pretrained(models["base"])
    model = PeftModel.from_pretrained(plain, out / router["shared"], adapter_name="shared")
    for name, expert in router["experts"].items():
        model.load_adapter(out / expert["adapter"], adapter_name=name)
    weights = [1.0, *(expert["weight"] for expert in router["experts"].values())]
    model.add_weighted_adapter(["shared", "a", "b"], weights, "all", combination_type="cat")
    model.set_adapter("all")
    found = model.merge_and_unload().state_dict()
    expected = load_file(merge(recipe(models), tmp_path / "merged") / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)


def test_each_is_the_nearest_of_its_rank(models: dict[str, str], tmp_path: Path) -> None:
    out = merge_experts(recipe(models), tmp_path / "out", rank=2)
    names = ("shared", "experts/a", "experts/b")
    given = {
        "base": models["base"],
        "models": {**{n: models[n] for n in ("a", "b")}, **{n: f"{models['base']}+{out / n}" for n in names}},
        "dtype": "float32",
    }  # fmt: skip

    def change(*weights: tuple[str, float]) -> dict[str, torch.Tensor]:
        group = {
            "method": "task_arithmetic",
            "models": [n for n, _ in weights],
            "weight": dict(weights),
        }
        folder = merge(
            Recipe.from_plain({**given, "groups": [group]}), tmp_path / "change", force=True
        )
        base = load_file(Path(models["base"]) / "model.safetensors")
        return {n: t - base[n] for n, t in load_file(folder / "model.safetensors").items()}

    shared, alone = change(("shared", 1.0)), change(("a", 0.4), ("b", 0.4))
    for name, tensor in shared.items():
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-5)
    for source in ("a", "b"):
        beyond = change((source, 1.0), ("shared", -1.0))
        for name, tensor in change((f"experts/{source}", 1.0)).items():
            if beyond[name].ndim < 2:
                continue
            u, values, v = torch.linalg.svd(beyond[name].double(), full_matrices=False)
            nearest = u[:, :2] * values[:2] @ v[:2]
            torch.testing.assert_close(tensor.double(), nearest, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("group", "weights"),
    [
        ({"method": "ties"}, [0.5, 0.5]),
        ({**TWIN, "weight": 1, "normalize": False}, [1.0, 1.0]),
    ],
)
def test_a_router_has_weights_for_any_recipe(
    models: dict[str, str], tmp_path: Path, group: dict[str, Any], weights: list[float]
) -> None:
    given = recipe(models, **group)
    out = merge_experts(given, tmp_path / "out", rank=2, shared_rank=4)
    router = config.read(out / "router.yaml").plain
    assert [expert["weight"] for expert in router["experts"].values()] == weights
    assert Recipe.load(out / "evomerge.yaml").digest == given.portable().digest
    assert sorted(path.name for path in out.iterdir()) == [
        *("evomerge.yaml", "experts", "router.yaml", "shared"),
    ]


def test_groups_that_weigh_the_sources_otherwise_are_named(
    models: dict[str, str], tmp_path: Path
) -> None:
    one = {**TWIN, "layers": [0, 0], "weight": {"a": 3, "b": 1}}
    same, other = ({**TWIN, "weight": {"a": a, "b": b}} for a, b in ((0.75, 0.25), (1, 1)))
    plain = {"base": models["base"], "models": {name: models[name] for name in ("a", "b")}}

    def given(*groups: dict[str, Any]) -> Recipe:
        return Recipe.from_plain({**plain, "dtype": "float32", "groups": list(groups)})

    assert router_weights(given(one, same)) == ({"a": 0.75, "b": 0.25}, "")
    said: list[str] = []
    out = merge_experts(given(one, other), tmp_path / "out", rank=1, shared_rank=1, say=said.append)
    router = config.read(out / "router.yaml").plain
    assert [expert["weight"] for expert in router["experts"].values()] == [0.5, 0.5]
    assert any(
        "groups[0] (a 0.75, b 0.25) and groups[1] (a 0.5, b 0.5) weigh the sources otherwise"
        in line
        for line in said
    )


def test_what_cannot_be_added_up_is_refused(models: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"factors alone, and shared brings model\.norm"):
        merge_experts(recipe(models, "a", "b", "c"), tmp_path / "out", rank=2)
    with pytest.raises(InputError, match="--experts: expected a rank of at least 1, found 0"):
        merge_experts(recipe(models), tmp_path / "out", rank=0)
    named = Recipe.from_plain(
        {
            "base": models["base"],
            "models": {"../a": models["a"]},
            "groups": [{"method": "task_arithmetic"}],
        }
    )
    with pytest.raises(InputError, match=r"'\.\./a' is no name of one"):
        merge_experts(named, tmp_path / "out", rank=2)
    assert not list(tmp_path.iterdir())


def test_as_a_command_over_an_older_one(models: dict[str, str], tmp_path: Path) -> None:
    recipe(models).save(tmp_path / "recipe.yaml")
    command = ["merge", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "out")]
    assert main([*command, "--experts", "2"]) == 2  # an option of adapters alone
    command += ["--as-adapter", "--experts", "8", "--compress", "compeft=0.1"]
    assert main(command) == 0
    assert main(command) == 2  # it exists
    assert main([*command, "--force"]) == 0
    for name in ("shared", "experts/a", "experts/b"):
        assert (tmp_path / "out" / name / "adapter_model.ternary.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recipe.yaml"]
