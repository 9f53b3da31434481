"""The known methods: the files of this package, and plugins.

A plugin is an installed package with entry points in the group ``evomerge``; each names a module or
object whose import registers methods.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from importlib.metadata import entry_points

from evomerge.errors import InputError, did_you_mean, one_of
from evomerge.methods._method import Method

PACKAGE = "evomerge.methods"  # whose files are imported when a method is first asked for
GROUP = "evomerge"

_methods: dict[str, Method] = {}


def add(method: Method) -> None:
    """Make ``method`` known.

    Raises:
        ValueError: its name is taken.
    """
    if taken := _methods.get(method.name):
        raise ValueError(
            f"two merge methods are named {method.name!r}: one in {taken.kernel.__module__}, "
            f"one in {method.kernel.__module__}; rename one"
        )
    _methods[method.name] = method


def get(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: there is none, or a plugin is broken.
    """
    known = names()
    if name not in known:
        hint = did_you_mean(name, known)
        raise InputError(f"no merge method {name!r}{hint}; expected {one_of(known)}")
    return _methods[name]


def names() -> tuple[str, ...]:
    """All method names, sorted.

    Raises:
        InputError: a plugin is broken.
    """
    load()
    return tuple(sorted(_methods))


@functools.cache
def load() -> None:
    """Import every file of this package, then every plugin.

    Folders, and files whose name starts with an underscore, hold shared parts, not methods.

    Raises:
        InputError: a plugin cannot be imported, or what it declares is wrong.
    """
    for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__):
        if not (module.ispkg or module.name.startswith("_")):
            importlib.import_module(f"{PACKAGE}.{module.name}")
    for plugin in entry_points(group=GROUP):
        before = dict(_methods)
        try:
            plugin.load()
        except Exception as error:
            _methods.clear()
            _methods.update(before)  # nothing of a half-imported plugin stays
            owner = f" of package {plugin.dist.name!r}" if plugin.dist else ""
            raise InputError(
                f"plugin {plugin.name!r}{owner} ({plugin.value}) cannot be loaded: "
                f"{type(error).__name__}: {error}; repair or uninstall it"
            ) from error
