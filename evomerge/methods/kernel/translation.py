"""Translation: entry functions, and all that they name, as the text of one module for the compiler.

Python and torch compute with constants as they are; a compiler would take them for float64 and carry
that on. So each constant is cast to float32 where it stands, constant expressions as one, and each
function and struct that a function names is written out before it. The text then depends on nothing
but itself, and may be kept.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import linecache
import math
import operator
import textwrap
import threading
import types
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from evomerge.methods.kernel.entrywise import put, where

PRELUDE = '''\
"""A pass of evomerge for Numba. It is written again where it is missing."""

from collections import namedtuple

import numba
import numpy as np
from numba.cpython.unsafe.tuple import tuple_setitem

inlined = numba.njit(nogil=True, error_model="numpy", forceinline=True)


@inlined
def where(condition, value, other):
    return np.float32(value) if condition else np.float32(other)


@inlined
def put(values, index, value):
    return tuple_setitem(values, index, np.float32(value))
'''

_OPERATIONS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


# Python counts how deep it is in a tree in one place for all threads (gh-106905), and then fails
_parsing = threading.RLock()


class Untranslatable(Exception):
    """A function whose lines are not to be had."""


class Translation:
    """The text of a module that grows by what is asked for."""

    def __init__(self) -> None:
        self._texts = [PRELUDE]
        self._names: dict[Any, str] = {where: "where", put: "put"}

    def text(self, *more: str) -> str:
        """The module, with more text behind."""
        return "\n\n".join([*self._texts, *more])

    def name(self, thing: Any) -> str:
        """What a function, or the class of a struct, is called in the module; written if it is new.

        Raises:
            Untranslatable: the lines of the function, or of one that it calls, are not to be had.
            TypeError: it names what the compiler cannot know.
        """
        if thing not in self._names:
            with _parsing:
                called, text = self._written(thing)
            self._texts.append(text)
            self._names[thing] = called
        return self._names[thing]

    def _written(self, thing: Any) -> tuple[str, str]:
        if isinstance(thing, type):
            called = f"{thing.__name__}__{len(self._names)}"
            fields = list(cast(Any, thing)._fields)
            return called, f'{called} = namedtuple("{thing.__name__}", {fields})\n'
        function = inspect.unwrap(thing)  # of what type checkers put around it
        tree = _tree_of(function)
        tree = cast(ast.FunctionDef, _Casts(self, function).visit(tree))
        called = tree.name = f"{function.__name__}__{len(self._names)}"
        return called, f"@inlined\n{ast.unparse(ast.fix_missing_locations(tree))}\n"


def _tree_of(function: types.FunctionType) -> ast.FunctionDef:
    """A function's lines, without its annotations, decorators and docstring."""
    code = function.__code__
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        if code.co_code not in _codes(code.co_filename)[code.co_name]:
            raise OSError("the file was changed since its import")
    except (OSError, SyntaxError, KeyError) as error:
        raise Untranslatable(f"the lines of {function.__qualname__} are not to be had") from error
    if code.co_freevars:
        names = ", ".join(code.co_freevars)
        raise TypeError(f"{function.__qualname__} takes {names} from the function around it")
    if not isinstance(tree, ast.FunctionDef):
        raise Untranslatable(f"{function.__qualname__} has no lines of its own")
    tree.decorator_list, tree.returns = [], None
    for argument in ast.walk(tree.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    if ast.get_docstring(tree, clean=False) is not None:
        tree.body = tree.body[1:] or [ast.Pass()]
    return tree


@functools.cache
def _codes(file: str) -> dict[str, list[bytes]]:
    """What the functions of each name in a file compile to."""
    found: dict[str, list[bytes]] = {}
    code = compile("".join(linecache.getlines(file)), file, "exec", dont_inherit=True)
    rest = [code]
    while rest:
        one = rest.pop()
        found.setdefault(one.co_name, []).append(one.co_code)
        rest += [each for each in one.co_consts if isinstance(each, types.CodeType)]
    return found


class _Casts(ast.NodeTransformer):
    """Casts a function's constants and gives what it names the names of the module."""

    def __init__(self, translation: Translation, function: types.FunctionType) -> None:
        self._translation, self._function = translation, function
        self._local = {*function.__code__.co_varnames, *function.__code__.co_cellvars}

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.expr) and (found := self._constant(node)) is not None:
            return _literal(found)
        return super().visit(node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._local or not isinstance(node.ctx, ast.Load):
            return node
        found = self._global(node)
        if found is np:
            return ast.Name("np", ast.Load())
        if isinstance(found, tuple) and all(isinstance(each, float) for each in found):
            return ast.Tuple([_literal(each) for each in found], ast.Load())
        if isinstance(found, types.FunctionType):
            return ast.Name(self._translation.name(found), ast.Load())
        if found is None and node.id in vars(builtins):
            return node
        raise TypeError(
            f"{self._function.__qualname__} names {node.id!r}; an entry function may name its "
            "arguments, floats, tuples of floats and functions like itself"
        )

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(found := self._global(node), types.FunctionType):
            return ast.Name(self._translation.name(found), ast.Load())
        return self.generic_visit(node)

    def _global(self, node: ast.expr) -> Any:
        """What a name, or a module's attribute, stands for outside the function; else None."""
        if isinstance(node, ast.Name) and node.id not in self._local:
            return self._function.__globals__.get(node.id)
        if isinstance(node, ast.Attribute):
            module = self._global(node.value)
            if isinstance(module, types.ModuleType) and module is not np:
                return getattr(module, node.attr, None)
        return None

    def _constant(self, node: ast.expr) -> float | int | None:
        """The number that an expression of constants is, as Python computes it; else None."""
        found: Any = None
        if isinstance(node, ast.Constant):
            found = node.value
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            found = self._global(node)
        elif isinstance(node, (ast.UnaryOp, ast.BinOp)) and type(node.op) in _OPERATIONS:
            parts = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
            values = [self._constant(part) for part in parts]
            if None not in values:
                found = _OPERATIONS[type(node.op)](*values)
        return found if type(found) in (float, int) else None


def _literal(number: float | int) -> ast.expr:
    """A whole number as it is, another one as a float32."""
    if isinstance(number, int):
        return ast.Constant(number)
    written = repr(number) if math.isfinite(number) else f"np.{abs(number)}"  # nan, inf
    sign = "-" if number == -math.inf else ""
    return ast.parse(f"np.float32({sign}{written})", mode="eval").body
