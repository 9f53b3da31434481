"""A task's templates render in Jinja's sandbox: what a task file says can not run a command.

lm-eval renders with an open environment, where ``{{ cycler.__init__.__globals__.os.popen('...') }}``
calls the shell. The environment is replaced once, for all of this process, by a sandboxed one with
the same filters, undefined behaviour and white space. Lists may be changed in a template, as
lm-eval allows; attributes that lead out of the data are refused.

A template is compiled once, not for every document: lm-eval asks anew each time, which is most of what
reading a task takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import lm_eval.utils
from jinja2 import Template
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from evomerge.errors import InputError

# what a document holds, and what a template makes of it. Others, such as numbers of numpy, write files
_DATA = (
    *(str, bytes, int, float, complex, bool, type(None), list, tuple, dict, set, frozenset, range),
    *(date, datetime, time, timedelta, timezone, Decimal),
)
_OWN = ("jinja2.", "markupsafe")  # a loop, say


class _Sandbox(SandboxedEnvironment):
    """Keeps what it compiled, and reaches into data alone."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        kind = type(obj)
        data = kind in _DATA or kind.__module__.startswith(_OWN)
        return data and super().is_safe_attribute(obj, attr, value)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._compiled = lru_cache(maxsize=1024)(super().from_string)

    def from_string(self, source: Any, *arguments: Any, **options: Any) -> Template:
        if arguments or options or not isinstance(source, str):
            return super().from_string(source, *arguments, **options)
        return self._compiled(source)


def close() -> None:
    """Make lm-eval render in the sandbox from now on."""
    theirs = lm_eval.utils.env
    if isinstance(theirs, SandboxedEnvironment):
        return
    sandbox = _Sandbox(
        loader=theirs.loader,
        undefined=theirs.undefined,
        keep_trailing_newline=theirs.keep_trailing_newline,
        trim_blocks=theirs.trim_blocks,
        lstrip_blocks=theirs.lstrip_blocks,
        autoescape=theirs.autoescape,
    )
    sandbox.filters.update(theirs.filters)
    sandbox.tests.update(theirs.tests)
    for name, value in theirs.globals.items():
        sandbox.globals.setdefault(name, value)  # the sandbox's range is bounded
    lm_eval.utils.env = sandbox


@contextmanager
def rendered(name: str, file: Path) -> Iterator[None]:
    """Whatever the templates of task ``name`` may not do is told with its file.

    Raises:
        InputError: a template reached for more than data.
    """
    try:
        yield
    except SecurityError as error:
        raise InputError(refusal(name, file, error)) from None


def refusal(name: str, file: Path, error: SecurityError) -> str:
    """The message for a template that reached for more than data."""
    reason = str(error).rstrip(".")
    return (
        f"{name} ({file}): a template of this task is refused: {reason}. Templates may read a document's "
        "fields, and nothing of Python behind them"
    )


close()
