"""Merge methods: pure functions of tensors, one file each.

A file of this package that declares a ``@merge_method`` is a method; nothing else needs an edit. What
several of them share is in ``kernel``; files with an underscore are the frame around kernels.
"""

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
