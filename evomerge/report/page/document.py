"""From sections to HTML: one template, one style, no script.

Every value that the template writes is made visible (no control character, no mark of direction passes) and
escaped; pictures alone are markup, and ``chart`` has cleaned them. The page says in a Content-Security-Policy
that it loads nothing and runs nothing: only its own style, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from evomerge.report.page import chart
from evomerge.report.page.parts import Cell, Section
from evomerge.visible import visible


def write(title: str, sections: Sequence[Section], foot: str, *, refresh: int | None = None) -> str:
    """The page.

    Args:
        title: of the window.
        sections: in order; the first is the top of the page.
        foot: what stands at its end.
        refresh: seconds after which a browser loads it again; None is never.
    """
    return (
        _environment()
        .from_string(_source("page.html.jinja"))
        .render(
            title=title,
            sections=sections,
            foot=foot,
            refresh=refresh,
            style=Markup(_style()),
            policy=policy(),
        )
    )


def policy() -> str:
    """What a page may load: its own style, by its hash, and the empty icon."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def _environment() -> Environment:
    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters |= {"cell": _cell, "kind": lambda block: type(block).__name__, "picture": Markup}
    return made


def _shown(value: Any) -> Any:
    """What the template is to write: a text that shows what it holds, before it is escaped."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else visible(str(value))


def _cell(value: Cell | str) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _source(name: str) -> str:
    return (files("evomerge.report.page") / name).read_text(encoding="utf-8")


@cache
def _style() -> str:
    light = "".join(f"--{name}: {value}; " for name, value in chart.COLOURS.items())
    return f"\n:root {{ {light}}}\n{_source('page.css')}"
