"""What is said of rounding, beside a direct computation from merges in float32 and from the base's file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from evomerge import merge
from evomerge.checkpoint import ModelRef
from evomerge.commands.check import check
from evomerge.merging import estimate, open_parents, tally
from evomerge.merging.blueprint import Blueprint
from evomerge.merging.disk import write_merge
from evomerge.merging.estimate import estimate_rounding
from evomerge.merging.tally import indices
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.rounding import Rounding
from evomerge.testing.models import tiny_family

SOURCES = ("chat", "sea")
DTYPES = ("bfloat16", "float16", "float32")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def adapted(family: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The base, and two small adapters of it."""
    from peft import LoraConfig, get_peft_model

    folder, made = tmp_path_factory.mktemp("adapters"), {"base": str(family["base"])}
    for seed, name in enumerate(SOURCES):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(
                AutoModelForCausalLM.from_pretrained(family["base"]),
                LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False),
            )
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora" in parameter_name:
                    parameter.mul_(0.1)
        model.save_pretrained(folder / name)
        made[name] = f"{family['base']}+{folder / name}"
    return made


def recipe_of(models: Mapping[str, Path | str], *groups: Group, **options: Any) -> Recipe:
    refs = {name: ModelRef(str(folder)) for name, folder in models.items()}
    base = refs.pop("base", None)
    return Recipe(base, refs, Body(groups), **{"tokenizer": "chat", **options})


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def directly(recipe: Recipe, start: Path, out: Path) -> dict[int, dict[str, float]]:
    """The shares, group by group, by the definition; no group that changes nothing."""
    merge(replace(recipe, dtype="float32"), out)
    exact, base = tensors_of(out), tensors_of(start)
    members: dict[int, list[str]] = {}
    for site in Blueprint.of(open_parents(recipe)).sites:
        found = recipe.group_of(site.place)
        members.setdefault(next(n for n, g in enumerate(recipe.groups) if g is found), []).append(
            site.name
        )
    shares: dict[int, dict[str, float]] = {}
    for number, names in members.items():
        whole = torch.cat([exact[name].flatten() for name in names]).double()
        change = whole - torch.cat([base[name].flatten() for name in names]).double()
        if not change.any():
            continue
        shares[number] = {}
        for dtype in DTYPES:
            rounded = whole.float().to(getattr(torch, dtype)).double()
            share = (rounded - whole).square().mean().sqrt() / change.square().mean().sqrt()
            shares[number][dtype] = float(share)
    return shares


def tallied(recipe: Recipe, out: Path) -> Rounding:
    """What is counted while the recipe is merged."""
    found: list[Rounding] = []
    write_merge(recipe, open_parents(recipe), out, rounded=found.append)
    return found[0]


def agree(found: Rounding, expected: Mapping[int, Mapping[str, float]], **tolerance: float) -> None:
    assert found.shares.keys() == expected.keys()
    for number, shares in expected.items():
        assert dict(found.shares[number]) == pytest.approx(shares, **{"abs": 1e-6, **tolerance})


def with_groups(method: str, **values: Any) -> tuple[Group, ...]:
    """Groups of different sizes: two blocks, a role, and all the rest."""
    return (
        group(method, SOURCES, values, layers=(1, 2)),
        group(method, SOURCES, {**values, "weight": 0.3}, roles=["embed"]),
        group(method, SOURCES, {**values, "weight": 0.1}),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties", "tsvm"])
def test_shares_are_those_of_a_direct_computation(
    family: dict[str, Path], tmp_path: Path, method: str, dtype: str
) -> None:
    values = {} if method in ("task_arithmetic", "tsvm") else {"density": 0.5}
    groups = with_groups(method, **values)
    if method == "tsvm":
        groups = (replace(groups[0], layers=None, roles=("mlp",)), group("linear", SOURCES))
    recipe = recipe_of(family, *groups, dtype=dtype)
    expected = directly(recipe, family["base"], tmp_path / "exact")
    assert len(expected) == len(groups)
    for found in (
        tallied(recipe, tmp_path / "out"),
        estimate_rounding(recipe, open_parents(recipe)),
    ):
        agree(found, expected, rel=1e-4)
        assert (found.dtype, found.origin, found.sampled) == (dtype, "base", False)
        assert all(shares["float32"] == 0 for shares in found.shares.values())


def test_small_adapters_lose_much(
    adapted: dict[str, str], family: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_of(adapted, group("task_arithmetic", SOURCES, {"weight": 0.5}))
    expected = directly(recipe, family["base"], tmp_path / "exact")
    found = tallied(recipe, tmp_path / "out")
    agree(found, expected, rel=1e-4)
    assert found.shares[0]["bfloat16"] > 0.1 > found.shares[0]["float16"]
    [line] = found.lines()
    percent = f"{100 * expected[0]['bfloat16']:.0f}%"
    assert line.startswith(f"rounding to bfloat16 takes {percent} (rms) of what the merge changes")
    assert line.endswith(f"in the base; float16 {100 * expected[0]['float16']:.0f}%, float32 0%")
    said = list[str]()
    merge(recipe, tmp_path / "again", say=said.append)
    assert line in said
    recipe.save(tmp_path / "recipe.yaml")
    assert line in check(tmp_path / "recipe.yaml")
    assert tallied(replace(recipe, dtype="float32"), tmp_path / "float32").lines() == []


def test_without_a_base_changes_are_those_of_the_first_source(
    family: dict[str, Path], tmp_path: Path
) -> None:
    models = {name: family[name] for name in SOURCES}
    weight = {"chat": 0.99, "sea": 0.01}
    recipe = recipe_of(models, group("linear", SOURCES, {"weight": weight}))
    expected = directly(recipe, family["chat"], tmp_path / "exact")
    found = tallied(recipe, tmp_path / "out")
    agree(found, expected, rel=1e-4)
    assert found.origin == "chat"
    [line] = found.lines()
    assert "of what the merge changes in chat;" in line


def test_a_group_that_reads_no_base_changes_it_all_the_same(
    family: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_of(family, group("linear", SOURCES))
    agree(tallied(recipe, tmp_path / "out"), directly(recipe, family["base"], tmp_path / "exact"))


def test_what_changes_nothing_has_no_share(family: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of(
        family, group("passthrough", ("base",), roles=["mlp"]), *with_groups("task_arithmetic")
    )
    expected = directly(recipe, family["base"], tmp_path / "exact")
    assert 0 not in expected
    agree(tallied(recipe, tmp_path / "out"), expected, rel=1e-4)


def test_of_large_tensors_a_sample_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tiny_family(tmp_path, num_hidden_layers=2, hidden_size=256, intermediate_size=512)
    recipe = recipe_of(large, *with_groups("ties", density=0.5), dtype="float16")
    expected = directly(recipe, large["base"], tmp_path / "exact")
    found = tallied(recipe, tmp_path / "out")
    assert found.sampled
    agree(found, expected, rel=0.05)
    assert tallied(recipe, tmp_path / "again") == found
    # of a group of many tensors some, which count for the others
    with monkeypatch.context() as patch:
        patch.setattr(tally, "TENSORS", 8)
        some = tallied(recipe, tmp_path / "some")
    assert some.shares.keys() == expected.keys() and some != found
    agree(some, expected, rel=0.2)
    # before a merge, of many tensors a few, from every group
    seen = list[str]()
    monkeypatch.setattr(estimate, "BYTES", 4 * 3 * 800_000)
    look = tally.Tally.look
    monkeypatch.setattr(
        tally.Tally,
        "look",
        lambda self, name, *rest, **more: (seen.append(name), look(self, name, *rest, **more))[1],
    )
    few = estimate_rounding(recipe, open_parents(recipe))
    assert few.sampled and few.shares.keys() == expected.keys()
    assert 3 <= len(seen) < len(tensors_of(tmp_path / "exact"))
    for number, shares in few.shares.items():
        assert shares["float16"] == pytest.approx(expected[number]["float16"], rel=0.5)


def test_a_dtype_that_cannot_hold_the_values_has_no_share(
    family: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_of(family, group("task_arithmetic", SOURCES, {"lambda": 1e6}))
    [shares] = tallied(recipe, tmp_path / "out").shares.values()
    assert shares.keys() == {"float32", "bfloat16"}
    replace(recipe, dtype="float16").save(tmp_path / "recipe.yaml")
    [line] = [line for line in check(tmp_path / "recipe.yaml") if "float16 cannot" in line]
    assert line.startswith("note: it cannot be merged: ")


@pytest.mark.parametrize("size", [1, tally.WHOLE, tally.WHOLE + 1, 123_456_789])
def test_a_sample_is_spread_over_the_tensor(size: int) -> None:
    found = indices("w", size)
    assert (
        len(set(found.tolist())) == len(found) == (size if size <= tally.WHOLE else tally.ENTRIES)
    )
    assert found.min() >= 0 and found.max() < size
    if size > 1 << 20:
        assert found[0] < size / 100 and found[-1] > 0.99 * size
        assert not (found == indices("v", size)).all()


def rounding(shares: Callable[[int], float], groups: int) -> Rounding:
    each = {n: {"float32": 0.0, "bfloat16": shares(n)} for n in range(groups)}
    return Rounding("bfloat16", "base", groups, True, each)


def test_of_many_groups_the_worst_are_told_one_by_one() -> None:
    found = rounding(lambda number: number / 100, 10)
    lines = found.lines()
    assert [line.split("groups[")[1][0] for line in lines[:-1]] == ["5", "6", "7", "8", "9"]
    assert lines[-1] == "rounding to bfloat16 takes 1% to 4% of what 4 more groups change"
    assert "(rms of a sample)" in lines[0]
    assert rounding(lambda number: 0.009, 3).lines() == []


def test_roundings_are_read_back() -> None:
    found = rounding(lambda number: number / 100, 3)
    assert Rounding.from_plain(found.plain) == found
    for broken in (-1.0, math.nan, math.inf, "0.1", True):
        with pytest.raises(ValueError):
            Rounding.from_plain({**found.plain, "shares": {"0": {"bfloat16": broken}}})
    with pytest.raises(ValueError):
        Rounding.from_plain({**found.plain, "sampled": 1})
