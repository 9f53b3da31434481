"""The compiler: from the text of a module to a function, kept on disk for the next process.

A pass takes Numba a second or two. Its text is written to ``$XDG_CACHE_HOME/evomerge`` under its
digest, for these versions of evomerge and Numba, and what Numba makes of it beside. Another process
loads that in milliseconds. Where nothing can be written, or what lies there is broken, passes are
compiled as if there was no such folder: it may be deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import threading
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core.caching import FunctionCache

from evomerge import __version__
from evomerge.cache import cache_folder

# a loop over many arrays is worth the check, once per call, that none of them overlap
_OPTION = "-runtime-memory-check-threshold=128"
llvm.set_option("", _OPTION)
# LLVM leaves half of a 512-bit register unused by default; drawing numbers takes twice as long so
_FEATURES = llvm.get_host_cpu_features()
if numba.config.CPU_FEATURES is None and _FEATURES.get("avx512f"):
    numba.config.CPU_FEATURES = _FEATURES.flatten() + ",-prefer-256-bit"

_built: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()


def compiled(text: str, name: str) -> Any:
    """The function ``name`` of a module's text, compiled for each signature that it is called with.

    Division by zero gives infinity, as in torch: a branch that raises would stop vectorisation.
    """
    with _lock:
        if (text, name) not in _built:
            _built[text, name] = _build(text, name)
        return _built[text, name]


def counts() -> tuple[int, int]:
    """How many signatures this process compiled, and how many it loaded."""
    stats = [function.stats for function in _built.values()]
    return (
        sum(sum(each.cache_misses.values()) for each in stats),
        sum(sum(each.cache_hits.values()) for each in stats),
    )


def _build(text: str, name: str) -> Any:
    digest = hashlib.sha256(f"{_OPTION}\n{text}".encode()).hexdigest()[:32]
    path = _write(text, digest)
    module = types.ModuleType(f"evomerge_pass_{digest}")
    sys.modules[module.__name__] = module  # what is loaded from disk looks for it there
    exec(compile(text, str(path or f"<pass {digest}>"), "exec"), vars(module))
    function = numba.njit(nogil=True, error_model="numpy")(vars(module)[name])
    if path is not None:
        with suppress(Exception):  # a folder that Numba will not have
            function._cache = _Kept(function.py_func)
    return function


def _write(text: str, digest: str) -> Path | None:
    """Where the text lies from now on; None where it cannot."""
    if (place := folder()) is None:
        return None
    path = place / f"{digest}.py"
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            whole = place / f"{digest}.{os.getpid()}.{threading.get_ident()}"
            whole.write_text(text, encoding="utf-8")
            os.utime(whole, (0, 0))  # Numba knows the file by its time, whoever writes it
            whole.replace(path)
    except (OSError, ValueError):
        return None
    return path


@functools.cache
def folder() -> Path | None:
    """The folder of these versions, the user's own; None where there can be none."""
    python = "".join(map(str, sys.version_info[:2]))
    try:
        place = cache_folder("passes") / f"{__version__}-numba{numba.__version__}-py{python}"
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        # what lies there is executed
        return place if place.stat().st_uid == os.getuid() else None
    except (OSError, RuntimeError):  # the latter: no home
        return None


class _Kept(FunctionCache):  # type: ignore[misc]
    """Numba's cache, whose troubles cost time and nothing else."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # cut short, or of something else
            with suppress(Exception):
                self.flush()  # or it could not be added to either
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):  # a full disk
            super().save_overload(sig, data)
