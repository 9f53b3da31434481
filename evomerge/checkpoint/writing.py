"""Writing model folders: shard by shard, beside the target, renamed when whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.checkpoint.reading import INDEX, WEIGHTS
from evomerge.errors import InputError, RunError

if TYPE_CHECKING:
    import torch

COMPANIONS = (  # what beside the weights makes a folder a usable model
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Cut names (in order) into runs of at most ``limit`` bytes, at least one name each."""
    cut: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if cut[-1] and used + size > limit:
            cut.append([])
            used = 0
        cut[-1].append(name)
        used += size
    return cut


@contextmanager
def beside(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A fresh folder next to ``out`` that takes its name once the block succeeds.

    A failure, a kill or a full disk leaves an existing ``out`` as it was.

    Raises:
        InputError: ``out`` exists and ``force`` is not set or it is no model, or its parent cannot
            be written.
        RunError: the disk is full.
    """
    out = out.absolute()
    if out.exists() and not force:
        raise InputError(
            f"{out}: exists already; choose another folder, or replace it with --force"
        )
    if out.exists() and not (out / "config.json").is_file():
        raise InputError(f"{out}: holds no model, so it is not replaced; choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.partial-"))
    except OSError as error:
        raise InputError(f"{out.parent}: cannot be written: {error.strerror}") from None
    try:
        os.chmod(work, 0o755)
        yield work
        if out.exists():
            old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old-"))
            os.rename(out, old / out.name)
            try:
                os.rename(work, out)
            except BaseException:
                os.rename(old / out.name, out)
                old.rmdir()
                raise
            shutil.rmtree(old)
        else:
            os.rename(work, out)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if disk_full(error):
            raise RunError(
                f"{out}: the disk is full; nothing was written there. Make room and run again"
            ) from None
        raise


def disk_full(error: BaseException) -> bool:
    """True for "no space left", also as safetensors words it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return any(
        text in str(error)
        for text in ("No space left", "os error 28", "File too large", "os error 27")
    )


def write_weights(
    folder: Path,
    stream: Iterable[tuple[str, torch.Tensor]],
    sizes: dict[str, int],
    *,
    shard_bytes: int,
    progress: Callable[[str], None] = lambda name: None,
) -> None:
    """Write ``stream`` (names in the order of ``sizes``, bytes each) as sharded safetensors.

    Only one shard is in memory at a time. One shard is called ``model.safetensors``; more get an
    index, as transformers expects.
    """
    from safetensors.torch import save_file

    plan = shards(sizes, shard_bytes)
    weight_map: dict[str, str] = {}
    tensors_in = iter(stream)
    for number, names in enumerate(plan, 1):
        file = WEIGHTS if len(plan) == 1 else f"model-{number:05d}-of-{len(plan):05d}.safetensors"
        shard: dict[str, torch.Tensor] = {}
        for expected in names:
            name, tensor = next(tensors_in)
            assert name == expected, f"stream gave {name}, the plan says {expected}"
            shard[name] = tensor
            weight_map[name] = file
            progress(name)
        save_file(shard, folder / file, metadata={"format": "pt"})
        os.chmod(folder / file, 0o644)
    if len(plan) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
