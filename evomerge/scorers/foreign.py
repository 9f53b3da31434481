"""Code that a file names, called so that it ends neither this process nor a search without a word.

An exception is what its caller makes of it. ``sys.exit``, ``os._exit`` and whatever else is no ``Exception`` would
end the process past all that is there to say why, with a status that the code chose: they become ``Left``.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from evomerge.errors import EvomergeError, RunError, causes_of
from evomerge.installed import is_installed
from evomerge.visible import first_line

_OUTSIDE = ("ray.", "evomerge.pool.", "evomerge.cli.")  # packages whose handlers of signals raise


class Left(Exception):
    """Code of the user's wanted to end the process, or raised what is no ``Exception``; the message says how."""


@contextmanager
def staying() -> Iterator[None]:
    """Whatever leaves the block is an ``Exception``, or was raised by a signal from outside.

    Raises:
        Left: something else was.
    """
    home, leave = os.getpid(), os._exit

    def refuse(status: int) -> None:
        if os.getpid() != home:  # a child of the code's own
            leave(status)
        raise Left(f"called os._exit({status!r:.40})")

    os._exit = refuse  # type: ignore[assignment]
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if _is_signal(error):
            raise
        raise Left(_told(error)) from error
    finally:
        os._exit = leave


@contextmanager
def named(name: str, kind: type[EvomergeError] = RunError) -> Iterator[None]:
    """What code of the user's raises in the block is told with ``name`` and its place; all else passes.

    Raises:
        RunError, or ``kind``: it raised, or wanted to end the process.
    """
    try:
        with staying():
            yield
    except EvomergeError:
        raise
    except Exception as error:
        place = where(error)
        if isinstance(error, Left):
            raise kind(f"{name}: {place or 'its code'} {error}") from error
        if not place:
            raise
        raise kind(f"{name}: {place}: {type(error).__name__}: {first_line(error)}") from error


def where(error: BaseException) -> str:
    """``score (tasks/utils.py:12)``: the innermost place of ``error`` that no package has; empty if there is none."""
    for each in reversed(causes_of(error)):
        for frame in reversed(traceback.extract_tb(each.__traceback__)):
            if not is_installed(Path(frame.filename)):
                return f"{frame.name} ({frame.filename}:{frame.lineno})"
    return ""


def _told(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r:.40})"
    return f"raised {type(error).__name__}: {str(error)[:200]}".removesuffix(": ")


def _is_signal(error: BaseException) -> bool:
    """Whether a handler of signals raised ``error``. Python's own for Ctrl-C leaves no frame of its own."""
    if isinstance(error, KeyboardInterrupt) and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        return True
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).startswith(_OUTSIDE):
            return True
        trace = trace.tb_next
    return False
