"""What a page is made of: sections of words, tables, figures and texts. Plain data; ``document`` turns it to HTML.

Nothing here is markup but the pictures, which ``chart`` has made and cleaned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from evomerge.inference.intervals import Interval

SHADES = 5  # to either side of a heat map's middle
CLEAR = ("clear of zero", "unclear")
MOST = 500  # rows of a table; a journal has them all


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        shade: from ``-SHADES`` (little) to ``SHADES`` (much); None is no colour.
        strong: whether it is set apart.
        more: what stands below it, smaller: as a rule an interval.
    """

    text: str
    shade: int | None = None
    strong: bool = False
    more: str = ""

    @classmethod
    def parted(cls, text: str, shade: int | None = None, strong: bool = False) -> Cell:
        """``0.781 [0.742, 0.812]`` on two lines."""
        value, _, rest = text.partition(" [")
        return cls(value, shade, strong, f"[{rest}" if rest else "")


Row = Sequence[Cell | str]


@dataclass(frozen=True)
class Grid:
    """A table; the first cell of each row is its heading.

    Attributes:
        caption: what it shows.
        columns: headings.
        rows: as many cells each.
        texts: numbers of columns that hold words, besides the first; the others hold numbers.
        folded: shown on demand only.
        left_out: rows that are not shown, as there are too many.
        spans: headings above those of columns, and over how many; empty if there are none.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    texts: frozenset[int] = frozenset()
    folded: bool = False
    left_out: int = 0
    spans: Sequence[tuple[str, int]] = ()

    @classmethod
    def of(
        cls,
        caption: str,
        columns: Sequence[str],
        rows: Sequence[Row],
        *,
        texts: Sequence[int] = (),
        folded: bool = False,
        spans: Sequence[tuple[str, int]] = (),
    ) -> Grid:
        """The same, cut off after ``MOST`` rows."""
        kept = rows[:MOST]
        left_out = len(rows) - len(kept)
        words = frozenset(texts)
        return cls(caption, columns, kept, words, folded, left_out=left_out, spans=spans)


@dataclass(frozen=True)
class Figure:
    """A picture, in words, and as the table that it was drawn from.

    Attributes:
        title: a line.
        words: what there is to see, for who does not see it.
        svg: as ``chart.draw`` gives it.
        grid: its numbers.
    """

    title: str
    words: str
    svg: str
    grid: Grid | None = None


@dataclass(frozen=True)
class Facts:
    """Names and what they stand for."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Notes:
    """Sentences, one a line; ``alarming`` ones are set apart."""

    lines: Sequence[str]
    alarming: bool = False


@dataclass(frozen=True)
class Listing:
    """A text as it stands in a file, or commands to copy."""

    title: str
    text: str
    folded: bool = True


@dataclass(frozen=True)
class Answer:
    """What one model answered, and whether it was right."""

    model: str
    text: str
    right: bool


@dataclass(frozen=True)
class Example:
    """An item, and the answers of several models to it."""

    item: str
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Examples:
    """Items of one kind."""

    title: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class Tile:
    """A number that is read from afar, what it is, and what belongs with it, line by line."""

    label: str
    value: str
    more: Sequence[str] = ()


@dataclass(frozen=True)
class Tiles:
    """A row of them."""

    tiles: Sequence[Tile]


Block = Grid | Figure | Facts | Notes | Listing | Examples | Tiles


@dataclass(frozen=True)
class Section:
    """A chapter of the page.

    Attributes:
        name: in its address.
        title: a line.
        lead: what it says, in a sentence or two.
        blocks: in order.
    """

    name: str
    title: str
    lead: str
    blocks: Sequence[Block] = field(default=())


def number(value: float | None, digits: int = 3) -> str:
    """``0.781``; nothing for what is not known."""
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}"


def clear(interval: Interval) -> str:
    """One of ``CLEAR``: whether an interval holds zero."""
    return CLEAR[1] if interval.why or interval.low <= 0 <= interval.high else CLEAR[0]


def bounds(interval: Interval) -> dict[str, float | None]:
    """``low`` and ``high`` for a picture; None where they are not known."""
    known = not interval.why
    return {"low": interval.low if known else None, "high": interval.high if known else None}


def shade(value: float, middle: float, span: float) -> int:
    """The shade of ``value``; at ``span`` from the ``middle``, to either side, it is the deepest."""
    part = (value - middle) / span if span > 0 else 0.0
    return round(SHADES * max(-1.0, min(1.0, part)))


def short(text: str, most: int = 48) -> str:
    """``text``, without its middle where it is too long for a picture: candidates have their numbers at the end."""
    return text if len(text) <= most else f"{text[: most - 11]}…{text[-10:]}"
