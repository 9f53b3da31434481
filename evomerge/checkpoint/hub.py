"""Models of the hub: what can be known of one before its weights are fetched, and then fetching them.

A revision is resolved once a process: its commit names the folder in the hub's cache that everything of it goes
to. At first that is all but the weights. Of these only the headers are read, by ranges of bytes, and kept in the
user's cache, where they are files of the weights' names that end after their header; so what is not fetched can be
opened and compared. Where the hub does not answer, or must not be asked (``HF_HUB_OFFLINE``), what its cache holds is
used.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.cache import cache_folder
from evomerge.checkpoint.header import MOST_HEADER, gigabytes, promised_bytes
from evomerge.checkpoint.weights import ADAPTER_WEIGHTS, INDEX, WEIGHTS, listed, shards_of
from evomerge.config import write_bytes
from evomerge.errors import CheckpointError, RunError
from evomerge.visible import first_line

LIGHT = ("*.json", "*.jinja", "*.model", "merges.txt", "README.md")  # what is fetched at first
_OTHERS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")  # weights
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_TRIES = 3  # to download what a busy hub did not give
_WAIT = 30  # seconds for an answer
_SNAPSHOTS: dict[tuple[str, str], Path] = {}  # of this process, by the hub's cache and hub id


@dataclass(frozen=True)
class Missing:
    """Weights of a model or adapter of the hub, some of which its cache lacks.

    Attributes:
        text: as the user named it.
        folder: of the commit, in the hub's cache.
        headers: the folder of the headers of all of them.
        sizes: by file, in bytes; those that are there, too.
    """

    text: str
    folder: Path
    headers: Path
    sizes: Mapping[str, int]

    @property
    def lacking(self) -> dict[str, int]:
        """The files that are not there -> bytes."""
        return {n: size for n, size in self.sizes.items() if not (self.folder / n).is_file()}


def snapshot(text: str) -> Path:
    """The folder of a hub id's commit in the hub's cache, with all of it but weights.

    Raises:
        CheckpointError: there is no such model, or the hub does not answer and the cache lacks a file.
    """
    from huggingface_hub import constants

    key = (str(constants.HF_HUB_CACHE), text)
    if key not in _SNAPSHOTS:
        with _answered(text):
            _SNAPSHOTS[key] = _light(text, cached=constants.HF_HUB_OFFLINE)
    return _SNAPSHOTS[key]


def _light(text: str, *, cached: bool) -> Path:
    """The folder of ``snapshot``; ``cached``: nothing is asked of the hub. Raises what the hub client does."""
    from huggingface_hub import snapshot_download

    repository, revision = _parts(text)
    try:
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=list(LIGHT), local_files_only=cached
        )
    except Exception:
        if cached or not _COMMIT.match(revision or ""):
            raise
        # what a commit holds does not change; of branches the client itself takes what is there
        return _light(text, cached=True)
    return Path(folder)


def pinned(text: str) -> str:
    """A hub id at the commit that it means in this process, if it was opened."""
    from huggingface_hub import constants

    folder = _SNAPSHOTS.get((str(constants.HF_HUB_CACHE), text))
    return f"{_parts(text)[0]}@{folder.name}" if folder else text


def is_commit_of(text: str, pinned: str) -> bool:
    """Whether ``pinned`` is a commit of the repository of hub id ``text``."""
    repository, commit = _parts(pinned)
    return repository == _parts(text)[0] and bool(_COMMIT.match(commit or ""))


def missing(text: str, *, adapter: bool = False) -> Missing | None:
    """The weights of a hub id with their headers, or None if the hub's cache holds all of them.

    Args:
        text: the hub id.
        adapter: whether it is one.

    Raises:
        CheckpointError: it has no weights that are read here, one of them is damaged, or the hub does not answer.
    """
    folder = snapshot(text)
    repository, commit = _parts(text)[0], folder.name
    names = _weights(text, folder, adapter)
    if all((folder / name).is_file() for name in names):
        return None
    headers = cache_folder("headers") / repository.replace("/", "--") / commit
    if (folder / INDEX).is_file() and not adapter:
        write_bytes(headers / INDEX, (folder / INDEX).read_bytes())
    for name in names:
        if not (headers / name).is_file():
            _keep_header(text, folder, name, headers / name)
    return Missing(text, folder, headers, {name: promised_bytes(headers / name) for name in names})


def plan(wanted: Iterable[Missing]) -> list[str]:
    """What is to be downloaded, a line for each model and one for all; nothing if nothing is."""
    lines, total = [], 0
    for found in _each(wanted):
        lacking, whole = sum(found.lacking.values()), sum(found.sizes.values())
        total += lacking
        there = f"{gigabytes(whole - lacking)} of {gigabytes(whole)} are in the cache"
        cached = f"; {there}" if lacking < whole else ""
        lines.append(f"{found.text}: {gigabytes(lacking)} to download{cached}")
    if lines:
        lines.append(
            f"{gigabytes(total)} to download in all; {gigabytes(_free())} free on the disk"
        )
    return lines


def fetch(wanted: Iterable[Missing], say: Callable[[str], None] = lambda text: None) -> bool:
    """Download weights into the hub's cache; False if nothing was missing when they were looked for.

    Args:
        wanted: what is missing, twice or not.
        say: is told what is to be downloaded; the hub's library shows how far it is.

    Raises:
        CheckpointError: nothing may be downloaded, or the disk has no room for it.
        RunError: the connection broke; files that are whole are kept.
    """
    from huggingface_hub import constants, snapshot_download

    looked_for = list(wanted)
    wanted = _each(looked_for)
    if not wanted:  # another process may have fetched them meanwhile
        return bool(looked_for)
    if constants.HF_HUB_OFFLINE:
        lines = [f"{each.text}: the hub's cache lacks {listed(each.lacking)}" for each in wanted]
        raise CheckpointError(
            "\n".join(lines)
            + "\nand HF_HUB_OFFLINE forbids to download; unset it, or fill the cache"
        )
    for line in plan(wanted):
        say(line)
    total = sum(sum(each.lacking.values()) for each in wanted)
    if total > _free():
        raise CheckpointError(
            f"{constants.HF_HUB_CACHE}: {gigabytes(total)} are to be downloaded there "
            f"({', '.join(each.text for each in wanted)}), and {gigabytes(_free())} are free; make room, or set "
            "HF_HOME to a folder on another disk"
        )
    for each in wanted:
        names = [glob.escape(name) for name in each.lacking]
        repository, commit = _parts(each.text)[0], each.folder.name
        try:
            # the client says nothing where the hub does not answer it in time, and takes what its cache has
            for _ in range(_TRIES):
                snapshot_download(
                    repository, revision=commit, allow_patterns=names, tqdm_class=_progress_bar()
                )
                if not (
                    left := [name for name in each.lacking if not (each.folder / name).exists()]
                ):
                    break
            else:
                raise TimeoutError(f"the hub did not give {listed(left)}")
        except Exception as error:  # the hub client raises many kinds
            raise RunError(
                f"{each.text}: the download broke off: {first_line(error)[:200]}. Run again: files that are whole are "
                "kept"
            ) from None
    return True


def _each(wanted: Iterable[Missing]) -> list[Missing]:
    """Those of which files lack, each once."""
    by_folder = {(each.folder, *each.sizes): each for each in wanted}
    return [each for each in by_folder.values() if each.lacking]


def _parts(text: str) -> tuple[str, str | None]:
    """Repository and revision."""
    repository, _, revision = text.partition("@")
    return repository, revision or None


def _weights(text: str, folder: Path, adapter: bool) -> list[str]:
    """The files of the weights: the single one, or the shards."""
    first = ADAPTER_WEIGHTS if adapter else WEIGHTS
    if (folder / first).is_file():
        return [first]
    there = _listed(_parts(text)[0], folder)
    if there is not None and first in there:
        return [first]
    if not adapter and (folder / INDEX).is_file():
        return shards_of(folder / INDEX)
    if there is None:  # asking for it says why
        return [first]
    others = [name for name in there if name.endswith(_OTHERS)]
    raise CheckpointError(
        f"{text}: no {first}{'' if adapter else f' and no {INDEX}'} in it on the hub"
        + (f"; there is {listed(others)}, and only safetensors are read" if others else "")
    )


def _listed(repository: str, folder: Path) -> list[str] | None:
    """What a commit holds; None if the hub does not say."""
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(repository, revision=folder.name)
    except Exception:  # no connection, no right, or offline: then what is in the cache is taken
        return None


def _keep_header(text: str, folder: Path, name: str, file: Path) -> None:
    """Put the header of a file of weights, there or not, into ``file``."""
    if (folder / name).is_file():
        with (folder / name).open("rb") as source:
            start = source.read(8)
            write_bytes(file, start + source.read(min(_length(start), MOST_HEADER)))
        return
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(_parts(text)[0], name, revision=folder.name)
    with _answered(f"{text}: {name}"):
        start, size = _range(url, 0, 8)
        length = _length(start)
        if len(start) == 8 and length <= min(size - 8, MOST_HEADER):
            start += _range(url, 8, length)[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    # each process has its own: several may look at a model for the first time
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".") as own:
        unchecked = Path(own, file.name)
        write_bytes(unchecked, start)
        try:
            promised = promised_bytes(unchecked)
        except CheckpointError as error:
            raise CheckpointError(f"{text}: {name} on the hub: {error}") from None
        if promised != size:
            raise CheckpointError(
                f"{text}: {name}: {size:,} bytes on the hub where its header promises {promised:,}"
            )
        os.replace(unchecked, file)


def _length(start: bytes) -> int:
    """Of the header, by the first bytes of a safetensors file."""
    return int(struct.unpack("<Q", start)[0]) if len(start) == 8 else 0


def _range(url: str, start: int, count: int) -> tuple[bytes, int]:
    """``count`` bytes of a file on the hub from ``start``, and the size of all of it."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    asked = {**build_hf_headers(), "Range": f"bytes={start}-{start + count - 1}"}
    # as it is: of a compressed file the ranges would be others
    asked["Accept-Encoding"] = "identity"
    answer = get_session().get(url, headers=asked, timeout=_WAIT)
    hf_raise_for_status(answer)
    if answer.status_code != 206:
        raise ValueError("it gives files whole only, no ranges of bytes")
    return answer.content, int(answer.headers["Content-Range"].rpartition("/")[2])


@contextmanager
def _answered(text: str) -> Iterator[None]:
    """What goes wrong in asking the hub for ``text``, as one message."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # the hub client raises many kinds; all mean "not to be had"
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            how = "HF_HUB_OFFLINE forbids to ask the hub for it"
            advice = "Unset it, or fill the hub's cache"
        else:
            how = "the hub did not give it"
            advice = (
                "Check the name and the connection (a private or gated model needs `hf auth login`)"
            )
        raise CheckpointError(
            f"{text}: no folder of that name here, and {how}: {first_line(error)[:300]}. {advice}"
        ) from None


def _progress_bar() -> Any:
    """What shows how far a download is, on a terminal only."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": None})

    return Bar


def _free() -> int:
    """Bytes that are free where the hub's cache lies."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
