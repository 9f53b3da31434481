"""Commands that only look: what they are given cannot make them execute code, start a program, ask or overwrite.

All that reads files of strangers is written so that none of this is tried. But libraries do much with what a file says,
and they change; so Python itself is asked to tell of each such act before it happens (audit hooks, PEP 578), and the act is
refused. Out of sight is what compiled libraries do, which tell nobody.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from evomerge.cache import cache_folder
from evomerge.cli import output
from evomerge.errors import InputError
from evomerge.installed import is_developed, is_installed
from evomerge.visible import one_line

_CREATES = os.O_CREAT | os.O_EXCL
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OUTPUTS = ("output", "pareto", "unconfirmed")  # options that name what a command is to write
# of libraries; what lies there is data, but for tokens and code
_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CACHE")
_NO_DATA = ("token", "stored_tokens", "modules")
_COMPILER = str(Path(__file__).parents[1] / "methods" / "kernel" / "compiler.py")
_DEVICES = tuple(map(Path, ("/dev/null", "/dev/tty", "/dev/stdout", "/dev/stderr")))


# where modules were found before, as on PYTHONPATH; the current folder may be anybody's
_PATH = {Path(each).resolve() for each in sys.path if os.path.isabs(each)}
with suppress(FileNotFoundError):  # it was deleted
    _PATH.discard(Path.cwd())


class Refused(InputError, PermissionError):
    """Something would have been done that a command which only looks does not do.

    Libraries take it for what they know: a disk that cannot be written, a program that may not be started.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.strerror = what


@contextmanager
def around(arguments: argparse.Namespace) -> Iterator[None]:
    """A wall around a command that only looks at what it is given; nothing around another.

    What a library tried, and went on without, is told at the end.
    """
    global _raised
    if not _only_looks(arguments):
        yield
        return
    _listen()
    wall = _raised = _Wall(_outputs(arguments))
    told = ""
    try:
        yield
    except Refused as error:
        told = str(error)
        raise
    finally:
        _raised = None
        for refused in wall.refused:
            if refused != told:
                output.say(f"note: {refused}")


def _only_looks(arguments: argparse.Namespace) -> bool:
    """`check --measure` and `report --ablate` score."""
    scores = getattr(arguments, "measure", False) or getattr(arguments, "ablate", None) is not None
    return arguments.looks and not scores


def _outputs(arguments: argparse.Namespace) -> list[Path]:
    """What the command was asked to write."""
    named = [getattr(arguments, name, None) for name in (*_OUTPUTS, *arguments.makes)]
    return [_place(each) for each in named if each]


class _Wall:
    """What may be written, and what was refused.

    Args:
        outputs: files and folders to write. What lies in one, and what lies beside one, is written with it.
    """

    def __init__(self, outputs: list[Path]) -> None:
        self.refused: list[str] = []
        caches = (os.path.expandvars(os.path.expanduser(os.environ.get(n, ""))) for n in _CACHES)
        home = _cache_home()
        folders = (home / "evomerge", home / "huggingface", *map(Path, filter(None, caches)))
        known = [folder.resolve() for folder in folders]
        self._within = {*outputs, *known, *_DEVICES}
        self._code = {folder / name for folder in known for name in _NO_DATA}
        self._beside = {output.parent for output in outputs}
        self._partial = tuple(str(output.parent / f".{output.name}.") for output in outputs)
        # what is to be written may be made, with all that it lies in
        ends = (*self._beside, *known)
        self._above = {each for folder in ends for each in (folder, *folder.parents)}
        self._met = False  # whether a machine was looked up that may be
        self._temporary = Path(tempfile.gettempdir()).resolve()

    def execute(self, file: str | None) -> None:
        """Code that ``file`` holds; libraries call what they make themselves ``<string>`` and the like."""
        if not file or (file.startswith("<") and os.sep not in file):
            return
        if not _is_ours(os.path.dirname(file)):
            self._refuse(f"{file}: would have been executed; no code that is given is")

    def start(self, program: object) -> None:
        """Libraries look around in this machine while they are imported; later it is about what was given."""
        if not _importing(sys._getframe()):
            self._refuse(f"{program}: would have been started; no program is")

    def link(self, library: object) -> None:
        """A library by its path; one by its name is of the machine."""
        if isinstance(library, str) and os.sep in library and not _importing(sys._getframe()):
            self.execute(library)

    def look_up(self, host: object) -> None:
        """The address of a machine is asked for."""
        name = os.fsdecode(host).lower() if isinstance(host, (str, bytes)) else ""
        if name and not any(name == each or name.endswith(f".{each}") for each in _hosts()):
            self._refuse(f"{name}: would have been asked; the hub alone is")
        self._met = True

    def connect(self, address: object) -> None:
        """To a machine that was looked up, or a socket of this one."""
        if isinstance(address, tuple) and not (self._met or address[0] in _hosts()):
            self._refuse(f"{address[0]}: would have been asked; the hub alone is")

    def ask(self, question: object) -> None:
        self._refuse(f"{question}: somebody would have been asked; nobody is")

    def open(self, path: Any, flags: int) -> None:
        if isinstance(path, int) or not flags & _WRITES:
            return
        if not os.path.isdir(path):  # what is opened there has no name, or is told next
            self._write(Path(os.path.realpath(os.fsdecode(path))), flags & _CREATES == _CREATES)

    def database(self, path: Any) -> None:
        if path != ":memory:":
            self.change(path)

    def change(self, path: Any, folder: int = -1) -> None:
        """``path``, in ``folder`` if that is an open one, is replaced, removed or changed."""
        if not isinstance(path, int):
            self._write(_place(path, folder))

    def move(self, path: Any, to: Any, folder: int, to_folder: int) -> None:
        self.change(path, folder)
        self.change(to, to_folder)

    def make(self, path: Any, folder: int = -1) -> None:
        place = _place(path, folder)
        if place not in self._above:
            self._write(place, new=True)

    def _write(self, place: Path, new: bool = False) -> None:
        """``new``: it is made, or else nothing is done."""
        above = (place, *place.parents)
        if self._is_code(above):
            if _compiling(sys._getframe()):
                return
        elif new and os.path.lexists(place):
            return
        elif new and self._temporary in place.parents:
            self._within.add(place)
            return
        elif (
            place.parent in self._beside
            or str(place).startswith(self._partial)
            or not self._within.isdisjoint(above)
        ):
            return
        self._refuse(f"{place}: would have been written or removed; only what was asked for is")

    def _is_code(self, above: tuple[Path, ...]) -> bool:
        """Whether the first of these paths, one in the other, is executed or trusted by somebody later."""
        bytecode = "__pycache__" in (above[0].name, above[0].parent.name)
        ours = bytecode and _is_ours(str(above[0].parent))
        return ours or _passes() in above or not self._code.isdisjoint(above)

    def _refuse(self, what: str) -> None:
        what = f"refused: {one_line(what)}"
        if what not in self.refused:
            self.refused.append(what)
        raise Refused(what)


def _place(path: Any, folder: int = -1) -> Path:
    """``path`` with no link in it but perhaps the last part, which is what is made or removed then."""
    path = os.fsdecode(path)
    if folder >= 0:
        path = os.path.join(f"/proc/self/fd/{folder}", path)
    above, name = os.path.split(path.rstrip(os.sep))
    if name in ("", os.curdir, os.pardir):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(above), name)


def _hosts() -> set[str]:
    """The hub's, where it keeps files, and whoever stands between."""
    from huggingface_hub import constants

    between = (
        each for kind, each in getproxies().items() if kind != "no"
    )  # `no` is who is asked without
    named = (constants.ENDPOINT, *between)
    found = (urlsplit(each if "//" in each else f"//{each}").hostname for each in named)
    return {"huggingface.co", "hf.co", *(host for host in found if host)}


@cache
def _is_ours(folder: str) -> bool:
    """Whether ``folder`` holds code that is installed, or that this process found before it looked at anything, or
    passes that were compiled before."""
    found = {Path(os.path.normpath(folder)), Path(os.path.realpath(folder))}
    known = (*_PATH, _passes())
    return any(
        is_installed(each) or is_developed(each) or any(map(each.is_relative_to, known))
        for each in found
    )


def _passes() -> Path:
    return _cache_home() / "evomerge" / "passes"


def _cache_home() -> Path:
    try:
        return cache_folder("").resolve().parent
    except RuntimeError:  # the user has no home
        return Path(os.devnull)


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is just imported."""
    return any(file == "<frozen importlib._bootstrap>" for file in _files_of(frame))


def _compiling(frame: FrameType | None) -> bool:
    """Whether what is written is bytecode of what was just imported, or a pass of ours."""
    return any(
        file in ("<frozen importlib._bootstrap_external>", _COMPILER) for file in _files_of(frame)
    )


def _files_of(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back


# what Python tells before it does it: https://docs.python.org/3/library/audit_events.html
_ACTS: Mapping[str, Callable[[_Wall, tuple[Any, ...]], None]] = {
    "exec": lambda wall, told: wall.execute(getattr(told[0], "co_filename", None)),
    "import": lambda wall, told: wall.execute(told[1]),  # a library; other modules have no file here
    "subprocess.Popen": lambda wall, told: wall.start(told[1]),
    "os.system": lambda wall, told: wall.start(told[0]),
    "os.exec": lambda wall, told: wall.start(told[0]),
    "os.posix_spawn": lambda wall, told: wall.start(told[0]),
    "builtins.input": lambda wall, told: wall.ask(told[0]),
    "open": lambda wall, told: wall.open(told[0], told[2]),
    "os.mkdir": lambda wall, told: wall.make(told[0], told[2]),
    "os.remove": lambda wall, told: wall.change(told[0], told[1]),
    "os.rmdir": lambda wall, told: wall.change(told[0], told[1]),
    "os.rename": lambda wall, told: wall.move(told[0], told[1], told[2], told[3]),
    "os.link": lambda wall, told: wall.move(told[0], told[1], told[2], told[3]),  # two names of one file
    "os.symlink": lambda wall, told: wall.change(told[1], told[2]),
    "os.truncate": lambda wall, told: wall.change(told[0]),
    "os.chmod": lambda wall, told: wall.change(told[0], told[2]),
    "os.chown": lambda wall, told: wall.change(told[0], told[3]),
    "os.setxattr": lambda wall, told: wall.change(told[0]),
    "sqlite3.connect": lambda wall, told: wall.database(told[0]),
    "ctypes.dlopen": lambda wall, told: wall.link(told[0]),
    "socket.getaddrinfo": lambda wall, told: wall.look_up(told[0]),
    "socket.connect": lambda wall, told: wall.connect(told[1]),
    "os.utime": lambda wall, told: wall.change(told[0], told[3]),
}  # fmt: skip

_raised: _Wall | None = None  # there is one process, and Python tells what any thread of it does


@cache
def _listen() -> None:
    """Python never stops telling."""

    def hear(act: str, told: tuple[Any, ...]) -> None:
        if _raised is not None and (judge := _ACTS.get(act)) is not None:
            judge(_raised, told)

    sys.addaudithook(hear)
