"""Statistics of models, collected: by ``evomerge measure``, and once per parent when a search starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch

from evomerge import methods
from evomerge.calibration import Texts
from evomerge.checkpoint import Checkpoint
from evomerge.engines.huggingface.building import build_model
from evomerge.engines.tokenizer import load_tokenizer
from evomerge.errors import CandidateFailed, CheckpointError, InputError
from evomerge.merging import Materializer
from evomerge.parents import Parents
from evomerge.parents.statistics import Statistic, StatisticStore
from evomerge.recipe import BASE, Body, Recipe, group
from evomerge.registry import STATISTICS
from evomerge.run.spec import RunSpec
from evomerge.space import SearchSpace
from evomerge.suite.duplicates import normal
from evomerge.suite.suite import Suite

Say = Callable[[str], None]


def measure(
    model: Checkpoint,
    name: str,
    texts: Texts,
    *,
    device: str = "cpu",
    trust_remote_code: bool = False,
    say: Say = lambda text: None,
) -> Path:
    """Collect statistic ``name`` of ``model`` into the cache, unless it is there; where it is.

    The model runs in float32, on one thread: on a CPU the statistic has the same bytes at each time.

    Raises:
        InputError: there is no such statistic, the tokenizer cannot be loaded, the model holds NaN, or
            what a statistic gives is not finite or not what it declares.
        RunError: the disk is full.
    """
    statistic: Statistic = STATISTICS.get(name)()
    store = StatisticStore()
    file = store.file(model, name, texts.digest)
    if file.is_file():
        return file
    try:
        tokenizer = load_tokenizer(model, trust_remote_code)
    except Exception as error:  # whatever transformers raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{model.name}: its tokenizer cannot be loaded: {reason}") from None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module = _module(model, device)
        heard = _told(texts.texts, f"{name} of {model.name}", say)
        found = {
            key: value.detach().to("cpu", torch.float32).contiguous()
            for key, value in statistic.collect(module, tokenizer, heard)
        }
    except CandidateFailed:
        model.check_finite()  # which says where it is broken
        raise
    finally:
        torch.set_num_threads(threads)
    _check(statistic, model, found)
    store.write(file, found)
    return file


def _module(model: Checkpoint, device: str) -> torch.nn.Module:
    """The model as the Hugging Face engine runs it, in float32, adapter applied."""
    materializer = Materializer(Parents({BASE: model}), device=device)
    module: torch.nn.Module = build_model(materializer.blueprint, model, "float32", device)
    body = Body((group("passthrough", (BASE,)),))
    # by name alone: nothing is opened again
    recipe = Recipe(None, {}, body, "float32", 0, BASE)
    materializer.into(recipe, module)
    return module


def _told(texts: Iterable[str], what: str, say: Say) -> Iterator[str]:
    """The texts; every tenth of them is told."""
    texts = list(texts)
    step = max(1, len(texts) // 10)
    for number, text in enumerate(texts):
        if number % step == 0:
            say(f"collecting {what}: text {number + 1} of {len(texts)}")
        yield text


def _check(statistic: Statistic, model: Checkpoint, found: dict[str, torch.Tensor]) -> None:
    """Refuse what the statistic did not declare."""
    for name in model.names:
        shape = statistic.shape(name, model.entry(name).shape)
        if shape is None:
            continue
        value = found.get(statistic.source(name))
        if value is None or tuple(value.shape) != shape:
            given = "nothing" if value is None else f"shape {list(value.shape)}"
            raise InputError(
                f"{statistic.name} of {model.name}: {given} for {name}, expected shape {list(shape)}; this "
                "is a fault of the statistic"
            )
        if not value.isfinite().all():
            raise InputError(
                f"{statistic.name} of {model.name}: {name}: NaN or infinite; do the texts suit the model?"
            )


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
