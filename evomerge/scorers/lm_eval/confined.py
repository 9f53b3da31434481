"""Data are read from where a task says they are, and from nowhere else, whatever their files hold.

`datasets` takes a file name with ``::`` in it for a chain of file systems, of other machines, too, and unpacks archives by what
they are, not by what they are called. A link in one leads wherever it likes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from datasets.utils.extract import Extractor

from evomerge.errors import InputError

# by the name of the second the package itself offers a mapping
_CORE: Any = import_module("fsspec.core")
_REGISTRY: Any = import_module("fsspec.registry")
HERE = frozenset(("file", "local", "zip", "tar", "gzip", "bz2", "xz", "lz4", "zstd"))
HUB = frozenset(("hf",))
_SINGLE = ("gzip", "bz2", "xz", "lz4", "zstd")  # a file, compressed


@contextmanager
def confined(protocols: frozenset[str] | None) -> Iterator[None]:
    """Files are opened by these ``protocols`` of fsspec alone (None: by all), and archives hold files alone.

    Raises:
        InputError: something else is asked for.
    """
    find, extract = _REGISTRY.get_filesystem_class, Extractor.extract

    def found(protocol: str) -> Any:
        if protocols is not None and protocol and protocol not in protocols:
            raise InputError(
                f"its files would have been looked for by {protocol!r}, which the task does not say"
            )
        return find(protocol)

    def extracted(input_path: Any, output_path: Any, extractor_format: str) -> Any:
        _check(str(input_path), extractor_format)
        return extract(input_path, output_path, extractor_format)

    _REGISTRY.get_filesystem_class = _CORE.get_filesystem_class = found
    Extractor.extract = extracted
    try:
        yield
    finally:
        _REGISTRY.get_filesystem_class = _CORE.get_filesystem_class = find
        Extractor.extract = extract


def _check(archive: str, kind: str) -> None:
    """Refuse an archive that would be unpacked to anything but files beneath one folder.

    Raises:
        InputError: it is refused.
    """
    if kind in _SINGLE:
        return
    if kind == "tar":
        with tarfile.open(archive) as tar:
            other = [each.name for each in tar if not (each.isfile() or each.isdir())]
        if other:
            raise InputError(
                f"{archive}: {other[0]!r} in it is a link or a device; only files are unpacked"
            )
    elif kind != "zip":  # Python's own leads nowhere
        raise InputError(
            f"{archive}: an archive of kind {kind} is not unpacked; expected zip or tar"
        )
