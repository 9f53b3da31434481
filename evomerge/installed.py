"""Which Python files belong to what is installed, and which somebody brought along."""

from __future__ import annotations

import json
import site
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

if TYPE_CHECKING:
    from importlib.metadata import Distribution


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python, to a package or to evomerge: versions tell these apart."""
    return any(path.is_relative_to(folder) for folder in _INSTALLED)


def is_developed(path: Path) -> bool:
    """Whether a file belongs to a package that is installed from where somebody works on it, or to a plugin."""
    return any(path.is_relative_to(folder) for folder in _developed())


@cache
def _developed() -> frozenset[Path]:
    from importlib.metadata import distributions

    return frozenset(
        folder.resolve() for package in distributions() for folder in _folders_of(package)
    )


def _folders_of(package: Distribution) -> Iterator[Path]:
    if package.metadata["Name"] == "evomerge":  # beside its package lie runs and tasks
        return
    if any(point.group.startswith("evomerge.") for point in package.entry_points):
        yield Path(str(package.locate_file("")))
    origin = json.loads(package.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        yield Path(url2pathname(urlsplit(origin["url"]).path))


_INSTALLED = {
    Path(folder).resolve()
    for folder in (
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
        str(Path(__file__).parent),
    )
}
