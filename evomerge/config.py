"""YAML with line numbers, read strictly and validated whole.

``Section`` walks a mapping key by key and notes every problem with its ``file:line: key``; nothing
is raised until ``Problems.check``, so one message names every mistake of a file. The safe loader is
narrowed to YAML 1.2 scalars: ``no`` is the language code, not False, and ``1e-3`` is a number.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from evomerge.errors import ConfigError, InputError, did_you_mean, one_of

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 core-schema scalars."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+\.?[0-9]*)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+."),
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
_Loader.yaml_implicit_resolvers[""] = [("tag:yaml.org,2002:null", re.compile("^$"))]


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # PyYAML would read 010 as octal


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


@dataclass(frozen=True)
class Node:
    """A YAML value that knows where it stands. Mappings hold Nodes, sequences too."""

    value: Any
    file: str
    line: int

    @property
    def plain(self) -> Any:
        """The value without positions."""
        if isinstance(self.value, dict):
            return {name: node.plain for name, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain for node in self.value]
        return self.value

    @property
    def folder(self) -> Path:
        """The folder that relative paths inside this file start from."""
        return Path(self.file).absolute().parent


@dataclass
class Problems:
    """Collects the mistakes of one or more files; raised together."""

    found: list[str] = field(default_factory=list)

    def add(self, node: Node, key: str, message: str) -> None:
        where = f"{node.file}:{node.line}: " if node.line else f"{node.file}: "
        self.found.append(f"{where}{key}: {message}" if key else f"{where}{message}")

    def check(self) -> None:
        """Raise ConfigError if anything was found."""
        if self.found:
            raise ConfigError(self.found)


def read(path: str | os.PathLike[str]) -> Node:
    """The YAML file at ``path``.

    Raises:
        InputError: the file is absent or unreadable.
        ConfigError: it is not YAML, is empty, or repeats a key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))


def parse(text: str, file: str = "<text>") -> Node:
    """YAML ``text`` as positioned nodes; ``file`` names it in messages."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise ConfigError([f"{file}: is empty"])
        return replace(_positioned(loader, root, file), line=1)  # wherever comments end
    except RecursionError:
        raise ConfigError([f"{file}: nested too deeply, or holds itself"]) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError([f"{file}:{line}: not valid YAML: {error.problem}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{file}: not valid YAML: {error}"]) from None
    finally:
        loader.dispose()


def _positioned(loader: _Loader, node: yaml.Node, file: str) -> Node:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError([f"{file}:{key_line}: expected a name as key"])
            name = loader.construct_object(key_node)
            name = name if isinstance(name, str) else str(key_node.value)
            if name in mapping:
                raise ConfigError([f"{file}:{key_line}: {name}: this key stands twice"])
            child = _positioned(loader, value_node, file)
            mapping[name] = Node(child.value, file, key_line)
        return Node(mapping, file, line)
    if isinstance(node, yaml.SequenceNode):
        return Node([_positioned(loader, item, file) for item in node.value], file, line)
    return Node(loader.construct_object(node), file, line)


def from_plain(value: Any, file: str) -> Node:
    """Plain data as nodes without lines, for content that did not come from a YAML file."""
    if isinstance(value, dict):
        return Node({str(k): from_plain(v, file) for k, v in value.items()}, file, 0)
    if isinstance(value, (list, tuple)):
        return Node([from_plain(item, file) for item in value], file, 0)
    return Node(value, file, 0)


class Section:
    """Reads one mapping strictly: each key once, by type; unknown keys are problems.

    ``path`` prefixes key names in messages (``"objectives.th."``).
    """

    def __init__(self, node: Node, problems: Problems, path: str = "") -> None:
        self.node, self.problems, self.path = node, problems, path
        self._seen: list[str] = []
        self._mapping: dict[str, Node] = {}
        if isinstance(node.value, dict):
            self._mapping = node.value
        else:
            found = "nothing" if node.value is None else repr(node.plain)
            problems.add(node, path.rstrip("."), f"expected a mapping of keys, found {found}")

    def __contains__(self, key: str) -> bool:
        self._seen.append(key)
        return key in self._mapping

    def get(self, key: str) -> Node | None:
        """The node under ``key``, marked as known; None if absent."""
        self._seen.append(key)
        return self._mapping.get(key)

    def require(self, key: str, expected: str) -> Node | None:
        """As ``get``; absence is a problem."""
        node = self.get(key)
        if node is None and isinstance(self.node.value, dict):
            self.problem(key, f"missing; expected {expected}")
        return node

    def problem(self, key: str, message: str, node: Node | None = None) -> None:
        where = (self.path + key).rstrip(".")
        self.problems.add(node or self._mapping.get(key) or self.node, where, message)

    def _typed(
        self, key: str, default: T, expected: str, accept: Callable[[Any], bool], required: bool
    ) -> T:
        node = self.require(key, expected) if required else self.get(key)
        if node is None:
            return default
        if not accept(node.value):
            self.problem(key, f"expected {expected}, found {node.plain!r}")
            return default
        return node.value  # type: ignore[no-any-return]

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        return self._typed(key, default, "text", lambda v: isinstance(v, str), required)

    def flag(self, key: str, default: bool) -> bool:
        return self._typed(key, default, "true or false", lambda v: isinstance(v, bool), False)

    def integer(self, key: str, default: int, *, low: int = 0, required: bool = False) -> int:
        return self._typed(
            key,
            default,
            f"a whole number of at least {low}",
            lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low,
            required,
        )

    def number(
        self,
        key: str,
        default: float | None,
        *,
        low: float = float("-inf"),
        high: float = float("inf"),
    ) -> float | None:
        bounds = "" if low == float("-inf") else f" of at least {low:g}"
        bounds = bounds if high == float("inf") else f" in [{low:g}, {high:g}]"
        return self._typed(
            key,
            default,
            f"a number{bounds}",
            lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high,
            False,
        )

    def choice(self, key: str, options: Sequence[str], default: str) -> str:
        node = self.get(key)
        if node is None:
            return default
        if node.value not in options:
            hint = did_you_mean(node.value, options)
            self.problem(key, f"expected {one_of(options)}, found {node.plain!r}{hint}")
            return default
        return str(node.value)

    def texts(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        """A list of texts; one text stands for a list of one."""
        node = self.get(key)
        if node is None:
            return tuple(default)
        items = node.plain if isinstance(node.value, list) else [node.value]
        if not all(isinstance(item, str) for item in items):
            self.problem(key, f"expected a list of texts, found {node.plain!r}")
            return tuple(default)
        return tuple(items)

    def section(self, key: str) -> Section | None:
        """The mapping under ``key`` as a section of its own."""
        node = self.get(key)
        return None if node is None else Section(node, self.problems, f"{self.path}{key}.")

    def items(self, key: str) -> Iterator[tuple[str, Node]]:
        """The entries of the mapping under ``key``, in file order."""
        node = self.get(key)
        if node is None:
            return
        if not isinstance(node.value, dict):
            self.problem(key, f"expected a mapping of names, found {node.plain!r}")
            return
        yield from node.value.items()

    def finish(self) -> None:
        """Report every key that nothing asked for."""
        for key, node in self._mapping.items():
            if key not in self._seen:
                hint = did_you_mean(key, self._seen)
                known = ", ".join(dict.fromkeys(self._seen))
                self.problem(key, f"unknown key{hint}; known here: {known}", node)


class _Dumper(yaml.SafeDumper):
    """Block style outside, flow style for leaves; text that the loader would misread is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds these line breaks into spaces unless they are escaped
    style = '"' if {"\x85", "\u2028", "\u2029"} & set(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _first, _resolvers in _Loader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_first])


def dump(value: Any) -> str:
    """``value`` (plain data) as YAML that ``parse`` reads back exactly."""
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=110,
        default_flow_style=None,
    )
    return str(text)


def write_text(path: Path, text: str) -> None:
    """Write beside and rename: a full disk or a crash leaves an older file untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
