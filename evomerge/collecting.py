"""A statistic of one model, collected from texts into the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from evomerge.calibration import Texts
from evomerge.checkpoint import Checkpoint
from evomerge.engines.huggingface.building import build_model
from evomerge.engines.tokenizer import load_tokenizer
from evomerge.errors import CandidateFailed, EvomergeError, InputError
from evomerge.merging import Materializer
from evomerge.parents import Parents
from evomerge.parents.statistics import Statistic, StatisticStore
from evomerge.recipe import BASE, Body, Recipe, passing
from evomerge.registry import STATISTICS
from evomerge.visible import first_line

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
    tokenizer = load_tokenizer(model, trust_remote_code)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module = _module(model, device)
        heard = _announced(texts.texts, f"{name} of {model.name}", say)
        found = {
            key: value.detach().to("cpu", torch.float32).contiguous()
            for key, value in statistic.collect(module, tokenizer, heard)
        }
    except CandidateFailed:
        model.check_finite()  # which says where it is broken
        raise
    except EvomergeError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} of {model.name}: {type(error).__name__}: {first_line(error)}; do its tokenizer and its weights "
            "belong together?"
        ) from error
    finally:
        torch.set_num_threads(threads)
    _check(statistic, model, found)
    store.write(file, found)
    return file


def _module(model: Checkpoint, device: str) -> torch.nn.Module:
    """The model as the Hugging Face engine runs it, in float32, adapter applied."""
    materializer = Materializer(Parents({BASE: model}), device=device)
    module: torch.nn.Module = build_model(materializer.outline(None), model, "float32", device)
    body = Body((passing(BASE),))
    # by name alone: nothing is opened again
    recipe = Recipe(None, {}, body, "float32", 0, BASE)
    materializer.into(recipe, module)
    return module


def _announced(texts: Iterable[str], what: str, say: Say) -> Iterator[str]:
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
