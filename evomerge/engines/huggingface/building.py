"""A live model of transformers with the shapes of the merged ones."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from evomerge.checkpoint import INDEX, Donor, read_json, weight_files
from evomerge.checkpoint.companions import GENERATION
from evomerge.engines import Outline
from evomerge.engines.huggingface.quantizing import loading
from evomerge.engines.huggingface.spreading import free_memory, spread
from evomerge.errors import CheckpointError
from evomerge.skeleton import Skeleton
from evomerge.skeleton.modules import model_class, own_config, quiet, without_programs
from evomerge.visible import first_line

CONFIG = "config.json"


def build_model(
    outline: Outline, donor: Donor, dtype: str, *devices: str, quantize: str = ""
) -> Any:
    """A model in eval mode, without gradients, that generates as ``donor`` does, if it does.

    It is loaded from the donor; a candidate overwrites every weight, and those of blocks and tokens that the
    donor lacks.

    Args:
        outline, donor: see ``Engine.open``.
        dtype: as torch names it.
        devices: likewise; several are each given a part of its blocks.
        quantize: see ``EngineOptions``.

    Raises:
        CheckpointError: transformers makes no model of the donor's files.
        InputError: the model cannot be spread over the devices.
    """
    donor.check_unchanged()
    content, merged = outline.config(), f"the {CONFIG} of merges with {donor.name}"
    _check_fit(content, outline, merged)
    kind = model_class(content, merged)
    more = loading(quantize, dtype, devices[0]) if quantize else {}
    with (
        _told(merged),
        quiet(),
        without_programs(),
        torch.random.fork_rng(devices=[]),
        _bare(donor) as folder,
    ):
        model = kind.from_pretrained(
            folder,
            config=own_config(kind, content),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            **more,
        )
    if (donor.folder / GENERATION).is_file():
        model.generation_config = generation_of(donor)
    model = model.eval().requires_grad_(False)
    if quantize:
        return model
    return model.to(devices[0]) if len(devices) == 1 else spread(model, free_memory(devices))


def generation_of(donor: Donor) -> Any:
    """How the donor generates: its ``generation_config.json``, or the defaults of transformers.

    Raises:
        CheckpointError: transformers cannot read it.
    """
    path = donor.folder / GENERATION
    content = read_json(path) if path.is_file() else {}
    with _told(str(path)):
        return GenerationConfig.from_dict(content)


def _check_fit(content: Mapping[str, Any], outline: Outline, merged: str) -> None:
    """Refuse a config of other shapes than the weights have, before there is memory taken for them."""
    parts = Skeleton.of(content, merged).parts
    found = {name: part.shape for name, part in parts.items() if not part.tied}
    for name in (*outline.shapes, *found):
        made, stored = found.get(name), outline.shapes.get(name)
        if made != stored and not (made is None and name not in parts):
            raise CheckpointError(
                f"{merged} does not fit the weights: by it {name} is {made or 'no parameter'}, stored is "
                f"{stored or 'none'}"
            )


@contextmanager
def _bare(donor: Donor) -> Iterator[Path]:
    """A folder that has the weights and the config of ``donor``, and nothing else.

    Some versions of transformers run ``custom_generate/generate.py`` of the folder that a model is loaded
    from, and put an adapter that lies there on another model.
    """
    with tempfile.TemporaryDirectory() as made:
        for path in (donor.folder / CONFIG, *weight_files(donor.folder)):
            if path.name == INDEX:  # transformers wants metadata, whatever they say
                named = {"metadata": {}, "weight_map": read_json(path)["weight_map"]}
                Path(made, INDEX).write_text(json.dumps(named))
            else:
                Path(made, path.name).symlink_to(path.resolve())
        yield Path(made)


@contextmanager
def _told(file: str) -> Iterator[None]:
    """What transformers raises over ``file``, as an error of ours; a machine out of memory or disk stays one."""
    try:
        yield
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CheckpointError(
            f"{file}: transformers makes nothing of it: {first_line(error)}"
        ) from error
