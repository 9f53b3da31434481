"""Merge methods: pure functions of tensors, one file each.

A file of this package that declares a ``@merge_method`` is a method; nothing else needs an edit.
"""

from evomerge.methods._declaration import merge_method
from evomerge.methods._facts import FactStore
from evomerge.methods._merge_tensors import merge_states, merge_tensors, survey
from evomerge.methods._method import Arguments, Method, Where
from evomerge.methods._registry import get, names

__all__ = [
    "Arguments",
    "FactStore",
    "Method",
    "Where",
    "get",
    "merge_method",
    "merge_states",
    "merge_tensors",
    "names",
    "survey",
]
