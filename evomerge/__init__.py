"""evomerge: an evolutionary merge-recipe optimizer for language models.

The public names load on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from evomerge.commands.search import Result, search
    from evomerge.errors import EvomergeError, InputError, RunError
    from evomerge.merging import merge, merge_adapter, merge_experts, merge_into
    from evomerge.methods import merge_method, merge_tensors
    from evomerge.recipe import Recipe

_HOMES = {
    "EvomergeError": "errors",
    "InputError": "errors",
    "RunError": "errors",
    "merge": "merging",
    "merge_adapter": "merging",
    "merge_experts": "merging",
    "merge_into": "merging",
    "merge_method": "methods",
    "merge_tensors": "methods",
    "Recipe": "recipe",
    "Result": "commands.search",
    "search": "commands.search",
}

__all__ = [
    "EvomergeError",
    "InputError",
    "Recipe",
    "Result",
    "RunError",
    "merge",
    "merge_adapter",
    "merge_experts",
    "merge_into",
    "merge_method",
    "merge_tensors",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evomerge' has no attribute {name!r}")
    return getattr(import_module(f"evomerge.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
