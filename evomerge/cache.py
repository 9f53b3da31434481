"""The user's cache: folders that may be deleted while nothing runs, and names for what lies in them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.errors import InputError


def cache_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/evomerge/name``, by default under ``~/.cache``.

    Raises:
        RuntimeError: the user has no home.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "evomerge" / name


def name_of(made_of: Any) -> str:
    """The name of what is made of these plain values: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


def make_once(file: Path, make: Callable[[], object]) -> None:
    """Let ``make`` make the folder that ``file`` completes, unless it is there.

    Raises:
        InputError: it cannot be made, nor did another process make it meanwhile.
    """
    if file.is_file():
        return
    try:
        make()
    except InputError:
        if not file.is_file():
            raise
