"""Data are read from where a task says they are, and from nowhere else, whatever their files hold.

`datasets` does much with what a file says. It takes a name with ``::`` in it for a chain of file systems, of other machines,
too; unpacks archives by what they are, not by what they are called, and links in one lead wherever they like; calls a function of
pyarrow by the name that a column's type has; makes the folder of its cache by the version that a card states; and tells
Amazon of every data set that it loads.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import datasets
from datasets.features import features
from datasets.utils.extract import Extractor

from evomerge.errors import InputError

# by the name of the second the package itself offers a mapping
_CORE: Any = import_module("fsspec.core")
_REGISTRY: Any = import_module("fsspec.registry")
HERE = frozenset(("file", "local", "zip", "tar", "gzip", "bz2", "xz", "lz4", "zstd"))
HUB = frozenset(("hf",))
_SINGLE = ("gzip", "bz2", "xz", "lz4", "zstd")  # a file, compressed
_TYPE = re.compile(
    r"(null|bool_?|u?int(8|16|32|64)|(float|halffloat|double)(16|32|64)?|date(32|64)|(large_)?(string|utf8|binary)|"
    r"(string|binary)_view|(timestamp|time32|time64|duration|decimal128|decimal256)[\[(].*[\])])"
)


@contextmanager
def confined(protocols: frozenset[str] | None) -> Iterator[None]:
    """Files are opened by these ``protocols`` of fsspec alone (None: by all), and what they hold is data.

    Raises:
        InputError: something else is asked for.
    """
    find, extract, arrow = (
        _REGISTRY.get_filesystem_class,
        Extractor.extract,
        features.string_to_arrow,
    )
    cached = datasets.DatasetBuilder._build_cache_dir

    def found(protocol: str) -> Any:
        if protocols is not None and protocol and protocol not in protocols:
            raise InputError(
                f"its files would have been looked for by {protocol!r}, which the task does not say"
            )
        return find(protocol)

    def extracted(input_path: Any, output_path: Any, extractor_format: str) -> Any:
        _check_archive(str(input_path), extractor_format)
        return extract(input_path, output_path, extractor_format)

    def typed(name: str) -> Any:
        if not (isinstance(name, str) and _TYPE.fullmatch(name)):
            raise InputError(
                f"a column of its data is of type {name!r:.60}, which is none of Arrow's plain ones"
            )
        return arrow(name)

    def kept(builder: Any) -> Any:
        place, root = cached(builder), os.path.normpath(builder._cache_dir_root)
        if not os.path.normpath(place).startswith(f"{root}{os.sep}"):
            raise InputError(
                f"its data would have been kept in {place}, which is not in the cache ({root})"
            )
        return place

    with (
        patch.object(_REGISTRY, "get_filesystem_class", found),
        patch.object(_CORE, "get_filesystem_class", found),
        patch.object(Extractor, "extract", extracted),
        patch.object(features, "string_to_arrow", typed),
        patch.object(datasets.DatasetBuilder, "_build_cache_dir", kept),
        patch.object(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False),
    ):
        yield


def _check_archive(archive: str, kind: str) -> None:
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
