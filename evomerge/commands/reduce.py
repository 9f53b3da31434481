"""A fitness file with anchors: a few search items that stand for all, chosen by known models."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evomerge import config
from evomerge.commands.score import read_suite, recipe_of, respond
from evomerge.errors import InputError
from evomerge.estimators.reduction import Reduction, reduce
from evomerge.run.preflight import check_engine
from evomerge.suite.scorer import Results, column
from evomerge.suite.splits import Split
from evomerge.suite.suite import Suite

LEAST = 3  # models: with fewer, nothing can be said of the error

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reduced:
    """``text`` of the new fitness file, and ``lines`` that say what it costs in accuracy."""

    text: str
    lines: Sequence[str]


def reduce_suite(
    fitness: Path,
    models: Sequence[str],
    output: Path,
    *,
    count: int | None = None,
    device: str | None = None,
    gpus: int = 1,
    say: Callable[[str], None] = lambda text: None,
    heard: Callable[[int, int], None] | None = None,
) -> Reduced:
    """The fitness file with a section ``anchors``, for ``output``'s folder.

    Args:
        fitness: the file to reduce.
        models: folders, hub ids or recipe files; each answers the whole search split.
        output: where the text will stand; relative paths in it are kept true.
        count: anchors per task; default: what a candidate of the last generation is asked.
        device: where models run.
        gpus: that a model is spread over.
        say: is told which model is scored, and what is downloaded.
        heard: is told how many items it answered, of how many.

    Raises:
        InputError: too few models, one of them twice, or nothing to reduce.
        RunError: a model gives no finite answers.
    """
    spec = read_suite(fitness)
    if len(models) < LEAST:
        raise InputError(
            f"--models: {len(models)} are too few: items are chosen by how models differ on them, and the "
            f"error is measured on models left out; name {LEAST} or more, such as base and parents"
        )
    if spec.anchors:
        raise InputError(f"{fitness}: is reduced already; reduce the file it was made from")
    check_engine(spec)
    suite = Suite(spec)
    recipes = [recipe_of(model) for model in models]
    digests = [recipe.digest for recipe in recipes]
    for at, (model, digest) in enumerate(zip(models, digests, strict=True)):
        if digest in digests[:at]:
            raise InputError(
                f"--models: {models[digests.index(digest)]} and {model} are the same recipe: items are chosen "
                "by how models differ on them; name each once"
            )
    items, found = suite.splits[Split.SEARCH], list[Results]()
    for number, (model, recipe) in enumerate(zip(models, recipes, strict=True), start=1):
        say(f"scoring {model} ({number} of {len(models)}) on {sum(map(len, items.values()))} items")
        found.append(
            respond(model, recipe, suite, items, device=device, gpus=gpus, say=say, heard=heard)
        )
    anchors: dict[str, dict[str, float]] = {}
    lines = []
    for name, ids in items.items():
        wanted = spec.candidate[1] if count is None else count
        objectives, left_out = _responses(suite, name, found)
        if not objectives or wanted >= len(ids):
            why = "has no objective that is a mean" if not objectives else "is that small already"
            lines.append(f"{name}: all {len(ids)} search items: it {why}")
            continue
        reduction = _reduce(suite, name, ids, objectives, found, wanted)
        anchors[name] = {
            ids[at]: round(float(weight), 9)
            for at, weight in zip(reduction.items, reduction.weights, strict=True)
        }
        lines.append(f"{name}: {len(anchors[name])} of {len(ids)} search items")
        lines += [f"  {o}: expected error {error}" for o, error in reduction.errors.items()]
        lines += [f"  {o}: is no mean: its error is unknown" for o in left_out]
        lines += [
            f"  {o}: as many random items, which a search draws by itself, would miss less: name more models"
            for o, error in reduction.errors.items()
            if error.size > error.random
        ]
    if not anchors:
        raise InputError("\n".join([f"{fitness}: nothing to reduce", *lines]))
    return Reduced(_rewritten(fitness, output, anchors), lines)


def _responses(
    suite: Suite, name: str, found: Sequence[Results]
) -> tuple[dict[str, Array], list[str]]:
    """``[models, items]`` of each of a scorer's objectives whose means they are, and the others."""
    matrices: dict[str, Array] = {}
    left_out = []
    for objective in (o for o in suite.measured if o.scorer == name):
        columns = [column(results[name], objective.metric) for results in found]
        sums = [suite.sums(name, objective.metric, values) for values in columns]
        known = [each for each in sums if each is not None and each.under.all()]
        if len(known) == len(found):
            matrices[objective.name] = np.stack(
                [each.scale * each.over / each.under.mean() for each in known]
            )
        else:
            left_out.append(objective.name)
    return matrices, left_out


def _reduce(
    suite: Suite,
    name: str,
    ids: Sequence[str],
    objectives: Mapping[str, Array],
    found: Sequence[Results],
    count: int,
) -> Reduction:
    strata = [suite.stratum_of[name][id] for id in ids]
    code = {stratum: number for number, stratum in enumerate(sorted(set(strata)))}
    margins = [results[name]["metrics"].get("margin") for results in found]
    whole = all(each is not None and None not in each for each in margins)
    return reduce(
        objectives,
        np.array([code[stratum] for stratum in strata]),
        count,
        "anchors",
        name,
        margins=np.array(margins, np.float64) if whole else None,
    )


def _rewritten(fitness: Path, output: Path, anchors: Mapping[str, Mapping[str, float]]) -> str:
    """The file's text with ``anchors``; in another folder its relative paths are rewritten."""
    content = config.read(fitness).plain
    before, after = fitness.absolute().parent, output.absolute().parent
    if before == after:
        content["anchors"] = anchors
        text = fitness.read_text(encoding="utf-8").rstrip("\n")
        text = f"{text}\n{config.dump({'anchors': anchors})}"
        # comments are kept, unless the file is written such that nothing can be appended
        return text if _reads_as(text, content) else config.dump(content)

    def moved(path: str) -> str:
        return path if Path(path).is_absolute() else os.path.relpath(before / path, after)

    if include := content.get("include"):
        content["include"] = [
            moved(p) for p in ([include] if isinstance(include, str) else include)
        ]
    renamed: dict[str, str] = {}
    for objective in content["objectives"].values():
        if "text" in objective:
            renamed[objective["text"]] = objective["text"] = moved(objective["text"])
    content["anchors"] = {renamed.get(name, name): weights for name, weights in anchors.items()}
    return config.dump(content)


def _reads_as(text: str, content: object) -> bool:
    try:
        return bool(config.parse(text).plain == content)
    except InputError:
        return False
