"""Regular expressions of strangers' files: one may take years, and is given up after seconds."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import regex  # as ``re``, and knows when to give up

from evomerge.errors import InputError
from evomerge.visible import first_line

PATIENCE = 5.0  # seconds for one text


def check(pattern: str) -> None:
    """Refuse what is no regular expression.

    Raises:
        InputError: with the reason.
    """
    try:
        _compiled(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"expected a regular expression, found {pattern!r:.80}: {first_line(error)}"
        ) from None


def found(pattern: str, text: str) -> bool:
    """Whether ``pattern``, which was checked, is found somewhere in ``text``.

    Raises:
        InputError: that takes longer than anybody waits.
    """
    try:
        return _compiled(pattern).search(text, timeout=PATIENCE) is not None
    except TimeoutError:
        raise InputError(
            f"{pattern!r:.80} is not matched with {text} within {PATIENCE:g} s; write it without repeats of repeats"
        ) from None


@lru_cache
def _compiled(pattern: str) -> Any:
    with warnings.catch_warnings(action="ignore"):  # what a later version will read otherwise
        return regex.compile(pattern)
