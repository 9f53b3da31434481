"""Merge methods: pure functions of tensors, one file each.

A file of this package that declares a ``@merge_method`` is a method; nothing else needs an edit. What
several of them share is in ``kernel``; files with an underscore are the frame around kernels. Names load on first
use: who reads a record needs no kernel, and not torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.methods._declaration import merge_method
    from evomerge.methods._form import Coefficient, Form
    from evomerge.methods._merge_tensors import merge_states, merge_tensors, survey
    from evomerge.methods._method import (
        Arguments,
        Inputs,
        Method,
        Need,
        Stats,
        optional,
        required,
    )
    from evomerge.methods._registry import get, names
    from evomerge.methods.kernel.facts import FactStore

_HOMES = {
    "merge_method": "_declaration",
    "Coefficient": "_form",
    "Form": "_form",
    "merge_states": "_merge_tensors",
    "merge_tensors": "_merge_tensors",
    "survey": "_merge_tensors",
    "Arguments": "_method",
    "Inputs": "_method",
    "Method": "_method",
    "Need": "_method",
    "Stats": "_method",
    "optional": "_method",
    "required": "_method",
    "get": "_registry",
    "names": "_registry",
    "FactStore": "kernel.facts",
}

__all__ = [
    "Arguments",
    "Coefficient",
    "FactStore",
    "Form",
    "Inputs",
    "Method",
    "Need",
    "Stats",
    "get",
    "merge_method",
    "merge_states",
    "merge_tensors",
    "names",
    "optional",
    "required",
    "survey",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evomerge.methods' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"evomerge.methods.{_HOMES[name]}"), name)
    return found
