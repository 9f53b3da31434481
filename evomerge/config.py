"""YAML with line numbers, read strictly and validated whole.

``Section`` walks a mapping key by key and notes every problem with its ``file:line: key``; nothing
is raised until ``Problems.check``, so one message names every mistake of a file. YAML is narrowed to
plain data with 1.2 scalars: ``no`` is the language code, not False, and ``1e-3`` is a number. A file
is bounded in size, depth and number of values before anything is made of it.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from evomerge.errors import ConfigError, InputError, did_you_mean, one_of
from evomerge.visible import controls, encodable, one_line

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 core-schema scalars."""


_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+\.?[0-9]*)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+."),
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
)
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"{_TAG}{_tag}", re.compile(_pattern), list(_first))
_Loader.yaml_implicit_resolvers[""] = [(f"{_TAG}null", re.compile("^$"))]

# libyaml gives the same events several times faster, where PyYAML is built with it.
_Fast: Any = (
    type("_Fast", (yaml.CSafeLoader,), {"yaml_implicit_resolvers": _Loader.yaml_implicit_resolvers})
    if yaml.__with_libyaml__
    else None
)

# More than anyone writes, and little enough to be read in seconds.
MOST_BYTES = 2 * 2**20
MOST_NODES = 100_000  # an alias counts as all that it stands for
MOST_DEPTH = 50
MOST_DIGITS = 300  # of a whole number: it still is a float
MOST_PROBLEMS = 100  # shown of one file
LARGE = 2**63 - 1  # of whole numbers that count or name something
_SHOWN = 200  # characters of a value in a message


def shown(value: Any) -> str:
    """``value`` for a message; the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


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
        key = one_line(key)
        self.found.append(f"{where}{key}: {message}" if key else f"{where}{message}")

    def check(self) -> None:
        """Raise ConfigError if anything was found."""
        if len(self.found) > MOST_PROBLEMS:
            more = len(self.found) - MOST_PROBLEMS
            raise ConfigError([*self.found[:MOST_PROBLEMS], f"... and {more} more problems"])
        if self.found:
            raise ConfigError(self.found)


def read(path: str | os.PathLike[str]) -> Node:
    """The YAML file at ``path``.

    Raises:
        InputError: the file is absent or unreadable.
        ConfigError: it is too large, is not YAML, is empty, repeats a key, or is no plain data.
    """
    return parse(read_text(path), str(path), controls=False)


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a YAML file.

    Raises:
        InputError: the file is absent or unreadable.
        ConfigError: it is larger than any such file.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(
                [f"{path}: is larger than {MOST_BYTES:,} bytes; is this the right file?"]
            )
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; expected a YAML file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: cannot be read: line {line} is not UTF-8 text: {error}"
        ) from None
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{path}: cannot be read: {error}") from None


def parse(text: str, file: str = "<text>", *, controls: bool = True) -> Node:
    """YAML ``text`` as positioned nodes; ``file`` names it in messages.

    Args:
        text: one document.
        file: where it stands.
        controls: texts may hold control characters, written as escapes.

    Raises:
        ConfigError: it is not YAML, is empty, repeats a key, is no plain data, or too large or deep.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError([f"{file}: is larger than {MOST_BYTES:,} bytes; is this the right file?"])
    if _Fast is not None:
        # the other one says better what is wrong
        with suppress(yaml.YAMLError, ValueError, OverflowError):
            return _Composer(_Fast(text), file, controls).document()
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = ascii(chr(error.character)) if isinstance(error.character, int) else "bytes"
        raise ConfigError(
            [
                f"{file}:{line}: holds the control character {found}; remove it, or write it as an escape"
            ]
        ) from None
    try:
        return _Composer(loader, file, controls).document()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else loader.line + 1
        raise ConfigError([f"{file}:{line}: not valid YAML: {error.problem}"]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # an escape beyond Unicode
        raise ConfigError([f"{file}:{loader.line + 1}: not valid YAML: {error}"]) from None
    finally:
        loader.dispose()


class _Composer:
    """Makes nodes of YAML events as they come, so that no file costs more than it may."""

    def __init__(self, loader: _Loader, file: str, controls: bool) -> None:
        self.loader: Any = loader
        self.file, self.controls = file, controls
        self.anchors: dict[str, tuple[Node, int]] = {}
        self.nodes = 0

    def document(self) -> Node:
        loader = self.loader
        loader.get_event()  # the stream's start
        if loader.check_event(yaml.StreamEndEvent):
            raise ConfigError([f"{self.file}: is empty"])
        loader.get_event()  # the document's
        root, _ = self.node("", 0)
        loader.get_event()  # the document's end
        if not loader.check_event(yaml.StreamEndEvent):
            self.fail(loader.peek_event(), "", "a second document begins; expected one")
        return replace(root, line=1)  # wherever comments end

    def fail(self, event: Any, path: str, message: str) -> NoReturn:
        problems = Problems()
        problems.add(Node(None, self.file, event.start_mark.line + 1), path, message)
        problems.check()
        raise AssertionError

    def node(self, path: str, depth: int) -> tuple[Node, int]:
        """The next node, and how many nodes it holds, itself included."""
        event = self.loader.get_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                self.fail(event, path, f"*{event.anchor} stands for nothing above it")
            found, size = self.anchors[event.anchor]
            self.count(event, path, size)
            return replace(found, line=line), size
        self.count(event, path, 1)
        if depth > MOST_DEPTH:
            self.fail(event, path, f"is nested more than {MOST_DEPTH} levels deep")
        value: Any
        size = 1
        if isinstance(event, yaml.MappingStartEvent):
            self.plain(event, path, "map")
            value = {}
            while not self.loader.check_event(yaml.MappingEndEvent):
                name, key_line = self.key(path)
                below = f"{path}.{name}" if path else name
                if name in value:
                    self.fail(self.loader.peek_event(), below, "this key stands twice")
                child, more = self.node(below, depth + 1)
                value[name] = Node(child.value, self.file, key_line)
                size += more
            self.loader.get_event()
        elif isinstance(event, yaml.SequenceStartEvent):
            self.plain(event, path, "seq")
            value = []
            while not self.loader.check_event(yaml.SequenceEndEvent):
                child, more = self.node(f"{path}[{len(value)}]", depth + 1)
                value.append(child)
                size += more
            self.loader.get_event()
        else:
            value = self.scalar(event, path)
        made = Node(value, self.file, line)
        if event.anchor:
            self.anchors[event.anchor] = made, size
        return made, size

    def count(self, event: Any, path: str, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MOST_NODES:
            self.fail(event, path, f"more than {MOST_NODES:,} values, aliases written out")

    def plain(self, event: Any, path: str, expected: str) -> None:
        if event.tag not in (None, "!", f"{_TAG}{expected}"):
            self.fail(event, path, f"expected plain data, found the tag {shown(event.tag)}")

    def key(self, path: str) -> tuple[str, int]:
        """A name, as it is written, and its line."""
        event: Any = self.loader.get_event()
        line: int = event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent):
            self.fail(event, path, "expected a name as key")
        self.plain(event, path, "str")
        self.count(event, path, 1)
        self.check_text(event, path, event.value)
        return event.value, line

    def scalar(self, event: Any, path: str) -> Any:
        text, tag = event.value, event.tag
        if tag is None or tag == "!":
            tag = self.loader.resolve(yaml.ScalarNode, text, event.implicit)
        kind = tag.removeprefix(_TAG)
        patterns = [pattern for name, pattern, _ in _SCALARS if name == kind]
        if kind != "str" and not patterns:
            self.fail(event, path, f"expected plain data, found the tag {shown(tag)}")
        if patterns and not any(re.match(pattern, text) for pattern in patterns):
            self.fail(event, path, f"expected what its tag !!{kind} says, found {shown(text)}")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            if len(text) > MOST_DIGITS:
                self.fail(
                    event,
                    path,
                    f"expected at most {MOST_DIGITS} digits, found a number of {len(text)}",
                )
            return int(text)  # 010 is ten
        if kind == "float":
            word = text.lower().lstrip("+-")
            if word not in (".inf", ".nan"):
                return float(text)
            return float(word[1:]) if text[0] != "-" else -float(word[1:])
        self.check_text(event, path, text)
        return text

    def check_text(self, event: Any, path: str, text: str) -> None:
        bad = [] if self.controls else controls(text)
        bad += [character for character in text if "\ud800" <= character <= "\udfff"]
        if bad:
            self.fail(event, path, f"holds the control character {bad[0]!a}; remove it")


def from_plain(value: Any, file: str) -> Node:
    """Plain data as nodes without lines, for content that did not come from a YAML file."""
    if isinstance(value, dict):
        return Node({str(k): from_plain(v, file) for k, v in value.items()}, file, 0)
    if isinstance(value, (list, tuple)):
        return Node([from_plain(item, file) for item in value], file, 0)
    return Node(value, file, 0)


class Section:
    """Reads one mapping strictly: each key once, by type; unknown keys are problems.

    ``path`` prefixes key names in messages (``"objectives.th."``); ``instead`` is what could stand in place of a
    mapping, such as ``true``, as far as whoever reads it has looked for that before.
    """

    def __init__(
        self, node: Node, problems: Problems, path: str = "", *, instead: str = ""
    ) -> None:
        self.node, self.problems, self.path = node, problems, path
        self._seen: list[str] = []
        self._mapping: dict[str, Node] = {}
        if isinstance(node.value, dict):
            self._mapping = node.value
        else:
            found = "nothing" if node.value is None else shown(node.plain)
            wanted = f"{instead}, or a mapping of keys" if instead else "a mapping of keys"
            problems.add(node, path.rstrip("."), f"expected {wanted}, found {found}")

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
            self.problem(key, f"expected {expected}, found {shown(node.plain)}")
            return default
        return node.value  # type: ignore[no-any-return]

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        """A text; one that is required is not empty."""
        return self._typed(
            key,
            default,
            "text",
            lambda v: isinstance(v, str) and (v != "" or not required),
            required,
        )

    def flag(self, key: str, default: bool) -> bool:
        return self._typed(key, default, "true or false", lambda v: isinstance(v, bool), False)

    def integer(
        self, key: str, default: int, *, low: int = 0, high: int = LARGE, required: bool = False
    ) -> int:
        bounds = f"of at least {low}" if high == LARGE else f"in {low}..{high}"
        node = self._mapping.get(key)
        if high == LARGE and node is not None and isinstance(node.value, int) and node.value > high:
            bounds += " and below 2**63"
        return self._typed(
            key,
            default,
            f"a whole number {bounds}",
            lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high,
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
            lambda v: (
                isinstance(v, (int, float))
                and not isinstance(v, bool)
                and math.isfinite(v)
                and low <= v <= high
            ),
            False,
        )

    def span(self, key: str, expected: str, *, required: bool = False) -> tuple[int, int] | None:
        """Two whole numbers from 0 on, the second no less; None if there are none, or a problem was noted."""
        node = self.require(key, expected) if required else self.get(key)
        if node is None:
            return None
        value = node.plain
        whole = isinstance(value, list) and all(type(number) is int for number in value)
        if whole and len(value) == 2 and 0 <= value[0] <= value[1]:
            return (value[0], value[1])
        self.problem(key, f"expected {expected}, found {shown(value)}")
        return None

    def choice(self, key: str, options: Sequence[str], default: str) -> str:
        node = self.get(key)
        if node is None:
            return default
        if node.value not in options:
            hint = did_you_mean(node.value, options)
            self.problem(key, f"expected {one_of(options)}, found {shown(node.plain)}{hint}")
            return default
        return str(node.value)

    def texts(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        """A list of texts; one text stands for a list of one."""
        node = self.get(key)
        if node is None:
            return tuple(default)
        items = node.plain if isinstance(node.value, list) else [node.value]
        if not all(isinstance(item, str) for item in items):
            self.problem(key, f"expected a list of texts, found {shown(node.plain)}")
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
            self.problem(key, f"expected a mapping of names, found {shown(node.plain)}")
            return
        yield from node.value.items()

    def finish(self) -> None:
        """Report every key that nothing asked for."""
        for key, node in self._mapping.items():
            if key not in self._seen:
                few = len(self.problems.found) < MOST_PROBLEMS
                hint = did_you_mean(key, self._seen) if few else ""
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


class Inline(dict[str, Any]):
    """A mapping that YAML shows in flow style, whatever it holds."""


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(
    Inline,
    lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=True),
)
for _first, _resolvers in _Loader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_first])


def dump(value: Any, width: int = 110) -> str:
    """``value`` (plain data) as YAML that ``parse`` reads back exactly, in lines of about ``width``."""
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=width,
        default_flow_style=None,
    )
    return str(text)


def write_text(path: Path, text: str) -> None:
    """As ``write_bytes``, of a text in UTF-8."""
    write_bytes(path, encodable(text).encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside and rename: a full disk or a crash leaves an older file untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
