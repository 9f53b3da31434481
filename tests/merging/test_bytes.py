"""One recipe, one set of bytes: in memory and on disk, on any number of threads, in any process."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge import merge, methods
from evomerge.calibration import Calibration
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.errors import CandidateFailed, CheckpointError, Incompatible
from evomerge.merging import Materializer
from evomerge.merging.blueprint import Blueprint
from evomerge.methods.kernel import passes, tiled
from evomerge.parents import Parents
from evomerge.parents.statistics import StatisticStore
from evomerge.recipe import Body, Recipe, group
from evomerge.testing.models import tiny_family

# the MLP's matrices are large enough to be merged by compiled passes, the others are not
SHAPE = {"hidden_size": 64, "intermediate_size": 528, "num_hidden_layers": 1}
NAMES = methods.names()


class Parameters:
    """What a materializer sees of a live model."""

    def __init__(self, parents: Parents) -> None:
        self.tensors = {
            name: torch.nn.Parameter(torch.full(shape, 7.0, dtype=torch.bfloat16))
            for name, shape in Blueprint.of(parents).shapes.items()
        }

    def named_parameters(self) -> Any:
        return self.tensors.items()


def recipe_of(family: dict[str, Path], name: str, **values: Any) -> Recipe:
    """A recipe with every searched parameter off its default."""
    method = methods.get(name)
    models = ("chat", "sea", "code")[: method.max_models or 3]
    for parameter in method.parameters:
        if parameter.searched and parameter.per_model:
            genes = (0.43, 0.61, 0.27)
            values.setdefault(
                parameter.name,
                {m: parameter.domain.decode(g) for m, g in zip(models, genes, strict=False)},
            )
        elif parameter.searched:
            values.setdefault(parameter.name, parameter.domain.decode(0.43))
    refs = {model: ModelRef(str(family[model])) for model in ("chat", "sea", "code")}
    if method.of_adapters:
        base = family["base"]
        refs = {model: ModelRef(f"{base}+{base.parent / model}-lora") for model in refs}
    own = (group(name, models, values),)
    data = Calibration("texts.txt", None, "0f" * 32) if method.statistics else None
    return Recipe(ModelRef(str(family["base"])), refs, Body(own, data), "bfloat16")


def digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def resident(recipe: Recipe, threads: int = 1, memory: int = 1 << 30, times: int = 1) -> str:
    parents = Parents.open(recipe)
    materializer = Materializer(parents, threads=threads, memory=memory)
    for _ in range(times):
        parameters = Parameters(parents)
        materializer.into(recipe, parameters)
    return digest({name: p.data for name, p in parameters.named_parameters()})


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("family")
    names = ("base", "chat", "sea", "code")
    made = tiny_family(folder, names, dtype="bfloat16", **SHAPE)
    keep_statistics(made)
    for seed, name in enumerate(names[1:]):
        make_adapter(made["base"], folder / f"{name}-lora", 2 + seed)
    return made


def make_adapter(base: Path, folder: Path, rank: int) -> None:
    """A random adapter of a few matrices, large ones among them."""
    folder.mkdir()
    said = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 3,
        "target_modules": ["q_proj", "up_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(said))
    draw, factors = torch.Generator().manual_seed(rank), {}
    for name, tensor in load_file(base / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "up_proj.weight")):
            for part, shape in (("A", (rank, tensor.shape[1])), ("B", (tensor.shape[0], rank))):
                key = f"base_model.model.{name.removesuffix('.weight')}.lora_{part}.weight"
                factors[key] = torch.randn(shape, generator=draw) * 0.1
    save_file(factors, folder / "adapter_model.safetensors")


def keep_statistics(family: dict[str, Path]) -> None:
    """What methods take of the parents, as if it had been collected: squares of the weights."""
    store = StatisticStore()
    for statistic in {name for method in NAMES for name in methods.get(method).statistics}:
        for folder in family.values():
            model = Checkpoint.open(ModelRef(str(folder)))
            file = store.file(model, statistic, "0f" * 32)
            squares = {name: model.tensor(name).float().square() for name in model.names}
            if not file.is_file():
                store.write(file, squares)


@pytest.mark.parametrize("name", NAMES)
def test_memory_disk_threads_and_facts_make_no_difference(
    name: str, family: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_of(family, name)
    once = resident(recipe, memory=0)
    assert resident(recipe, threads=2, times=2) == once
    merge(recipe, tmp_path / "merged")
    assert digest(load_file(tmp_path / "merged" / "model.safetensors")) == once


@pytest.mark.parametrize("name", NAMES)
def test_compiled_and_tiled_passes_agree(
    name: str, family: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(family, name)
    compiled = resident(recipe)
    monkeypatch.setattr(passes, "on", lambda device: tiled)
    assert resident(recipe) == compiled


def test_another_process_makes_the_same_bytes(family: dict[str, Path]) -> None:
    here = {name: resident(recipe_of(family, name)) for name in NAMES}
    script = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_bytes as t
family = {{k: t.Path(v) for k, v in json.loads(sys.argv[1]).items()}}
print(json.dumps({{name: t.resident(t.recipe_of(family, name), threads=2) for name in t.NAMES}}))
"""
    folders = json.dumps({name: str(folder) for name, folder in family.items()})
    done = subprocess.run(
        [sys.executable, "-c", script, folders], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == here


# -- what is left alone --------------------------------------------------------------------------


def test_only_what_differs_is_merged_again(family: dict[str, Path]) -> None:
    plain = recipe_of(family, "task_arithmetic")
    changed = group("ties", plain.groups[0].models, {"density": 0.3}, layers=(0, 0), roles=("mlp",))
    mixed = Recipe(plain.base, plain.models, Body((changed, *plain.groups)), plain.dtype)
    parents = Parents.open(plain)
    materializer, parameters = Materializer(parents, memory=1 << 30), Parameters(parents)
    materializer.into(plain, parameters)
    for parameter in parameters.tensors.values():
        parameter.data.fill_(7.0)
    materializer.into(mixed, parameters)
    written = {name for name, p in parameters.named_parameters() if not (p == 7.0).all()}
    assert written == {name for name in Blueprint.of(parents).names if ".mlp." in name}
    materializer.into(plain, parameters)
    fresh = Parameters(parents)
    Materializer(parents).into(plain, fresh)
    for name in written:
        assert torch.equal(parameters.tensors[name], fresh.tensors[name])


def test_a_recipe_that_failed_is_merged_again(family: dict[str, Path]) -> None:
    good = recipe_of(family, "task_arithmetic")
    bad = recipe_of(family, "task_arithmetic", **{"weight": 3e38, "lambda": 1e4})
    parents = Parents.open(good)
    materializer, parameters = Materializer(parents, memory=1 << 30), Parameters(parents)
    materializer.into(good, parameters)
    before = {name: p.detach().clone() for name, p in parameters.named_parameters()}
    with pytest.raises(CandidateFailed, match="NaN or infinite"):
        materializer.into(bad, parameters)
    materializer.into(good, parameters)
    assert all(torch.equal(p, before[name]) for name, p in parameters.named_parameters())


def test_a_small_memory_gives_the_same_bytes_and_is_said(family: dict[str, Path]) -> None:
    recipe = recipe_of(family, "ties")
    with pytest.warns(RuntimeWarning, match="computed again for each"):
        assert resident(recipe, memory=1 << 19, times=2) == resident(recipe)


# -- live models of other kinds ------------------------------------------------------------------


def test_a_model_of_another_dtype_holds_what_the_disk_holds(
    family: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_of(family, "ties")
    parents = Parents.open(recipe)
    wide = Parameters(parents)
    wide.tensors = {n: torch.nn.Parameter(p.detach().float()) for n, p in wide.tensors.items()}
    Materializer(parents).into(recipe, wide)
    on_disk = load_file(merge(recipe, tmp_path / "merged") / "model.safetensors")
    assert all(torch.equal(p, on_disk[name].float()) for name, p in wide.named_parameters())


def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(
    family: dict[str, Path],
) -> None:
    recipe = recipe_of(family, "linear")
    parents = Parents.open(recipe)
    other = Parameters(parents)
    name = next(name for name in Blueprint.of(parents).names if "up_proj" in name)
    other.tensors[name] = torch.nn.Parameter(other.tensors[name].detach().T.contiguous())
    with pytest.raises(Incompatible, match="up_proj"):
        Materializer(parents).into(recipe, other)
    assert all((p == 7.0).all() for _, p in other.named_parameters())


def test_a_broken_parent_is_named(family: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(family["sea"], broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    recipe = recipe_of({**family, "sea": broken}, "ties")
    with pytest.raises(CheckpointError, match=r"model.norm.weight holds 1 NaN or infinite"):
        merge(recipe, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
