"""What adapters share and what each knows beyond that, apart: one adapter for all, one a source, and a router.

    shared    the merge of the recipe, as an adapter; of groups by ``twin`` its shared part, scaling sum_i delta_i
    expert i  the nearest matrices of rank R to W_i - W_shared, as an adapter
    router    base + shared + sum_i w_i expert_i, with weights w_i for each request

Paper: Lu et al. 2024, Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging,
https://arxiv.org/abs/2406.15479, section 3.2 (with singular values).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evomerge import config
from evomerge.checkpoint import ModelRef, beside
from evomerge.checkpoint.weights import ROUTER
from evomerge.errors import InputError
from evomerge.merging.as_adapter import base_of, write_adapter
from evomerge.merging.disk import keep_recipe
from evomerge.recipe import BASE, Body, Group, Recipe, group

SHARED, EXPERTS = "shared", "experts"
_TWIN = "twin"
_SAME = 1e-9  # between weights, relative to one: what dividing by their sum leaves
_ABOUT = """\
# Adapters of one base: add `shared` with weight 1, and each expert with its weight, which sum to 1:
#     base + shared + sum_i weight_i expert_i
# These weights serve every request alike. A server that knows what a request is about (a classifier on its prompt,
# say) takes weights of its own instead, such as 1 for the expert that fits. In peft: load_adapter for each, then
# add_weighted_adapter([shared, ...], [1, weight, ...], NAME, combination_type="cat").
"""


def merge_experts(
    recipe: Recipe,
    out: str | Path,
    *,
    rank: int,
    shared_rank: int | None = None,
    density: float | None = None,
    force: bool = False,
    device: str = "cpu",
    progress: Callable[[str, int], None] = lambda name, total: None,
    say: Callable[[str], None] = lambda text: None,
    finish: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write a merge of adapters as a shared adapter, experts of low rank, and what a router needs of them.

    Args:
        recipe: what is merged; as of ``merge_adapter``.
        out: the folder to make: ``shared``, ``experts/NAME`` for every source, ``router.yaml``.
        rank: of the experts.
        shared_rank: of what is shared; None: as large as it takes to be exact.
        density: as of ``merge_adapter``, for all of them.
        force: replace an existing folder.
        device: where kernels run.
        progress: called with each tensor's name and the number of tensors.
        say: called with each line on what is downloaded, on the ranks, and on what they lose.
        finish: called with the folder when all else is in it, before it takes its name.

    Raises:
        InputError: as ``merge_adapter``; or something is no factor, and so cannot be added up.
        RunError: the disk is full.
        CandidateFailed: the merge holds NaN or infinity.
    """
    if rank < 1:
        raise InputError(f"--experts: expected a rank of at least 1, found {rank}")
    for name in recipe.models:
        if Path(name).name != name or name == "..":
            raise InputError(
                f"--experts: a folder is made for each source, and {name!r} is no name of one; call the source something "
                "else in the recipe"
            )
    out, base = Path(out), base_of(recipe)
    adapters = 1 + len(recipe.models)
    write = partial(
        write_adapter,
        density=density,
        device=device,
        progress=lambda name, total: progress(name, total * adapters),
        added=True,
        force=False,
    )
    with beside(out, force=force) as work:

        def named(name: str) -> Callable[[str], None]:
            return lambda text: say(f"{name}: {text}")

        shared = work / SHARED
        write(shared_of(recipe), shared, rank=shared_rank, say=named(SHARED))
        experts = {}
        weights, why = router_weights(recipe)
        if why:
            say(f"{ROUTER}: {why}")
        for name, weight in weights.items():
            beyond = _beyond(recipe, name, base, shared)
            made = write(beyond, work / EXPERTS / name, rank=rank, say=named(name))
            experts[name] = {"adapter": str(made.relative_to(work)), "weight": weight}
        content = {"base": base.portable, SHARED: SHARED, EXPERTS: experts}
        (work / ROUTER).write_text(_ABOUT + config.dump(content), encoding="utf-8")
        keep_recipe(recipe, work / "evomerge.yaml")
        finish(work)
    return out


def shared_of(recipe: Recipe) -> Recipe:
    """The recipe of what the sources share: of groups by ``twin`` the sum of deltas that they begin with."""
    groups = tuple(_shared(each) for each in recipe.groups)
    return replace(recipe, body=replace(recipe.body, groups=groups))


def _shared(each: Group) -> Group:
    if each.method != _TWIN:
        return each
    plain = group("task_arithmetic", each.models, {"weight": each.values["scaling"]})
    return replace(each, method=plain.method, values=plain.values)


def router_weights(recipe: Recipe) -> tuple[dict[str, float], str]:
    """Source -> its weight, as the groups by ``twin`` say; all are equal where none does.

    They are equal, too, where those groups do not agree: then with the reason, else an empty text.
    """
    said = {
        number: _weights(each) for number, each in enumerate(recipe.groups) if each.method == _TWIN
    }
    equal = dict.fromkeys(recipe.models, 1 / len(recipe.models))
    if not said:
        return equal, ""
    first, *others = said
    advice = (
        "a router has one weight a source, so all are equal here; set them there as you want them"
    )
    for other in others:
        if any(
            abs(said[other].get(name, 0.0) - said[first].get(name, 0.0)) > _SAME for name in equal
        ):
            shown = " and ".join(f"groups[{n}] ({_in_words(said[n])})" for n in (first, other))
            return equal, f"{shown} weigh the sources otherwise; {advice}"
    if lacking := [name for name in recipe.models if name not in said[first]]:
        return equal, f"groups[{first}] merges without {', '.join(lacking)}; {advice}"
    return {name: said[first][name] for name in recipe.models}, ""


def _in_words(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:.4g}" for name, weight in weights.items())


def _weights(each: Group) -> Mapping[str, float]:
    weights: Any = each.values["weight"]
    total = sum(weights.values()) if each.values["normalize"] else 1.0
    return {name: weight / (total or 1.0) for name, weight in weights.items()}


def _beyond(recipe: Recipe, name: str, base: ModelRef, shared: Path) -> Recipe:
    """The recipe that adds to the base what a source has beyond what is shared."""
    models = {name: recipe.models[name], _other(name): ModelRef(f"{base.portable}+{shared}")}
    weight = {name: 1.0, _other(name): -1.0}
    return Recipe(
        base=base,
        models=models,
        body=Body((group("task_arithmetic", tuple(models), {"weight": weight}),)),
        dtype=recipe.dtype,
        tokenizer=BASE,
        allow=recipe.allow,
    )


def _other(name: str) -> str:
    """What the shared adapter is called beside a source."""
    return f"not {name}"
