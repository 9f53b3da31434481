"""The calibration texts of a run, and the statistics of its parents that are taken from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from evomerge import methods
from evomerge.calibration import Texts
from evomerge.checkpoint import Checkpoint
from evomerge.collecting import Say, measure
from evomerge.errors import InputError
from evomerge.run.spec import RunSpec
from evomerge.space import SearchSpace
from evomerge.suite.duplicates import normal
from evomerge.suite.suite import Suite


def read_texts(spec: RunSpec, suite: Suite | None) -> Texts | None:
    """The calibration texts of a run, which must not be what it is judged by; None if it has none.

    Args:
        spec: of the run.
        suite: whose splits are looked through; None if it cannot be built.

    Raises:
        InputError: the file is wrong, or some of its texts are items of a split, or made from what an
            item is made from.
    """
    given = spec.calibration
    if given is None:
        return None
    texts = Texts.read(given.path, given.items)
    if suite is None:
        return texts
    judged: dict[str, str] = {}
    for split, subset in suite.splits.items():
        for scorer, ids in subset.items():
            chosen = set(ids)
            for item in suite.scorers[scorer].items():
                if item.id in chosen:
                    told = f"item {item.id} of {scorer} ({split} split)"
                    judged[f"source {item.source}"] = judged[f"text {normal(item.text)}"] = told
    judged.pop("text ", None)
    found = list[tuple[int, str]]()
    for number, (text, source) in enumerate(zip(texts.texts, texts.sources, strict=True), start=1):
        keys = [f"text {normal(text)}", *([f"source {source}"] if source else [])]
        found += [(number, judged[key]) for key in keys if key in judged][:1]
    if found:
        number, first = found[0]
        raise InputError(
            f"{given.place}: calibration: text {number} of {given.path} is {first}"
            f"{f', and {len(found) - 1} more are items, too' if len(found) > 1 else ''}: what a candidate is "
            "made with may not be what it is judged by. Calibrate with other texts"
        )
    return texts


def collect(
    spec: RunSpec,
    space: SearchSpace,
    models: Mapping[str, Checkpoint],
    texts: Texts,
    *,
    device: str | None = None,
    say: Say = lambda text: None,
) -> None:
    """What recipes of a run take of its parents, as far as it is not in the cache.

    Raises:
        InputError: see ``measure``.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    for name, model in wanted(spec, space):
        trust = spec.trust_remote_code
        measure(models[model], name, texts, device=where, trust_remote_code=trust, say=say)


def wanted(spec: RunSpec, space: SearchSpace) -> list[tuple[str, str]]:
    """Statistic and model of each that recipes of this run take: those of its methods, and known ones."""
    taken = [(name, spec.space.team(name, tuple(spec.sources))) for name in spec.space.methods]
    taken += [(g.method, g.models) for recipe in space.starts().values() for g in recipe.groups]
    return list(
        dict.fromkeys(
            (statistic, model)
            for method, team in taken
            for statistic in methods.get(method).statistics
            for model in team
        )
    )
