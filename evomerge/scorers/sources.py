"""Python code that a file names: where it lies, found without executing any of it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.installed import is_installed


@dataclass(frozen=True)
class Code:
    """Code that a search would execute.

    Attributes:
        name: as it is written: ``utils.process_docs``, ``module:function``.
        named: ``file:line`` that names it.
        source: the file that holds it; None if there is none to be found.
        line: of its definition there; None if it cannot be seen.
    """

    name: str
    named: str
    source: Path | None = None
    line: int | None = None

    @property
    def definition(self) -> str:
        """``utils.load (tasks/utils.py:10)``."""
        if self.source is None:
            return self.name
        return f"{self.name} ({self.source}{'' if self.line is None else f':{self.line}'})"


def code_in(name: str, named: str, source: Path | None, function: str) -> Code:
    """The ``function`` of the file ``source``."""
    return Code(name, named, source, None if source is None else line_of(source, function))


def find_module(name: str, folder: Path | None = None) -> Path | None:
    """The file of the module ``name``, looked for in ``folder`` first; None if there is none.

    Parent packages are not imported, as ``importlib.util.find_spec`` would.
    """
    places: Sequence[str] | None = None
    found: Path | None = None
    for number, part in enumerate(parts := name.split(".")):
        if folder is not None and number == 0:
            for path in (folder / f"{part}.py", folder / part / "__init__.py"):
                if path.is_file():
                    rest = folder.joinpath(*parts).with_suffix(".py")
                    package = folder.joinpath(*parts, "__init__.py")
                    return next((each for each in (rest, package) if each.is_file()), path)
        spec = None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            try:
                spec = find(".".join(parts[: number + 1]), places) if find else None
            except Exception:  # a finder's own affair
                spec = None
            if spec is not None:
                break
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
        found = Path(spec.origin) if spec.has_location and spec.origin else None
    return found


def line_of(source: Path, function: str) -> int | None:
    """Where ``source`` defines ``function``."""
    tree = _tree(source)
    for node in tree.body if tree else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name == function:
                return node.lineno
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            if any((alias.asname or alias.name) == function for alias in node.names):
                return node.lineno
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == function for target in node.targets
        ):
            return node.lineno
    return None


def with_imports(source: Path) -> list[Path]:
    """``source`` and the files that it imports, and so on, but for installed packages."""
    found: dict[Path, None] = {}
    waiting = [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found or is_installed(path):
            continue
        found[path] = None
        waiting += [each.resolve() for each in _imported(path) if each.suffix == ".py"]
    return sorted(found)


def _imported(path: Path) -> Iterator[Path]:
    tree = _tree(path)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            folder = path.parent
        elif isinstance(node, ast.ImportFrom):
            folder = path.parents[max(node.level - 1, 0)] if node.level else path.parent
            module = node.module or ""
            inner = [f"{module}.{alias.name}".lstrip(".") for alias in node.names]
            names = [*([module] if module else []), *inner]
        else:
            continue
        for name in names:
            if (found := find_module(name, folder)) is not None:
                yield found


def _tree(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
