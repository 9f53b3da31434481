"""Exceptions.

    EvomergeError
    ├── InputError            the user's files or options are wrong; exit status 2
    │   ├── ConfigError       a YAML file: every problem with file, line and key
    │   ├── CheckpointError   a model folder, shard or adapter cannot be read
    │   ├── NotMeasured       a statistic that a merge requires was not collected
    │   └── Incompatible      models that cannot be merged with each other
    ├── RunError              something failed at run time; exit status 1
    └── CandidateFailed       one candidate cannot be merged or scored; a search records it
        └── NonFinite         an answer of it, or a value, is NaN or infinite (``suite.scorer``)

Each message says what was found, where, what was expected and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class EvomergeError(Exception):
    """Anything evomerge raises on purpose."""


class InputError(EvomergeError):
    """The input is wrong; nothing was written."""


class ConfigError(InputError):
    """A configuration file is wrong; carries every problem found in it."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class CheckpointError(InputError):
    """A checkpoint cannot be read."""


class NotMeasured(InputError):
    """A statistic that a merge requires was not collected: of no use to any candidate, so none fails by it."""


class Incompatible(InputError):
    """Models that cannot be merged with each other."""


class RunError(EvomergeError):
    """Something failed at run time; the run can be resumed."""


class CandidateFailed(EvomergeError):
    """One candidate cannot be merged or scored: it ranks last, and the search goes on."""


def panicked(error: BaseException) -> bool:
    """Whether a library written in Rust gave up: what it raises is no ``Exception``, of a class nobody can import."""
    return type(error).__name__ == "PanicException"


def causes_of(error: BaseException) -> list[BaseException]:
    """``error``, what it was raised from, and so on."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def problems_of(error: InputError) -> list[str]:
    """What is wrong, one problem each."""
    return error.problems if isinstance(error, ConfigError) else [str(error)]


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """``" (did you mean 'weight'?)"``, or nothing when no known word is close."""
    if not isinstance(word, str) or len(word) > 100:
        return ""
    known = list(known)
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {str(by_lower[close[0]])!r}?)" if close else ""


def one_of(known: Iterable[str]) -> str:
    """``"one of 'a', 'b'"`` for messages."""
    return "one of " + ", ".join(repr(str(name)) for name in known)
