"""``evomerge compare``: models beside the base they grew from, and each other, before anything is merged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.errors import InputError
from evomerge.merging import open_parents
from evomerge.merging.blueprint import Blueprint, Site, notes_on
from evomerge.parents import Parents, doubts
from evomerge.parents.comparison import MASK, Comparison, Ranks, Sums, ranks
from evomerge.parents.comparison.sums import CHUNK
from evomerge.parents.ending import template_of
from evomerge.parents.kinship import runs_of
from evomerge.recipe import BASE, Body, Recipe, group

WHOLE = 4_000_000_000  # parameters of all models together that are all looked at, unless more is asked for
MASKS = (0.0, 10.0)  # between these lies a lambda of the TALL masks


def compare_models(
    models: Sequence[str],
    base: str,
    *,
    tokenizer: str | None = None,
    mask: float = MASK,
    exact: bool = False,
    allow: Sequence[str] = (),
    progress: Callable[[str, int], None] = lambda name, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """What the weights of ``models`` say of each other, read tensor by tensor.

    They are opened and their vocabularies aligned as a merge of them would be. Of large models the large tensors are
    looked at in a sample of entries, the same at every time, and the ranks of large matrices are estimated.

    Args:
        models: folders, hub ids, MODEL+ADAPTER or recipe files, each also as NAME=MODEL.
        base: what they grew from, named in the same ways.
        tokenizer: the name of the model whose vocabulary all are brought to; default: the base's.
        mask: lambda of the TALL masks.
        exact: look at all entries, and work out all ranks, however large the models are.
        allow: topics in which configs may differ.
        progress: called with each tensor's name and the number of tensors.
        say: is told what is downloaded, and what speaks against merging such models.

    Raises:
        InputError: a model is unreadable or incompatible, or an option makes no sense.
    """
    if not MASKS[0] < mask <= MASKS[1]:
        raise InputError(
            f"--mask-lambda: expected above {MASKS[0]:g} and at most {MASKS[1]:g}, found {mask:g}"
        )
    named = named_models(models)
    known = (BASE, *named)
    if tokenizer is not None and tokenizer not in known:
        raise InputError(
            f"--tokenizer: no model is called {tokenizer!r} here; there are {', '.join(known)}"
        )
    recipe = Recipe(
        base=ModelRef(base),
        models={name: ModelRef(text) for name, text in named.items()},
        body=Body((group("task_arithmetic", tuple(named)),)),
        tokenizer=tokenizer or BASE,
    ).allowing(allow)
    parents = open_parents(recipe, say)
    for note in (*notes_on(parents), *doubts(parents)):
        say(note)
    for model in parents.models.values():
        model.check_unchanged()
    return _compared(parents, recipe, mask, exact, progress)


def named_models(texts: Sequence[str]) -> dict[str, str]:
    """Name -> model: as NAME=MODEL says, or by the end of the model's own name.

    Raises:
        InputError: two have one name, or one that is none.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, given, model = text.partition("=")
        if not given or Path(text).exists() or "/" in name:
            name, model = _short(text), text
            if name in found or name == BASE:
                number = next(n for n in range(2, len(texts) + 3) if f"{name}-{n}" not in found)
                name = f"{name}-{number}"
        if not name or not model:
            raise InputError(f"{text!r}: expected a model, or NAME=MODEL")
        if name == BASE or name in found:
            raise InputError(f"{text}: the name {name!r} is taken; give another as NAME=MODEL")
        found[name] = model
    return found


def _short(text: str) -> str:
    """The last word of a model's name, or of its adapter's."""
    last = text.rpartition("+")[2].removeprefix("embedded:").rstrip("/")
    name = Path(last).stem if last.endswith((".yaml", ".yml")) else Path(last).name
    return name.partition("@")[0] or "model"


def _compared(
    parents: Parents,
    recipe: Recipe,
    mask: float,
    exact: bool,
    progress: Callable[[str, int], None],
) -> Comparison:
    sites = [
        site
        for site in Blueprint.of(parents).sites
        if all(n in site.origin for n in parents.models)
    ]
    entries = sum(math.prod(site.shape) for site in sites) * len(parents.models)
    sampled = not exact and entries > WHOLE
    found = Comparison(
        base=parents.models[BASE].name,
        models={name: parents.models[name].name for name in recipe.models},
        mask=mask,
        dtype=parents.models[BASE].dtype,
        instructed=_instructed(parents.models[BASE]),
        sampled=sampled,
    )
    for site in sites:
        tensors = {name: parents.tensor(name, own) for name, own in site.origin.items()}
        base = tensors.pop(BASE)
        models = [tensors[name] for name in recipe.models]
        _check_finite(parents, site, {BASE: base, **tensors})
        found.add(
            site.place,
            _sums(site, base, models, mask, sampled),
            _ranks(site, base, models, exact),
        )
        progress(site.name, len(sites))
    return found


def _sums(
    site: Site, base: torch.Tensor, models: Sequence[torch.Tensor], mask: float, sampled: bool
) -> Sums:
    size = base.numel()
    if not sampled:
        return Sums.of(base, models, mask)
    runs = runs_of(site.name, size)
    taken = sum(end - start for start, end in runs)

    def part(tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.reshape(-1)
        return torch.cat([flat[start:end] for start, end in runs])

    return Sums.of(part(base), [part(model) for model in models], mask) * (size / max(1, taken))


def _ranks(
    site: Site, base: torch.Tensor, models: Sequence[torch.Tensor], exact: bool
) -> list[Ranks | None]:
    return [ranks(base, model, site.name, exact=exact) for model in models]


def _check_finite(parents: Parents, site: Site, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse NaN and infinity, of which no sum tells anything."""
    for name, tensor in tensors.items():
        if not all(part.isfinite().all() for part in torch.split(tensor.reshape(-1), CHUNK)):
            parents.models[name].check_finite()  # which says where
            raise InputError(f"{name} ({parents.models[name].name}): {site.name} is not finite")


def _instructed(base: Checkpoint) -> bool | None:
    """Whether the base knows chats, as far as its tokenizer tells."""
    return template_of(base) is not None if base.has_head else None
