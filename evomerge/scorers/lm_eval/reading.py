"""A task's YAML as data: nothing that it names is imported, and nothing is too large to be read.

lm-eval's own reader executes ``!function`` where it stands. Here it is a text with a place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import yaml
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from lm_eval.api import metrics  # noqa: F401  fills the registry
from lm_eval.api.registry import metric_registry

from evomerge.checkpoint.files import file_digest
from evomerge.checkpoint.reference import REVISION
from evomerge.config import MOST_BYTES, MOST_DEPTH, MOST_NODES
from evomerge.errors import InputError
from evomerge.scorers.sources import Code, code_in, find_module, with_imports

FUNCTION = "!function"
LIBRARY = Path(lm_eval.__file__).parent.resolve()
_Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LOADERS = frozenset(_PACKAGED_DATASETS_MODULES)
LOCAL = ("json", "csv", "parquet", "text", "arrow")  # loaders of `datasets` for files at hand
# what such a loader may be told: where data are, and how they are read. The rest says where to write, what to
# fetch, what to make anew
_HARMLESS = frozenset(
    (
        *("data_files", "data_dir", "name", "revision", "trust_remote_code", "split", "features"),
        *("streaming", "verification_mode"),
        *("field", "sep", "delimiter", "header", "names", "column_names", "columns"),
        *("quoting", "quotechar", "escapechar", "encoding", "encoding_errors", "batch_size"),
        *("chunksize", "keep_linebreaks", "sample_by", "na_values", "keep_default_na"),
    )
)
_SCRIPTS = int(datasets.__version__.partition(".")[0]) < 4  # later ones run none
# what PyYAML raises for `!!bool x`, a key that is a list, 5,000 digits
_SURPRISES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_REMOTE = re.compile("://|::")
_SPLIT = re.compile(r"\w+(\.\w+)*")
# by which code of lm-eval takes code, or data, from elsewhere
_FETCHES = re.compile(r"\b(import|from) (evaluate|requests)\b|\burlopen\b|\bnltk\.download\b")
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}  # by lm-eval


class Function(str):
    """What stands in the place of a ``!function``; a text that looks like one is none."""


class Unbounded(InputError):
    """A file that is too large, too deep, or without end: nobody wrote it to be read."""


@dataclass(frozen=True)
class Named:
    """What a ``!function`` names."""

    text: str
    file: Path
    line: int

    @property
    def source(self) -> Path | None:
        """Where lm-eval would find it: beside the YAML file, else among the importable modules."""
        module = self.text.rpartition(".")[0]
        beside = self.file.parent / f"{module.replace('.', '/')}.py"
        if module and beside.is_file():
            return beside.resolve()
        found = find_module(module) if module else None
        return found and found.resolve()

    @property
    def code(self) -> Code:
        where = f"{self.file}:{self.line}"
        return code_in(self.text, where, self.source, self.text.rpartition(".")[2])


@dataclass
class TaskFile:
    """A task's YAML with all that it includes.

    Attributes:
        content: keys and values; local keys win over included ones.
        files: the YAML files, the task's own first, each with its own content.
        functions: what ``!function`` names in them.
    """

    content: dict[str, Any] = field(default_factory=dict)
    files: dict[Path, dict[str, Any]] = field(default_factory=dict)
    functions: list[Named] = field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        """What `datasets` is told beside the data set's name."""
        found = self.content.get("dataset_kwargs")
        return found if isinstance(found, dict) else {}

    @property
    def data(self) -> Any:
        """The data set's name, or its loader's; `datasets` takes it with an address of the hub before it, too."""
        found = self.content.get("dataset_path")
        return found.removeprefix("hf://datasets/") if isinstance(found, str) else found

    @property
    def builtin(self) -> bool:
        """Whether it is one of lm-eval's own tasks, and nothing else is included."""
        return all(_is_library(path) for path in self.files)

    @property
    def code(self) -> list[Code]:
        """What lm-eval would execute to build this task and to score with it, but for its own code in its own tasks.

        Its functions do what a stranger's file tells them, too: load a tokenizer with its code, say.
        """
        found = [
            each.code for each in self.functions if not (self.builtin and _is_library(each.source))
        ]
        path = next(iter(self.files))
        listed = self.content.get("metric_list")
        own = self.content.get("process_results") is not None  # then lm-eval looks no metric up
        for each in listed if isinstance(listed, list) and not own else ():
            name = each.get("metric") if isinstance(each, dict) else None
            if not isinstance(name, str) or isinstance(name, Function):
                continue
            if each.get("hf_evaluate") or name not in metric_registry:
                found.append(Code(f"metric {name} of the package evaluate", str(path)))
        data, kwargs = self.data, self.options
        if _SCRIPTS and kwargs.get("trust_remote_code"):
            found.append(Code(f"the code of data set {data}, by trust_remote_code", str(path)))
        if more := sorted(map(str, kwargs.keys() - _HARMLESS)):
            text = f"what `datasets` does by {', '.join(more)} of dataset_kwargs"
            found.append(Code(text, str(path)))
        revision = kwargs.get("revision")
        if revision is not None and not re.fullmatch(REVISION, str(revision)):
            text = "what `datasets` does by a revision that is no name"
            found.append(Code(text, str(path)))
        files = _flat(kwargs.get("data_files"))
        if not all(isinstance(each, str) for each in files):
            text = "what `datasets` makes of data_files that are no paths, list or mapping of paths"
            found.append(Code(text, str(path)))
        elif not all(_SPLIT.fullmatch(str(split)) for split in _splits(kwargs.get("data_files"))):
            text = "what `datasets` makes of data_files of splits that are no words"
            found.append(Code(text, str(path)))
        elif any("**" in each for each in files):
            found.append(Code("what `datasets` finds by ** in data_files", str(path)))
        if isinstance(data, str) and data.startswith(("hf://", "buckets/")):
            found.append(Code(f"whatever `datasets` finds at {data}", str(path)))
        if prompt := self.content.get("use_prompt"):
            found.append(Code(f"whatever {prompt!r:.60} holds, by use_prompt", str(path)))
        if (
            isinstance(data, str)
            and data not in LOCAL
            and (data in LOADERS or os.path.exists(data))
        ):
            # some of them unpickle, or do what a query says
            text = f"whatever data that the loader {data} of `datasets` reads"
            found.append(Code(text, str(path)))
        return list(dict.fromkeys(found))


def read_task(path: Path) -> TaskFile:
    """The task file at ``path``, with what it includes.

    Raises:
        InputError: a file is absent, unreadable, too large, no YAML mapping, or includes itself.
    """
    task = TaskFile()
    task.content = _read(path.expanduser().resolve(), task)
    return task


def _read(path: Path, task: TaskFile) -> dict[str, Any]:
    if path in task.files:
        raise InputError(f"{path}: includes itself")
    text = bounded(path)
    try:
        content = yaml.load(text, _loader(path, task))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise InputError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, *_SURPRISES) as error:
        raise InputError(f"{path}: not valid YAML: {type(error).__name__}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of keys, found {type(content).__name__}")
    task.files[path] = {key: value for key, value in content.items() if key != "include"}
    includes = content.pop("include", None) or []
    merged: dict[str, Any] = {}
    for each in includes if isinstance(includes, list) else [includes]:
        if not isinstance(each, str):
            raise InputError(f"{path}: include: expected a file, found {each!r:.100}")
        included = _read((path.parent / each).resolve(), task)
        included.pop("task_list", None)  # as lm-eval does
        merged |= included
    # after what is included: lm-eval reads that all the same
    if not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: expected keys that are texts, found {list(content)!r:.100}")
    return merged | content


def _ordered(value: Any) -> Any:
    """``value`` with mappings as sorted pairs: keys of several types have no order of their own."""
    if isinstance(value, dict):
        return sorted(([repr(key), _ordered(each)] for key, each in value.items()), key=_first)
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    return [_ordered(each) for each in value] if isinstance(value, (list, tuple)) else value


def _first(pair: list[Any]) -> str:
    return str(pair[0])


def _loader(path: Path, task: TaskFile) -> Any:
    class Loader(_Base):  # type: ignore[misc, valid-type]
        """Reads one file."""

    def function(loader: Any, node: yaml.Node) -> str:
        named = Named(str(loader.construct_scalar(node)), path, node.start_mark.line + 1)
        task.functions.append(named)
        return Function(f"{FUNCTION} {named.text}")

    Loader.add_constructor(FUNCTION, function)
    return Loader


def bounded(path: Path) -> str:
    """The text of a YAML file that is neither too large nor too deep, its aliases written out.

    Raises:
        Unbounded: it is, or it holds itself.
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise Unbounded(f"{path}: is larger than {MOST_BYTES:,} bytes; is this the right file?")
        text = content.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    sizes: dict[str, int] = {}  # of what anchors name
    open_: list[tuple[str | None, int]] = []  # anchor, nodes before it
    nodes = 0
    try:
        event: Any
        for event in yaml.parse(text, Loader=_Base):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                if event.anchor in (anchor for anchor, _ in open_):
                    raise Unbounded(f"{path}:{line}: *{event.anchor} holds itself")
                nodes += sizes.get(event.anchor or "", 1)
            elif isinstance(event, yaml.NodeEvent):
                if isinstance(event, yaml.ScalarEvent):
                    if event.anchor:
                        sizes[event.anchor] = 1
                else:
                    open_.append((event.anchor, nodes))
                nodes += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_.pop()
                if anchor:
                    sizes[anchor] = nodes - before
            if nodes > MOST_NODES:
                raise Unbounded(
                    f"{path}:{line}: more than {MOST_NODES:,} values, aliases written out"
                )
            if len(open_) > MOST_DEPTH:
                raise Unbounded(f"{path}:{line}: is nested more than {MOST_DEPTH} levels deep")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise InputError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    return text


@cache
def check_folder(folder: Path) -> None:
    """Refuse a folder with a YAML file that no reader should begin with, or that includes one.

    Other mistakes pass: lm-eval skips such a file, and says nothing.

    Raises:
        Unbounded: as ``bounded``.
    """
    for path in _yaml_files(folder):
        try:
            read_task(path)
        except Unbounded:
            raise
        except InputError:
            continue


def _yaml_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("**/*.yaml")):
        if path.is_file() and not _IGNORED & set(path.parts):
            yield path


def _is_library(source: Path | None) -> bool:
    return source is not None and source.is_relative_to(LIBRARY)


def remote_data(task: TaskFile) -> str:
    """The first address of another machine among the data files that a task names; empty if there is none."""
    folder, files = _data_of(task)
    return next((each for each in (folder, *files) if _REMOTE.search(each)), "")


def fetched(task: TaskFile) -> str:
    """What is fetched for a task, and is no data set of the hub: an address, or by code of lm-eval; else empty."""
    if (address := remote_data(task)) or not task.builtin:
        return address
    own = "class" in task.content or isinstance(task.content.get("custom_dataset"), Function)
    own = own or any(_FETCHES.search(_text(each.source)) for each in task.functions)
    return "what code of lm-eval fetches" if own else ""


def _text(source: Path | None) -> str:
    return source.read_text(encoding="utf-8", errors="replace") if source else ""


def is_local(task: TaskFile) -> bool:
    """Whether its data are files of this machine, or whatever its code makes."""
    data = task.data
    if data is None or isinstance(task.content.get("custom_dataset"), Function):
        return True
    if data in LOCAL:
        return bool(task.options.get("data_files"))
    return str(data) in LOADERS or os.path.exists(str(data))


def local_data(task: TaskFile) -> list[Path]:
    """The data files on this machine that a task names, as `datasets` would find them."""
    folder, files = _data_of(task)
    paths = [Path(folder) / each for each in files if not _REMOTE.search(each)]
    return [path for path in paths if os.path.isfile(path)]


def _data_of(task: TaskFile) -> tuple[str, list[str]]:
    """The folder, and the files, that a task takes its data from."""
    folder = task.options.get("data_dir")
    files = [each for each in _flat(task.options.get("data_files")) if isinstance(each, str)]
    return folder if isinstance(folder, str) else "", files


def _flat(files: object) -> list[Any]:
    """One after the other: a path, several, or those of each split, as everybody writes them; what is no path, too."""
    values = list(files.values()) if isinstance(files, dict) else [] if files is None else [files]
    return [each for value in values for each in (value if isinstance(value, list) else [value])]


def _splits(files: object) -> list[Any]:
    return list(files) if isinstance(files, dict) else []


def fingerprints(task: TaskFile, leaving: Sequence[str]) -> dict[str, str]:
    """The files behind a task, by their path from its own -> sha256 of what counts in them.

    Args:
        task: read from its YAML file.
        leaving: keys of YAML files that do not count.
    """
    found: dict[str, str] = {}
    for name, path in sources(task).items():
        if (content := task.files.get(path)) is None:
            found[name] = file_digest(path)
            continue
        kept = {key: value for key, value in content.items() if key not in leaving}
        text = json.dumps(_ordered(kept), default=str)
        found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def sources(task: TaskFile) -> dict[str, Path]:
    """The files behind a task, by their path from its own: YAML that is not lm-eval's, data and code."""
    home = next(iter(task.files)).parent
    code = [each.source for each in task.functions]
    paths = [file for source in code if source for file in with_imports(source)]
    own = [path for path in task.files if not _is_library(path)]
    found = (*own, *(path.resolve() for path in (*local_data(task), *paths)))
    return {os.path.relpath(path, home): path for path in found}
