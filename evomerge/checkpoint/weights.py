"""Which files of a folder hold a model's weights: those that transformers reads, or a refusal with what is there.

transformers reads a single ``model.safetensors`` where there is one, else every shard that the index names.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from evomerge.checkpoint.fields import INDEX as INDEX_FIELDS
from evomerge.checkpoint.fields import field
from evomerge.checkpoint.files import read_json
from evomerge.checkpoint.header import Entry, read_header
from evomerge.config import shown
from evomerge.errors import CheckpointError
from evomerge.visible import one_line

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ROUTER = "router.yaml"  # of a folder of adapters
TERNARY = "adapter_model.ternary.safetensors"  # see ``checkpoint.ternary``
_SHARD = re.compile(r"^(.+)-(\d{1,6})-of-(\d{1,6})\.safetensors$", re.ASCII)
_PICKLE = re.compile(
    r"^(?!training_args|optimizer|scheduler|scaler|rng_state).+\.(bin|pt|pth|ckpt)$"
)
_OTHERS = (
    ".safetensors",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
)  # weights, but none that are read here
_SHOWN = 8  # names in a message


def weight_files(folder: Path) -> list[Path]:
    """The one file of a model's weights, or its index and the shards that this names.

    Raises:
        CheckpointError: there are no weights that transformers would read, with what is there; the index
            names a file outside of the folder, or one that is not there.
    """
    if os.path.isfile(folder / WEIGHTS):
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not os.path.isfile(index):
        _refuse(folder)
    files = shards_of(index)
    if absent := [name for name in files if not os.path.isfile(folder / name)]:
        raise CheckpointError(
            f"{index}: names {len(absent)} absent shard(s): {listed(absent)}; "
            "copy or download the model again"
        )
    return [index, *(folder / name for name in files)]


def shards_of(index: Path) -> list[str]:
    """The names of the shards that an index names, in order.

    Raises:
        CheckpointError: it names none, or a file outside of its folder.
    """
    weight_map = field(read_json(index), "weight_map", INDEX_FIELDS["weight_map"], index)
    if not weight_map:
        raise CheckpointError(f"{index}: weight_map: expected tensors, found none")
    for name, file in weight_map.items():
        if not file or Path(file).name != file or "\\" in file or file == "..":
            raise CheckpointError(
                f"{index}: weight_map: {shown(name)}: expected the name of a file in this folder, found "
                f"{shown(file)}"
            )
        if not file.endswith(".safetensors"):  # transformers looks at names to choose how to read
            raise CheckpointError(
                f"{index}: weight_map: {shown(name)}: expected a name that ends in .safetensors, found {shown(file)}"
            )
    return sorted(set(weight_map.values()))


def entries(folder: Path, *, whole: bool = True) -> dict[str, Entry]:
    """Every tensor that transformers would read of a model folder, by name.

    Args:
        folder: of the model.
        whole: False where the files may end after their headers.

    Raises:
        CheckpointError: there are none, see ``weight_files``; a file is damaged, two shards hold one tensor,
            or a shard does not hold what the index says.
    """
    first, *shards = weight_files(folder)
    if not shards:
        return read_header(first, whole=whole)
    found: dict[str, Entry] = {}
    for shard in shards:
        for name, entry in read_header(shard, whole=whole).items():
            if name in found:
                raise CheckpointError(
                    f"{folder}: {shown(name)} lies in two shards, {one_line(found[name].file.name)} and "
                    f"{one_line(shard.name)}; copy or download the model again"
                )
            found[name] = entry
    weight_map: dict[str, str] = read_json(first)["weight_map"]
    for name, file in weight_map.items():
        if name not in found or found[name].file.name != file:
            where = f"; it is in {one_line(found[name].file.name)}" if name in found else ""
            raise CheckpointError(
                f"{first}: weight_map: {shown(name)} is not in {one_line(file)}{where}"
            )
    return found


def check_named(config: Mapping[str, Any], folder: Path, weights: Path) -> None:
    """Refuse a config that names another file of weights, which only some versions of transformers read.

    Args:
        config: the ``config.json`` of ``folder``.
        folder: of the model.
        weights: the folder of its weights, or of their headers.
    """
    named = config.get("transformers_weights")
    if named is not None and named != weight_files(weights)[0].name:
        raise CheckpointError(
            f"{folder / 'config.json'}: transformers_weights: names {shown(named)}; expected none: {WEIGHTS} is "
            f"read, or the shards of {INDEX}"
        )


def refuse_adapter(folder: Path, name: str) -> None:
    """Refuse a folder that transformers would take for an adapter where a model is wanted.

    Args:
        folder: of the model.
        name: as the user wrote it.

    Raises:
        CheckpointError: with how a model with an adapter is named.
    """
    config = folder / ADAPTER_CONFIG
    if not config.is_file():
        return
    base = _base_of(config)
    if any((folder / file).is_file() for file in (WEIGHTS, INDEX)):
        raise CheckpointError(
            f"{name}: holds a model and an adapter ({config}); transformers would put the adapter on {base}. "
            f"Move one of the two to another folder, and name a model with its adapter as MODEL+ADAPTER"
        )
    raise CheckpointError(
        f"{name}: is an adapter ({config}), not a model; name it after the model that it was trained on, as "
        f"MODEL+{name}, where MODEL is a copy of {base}"
    )


def refuse_model(folder: Path) -> None:
    """Refuse a folder that holds a model where an adapter is wanted."""
    if not (folder / ADAPTER_CONFIG).exists() and (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG}: no such file; the folder holds a model (config.json) where an adapter "
            "is expected: a model is named MODEL+ADAPTER"
        )


def adapter_file(folder: Path) -> Path:
    """The weights of an adapter.

    Raises:
        CheckpointError: there are none, or only a pickle of them, with how to convert it.
    """
    file = folder / ADAPTER_WEIGHTS
    if file.is_file():
        return file
    if (folder / TERNARY).is_file():
        return folder / TERNARY
    pickles = [name for name in _pickles(folder) if name.startswith("adapter_model.")]
    if pickles:
        raise CheckpointError(
            f"{folder}: only pickle weights ({pickles[0]}), which can run code when loaded. Convert them once: "
            f"{_convert_adapter(folder / pickles[0], file)}"
        )
    raise CheckpointError(f"{folder}: no {ADAPTER_WEIGHTS} in it{_there(folder)}")


def _refuse(folder: Path) -> NoReturn:
    """Say why a folder without ``model.safetensors`` and without an index is no model."""
    names = _names(folder)
    if found := [match for name in names if (match := _SHARD.match(name))]:
        stem, total = found[0][1], found[0][3]
        numbers = {int(each[2]) for each in found if (each[1], each[3]) == (stem, total)}
        absent = [
            f"{stem}-{number:0{len(total)}d}-of-{total}.safetensors"
            for number in range(1, int(total) + 1)
            if number not in numbers
        ]
        missing = f"{len(absent)} of {int(total)} shards are missing: {listed(absent)}"
        raise CheckpointError(
            f"{folder}: holds shards without their index {INDEX}. There are {listed(m[0] for m in found)}; "
            f"{missing if absent else 'no shard is missing'}. Copy or download "
            f"{'the model' if absent else 'the index'} again"
        )
    if pickles := _pickles(folder):
        target = f"{folder}-safetensors"
        raise CheckpointError(
            f"{folder}: only pickle weights ({one_line(pickles[0])}), which can run code when loaded. Convert "
            f"them once, in a place you trust: {_convert_model(folder, target)}"
        )
    raise CheckpointError(f"{folder}: no {WEIGHTS} and no {INDEX} in it{_there(folder)}")


def _base_of(config: Path) -> str:
    """What an adapter says that it was trained on, for a message."""
    try:
        named: Any = read_json(config).get("base_model_name_or_path")
    except CheckpointError:
        named = None
    return shown(named) if named else "the model it was trained on"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def _pickles(folder: Path) -> list[str]:
    return [name for name in _names(folder) if _PICKLE.match(name)]


def _there(folder: Path) -> str:
    """The weights that a folder does hold, for a message."""
    broken = [name for name in (WEIGHTS, INDEX) if os.path.islink(folder / name)]
    if broken:
        return f"; {broken[0]} is a link to nothing"
    others = [name for name in _names(folder) if name.endswith(_OTHERS)]
    return f"; there is {listed(others)}, which is not read under this name" if others else ""


def listed(names: Iterable[str]) -> str:
    """The first of some names that a folder says, for a message."""
    names = [one_line(name) for name in names]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _convert_model(folder: Path, target: str) -> str:
    return _command(
        "from transformers import AutoModelForCausalLM as M; "
        f"M.from_pretrained({json.dumps(str(folder))}).save_pretrained({json.dumps(target)})"
    )


def _convert_adapter(pickle: Path, target: Path) -> str:
    # loaded as plain tensors: no code of the pickle runs
    return _command(
        "import torch; from safetensors.torch import save_file; "
        f'found = torch.load({json.dumps(str(pickle))}, map_location="cpu", weights_only=True); '
        "save_file({name: each.clone().contiguous() for name, each in found.items()}, "
        f"{json.dumps(str(target))})"
    )


def _command(program: str) -> str:
    """A command for a shell that runs a Python ``program``."""
    return f"python -c {shlex.quote(program)}"
