"""Text from files, made safe to show: a control character is written out, never obeyed.

A model's label, an item's id or an error message may hold anything. On a terminal, ESC begins a
command (to set the title, to move the cursor, to write the clipboard), and marks of direction
reorder a line so that it reads as another.
"""

from __future__ import annotations

import logging
import re

# C0 and C1 controls, DEL, marks and overrides of direction, halves of surrogate pairs
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_KEPT = "\n\t"


def visible(text: str) -> str:
    r"""``text`` as a terminal may show it: ``\x1b`` for ESC; line breaks and tabs stay."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in _KEPT else _written(found[0]), text)


def one_line(text: str) -> str:
    r"""The same on one line: ``\n`` for a line break."""
    return _UNSAFE.sub(lambda found: _written(found[0]), text)


def encodable(text: str) -> str:
    r"""``text`` without half a surrogate pair, which no file can hold: ``\ud83d`` for it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def cut(text: str, most: int) -> str:
    """The same, without its end where it is longer than ``most`` characters."""
    shown = one_line(text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def first_line(error: BaseException) -> str:
    """What an error says first, or its kind: enough of what another library raises."""
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0])


def controls(text: str) -> list[str]:
    """The control characters in ``text`` that no plain text holds: all but line breaks and tabs."""
    return [c for c in text if (c < " " or "\x7f" <= c <= "\x9f") and c not in "\n\t\r\x85"]


def _written(character: str) -> str:
    return ascii(character)[1:-1]


class Formatter(logging.Formatter):
    """Log messages as a terminal may show them."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
