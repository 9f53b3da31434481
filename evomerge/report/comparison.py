"""``evomerge compare`` as texts: tables that fit 80 columns, and the same as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evomerge.parents.comparison import Comparison, Facts, Limits
from evomerge.report.text import markdown_rows, markdown_text
from evomerge.visible import cut, one_line

WIDTH = 80
NAME = 24  # characters of a model's name that are shown
Row = tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A table with what it shows; its first column says of what a row is."""

    title: str
    heading: Row
    rows: Sequence[Row]


def comparison_lines(found: Comparison, limits: Limits, *, layers: bool = False) -> list[str]:
    """All of it for a terminal; ``layers``: with a table by layer."""
    lines = wrapped(head_of(found))
    for block in blocks(found, layers=layers):
        lines += ["", *wrapped(block.title), *table_lines(block)]
    findings = [line for each in _findings(found, limits) for line in wrapped(each)]
    return [*lines, "", *wrapped(masks_text(found)), "", "verdict", *findings]


def comparison_markdown(found: Comparison, limits: Limits, *, layers: bool = False) -> str:
    """The same as Markdown."""
    lines = [markdown_text(head_of(found)), ""]
    for block in blocks(found, layers=layers):
        table = markdown_rows([block.heading, *block.rows])
        lines += [f"**{markdown_text(block.title)}**", "", *table, ""]
    lines += [markdown_text(masks_text(found)), ""]
    lines += [f"* {markdown_text(line)}" for line in _findings(found, limits)]
    return "\n".join(lines) + "\n"


def wrapped(text: str) -> list[str]:
    """A text in lines of at most ``WIDTH``."""
    return textwrap.wrap(one_line(text), WIDTH, subsequent_indent="  ")


def head_of(found: Comparison) -> str:
    """What is compared, in a line."""
    count, entries = len(found.models), found.whole.entries
    how = "of large tensors a sample of entries" if found.sampled else "all of them"
    return f"{count} model{'s' * (count > 1)} beside {found.base}: {entries:,} entries, {how}"


def masks_text(found: Comparison) -> str:
    """How the entries are shared out by what needs them."""
    shares = ", ".join(f"{name} {percent(each)}" for name, each in found.whole.masks.items())
    return f"entries by TALL masks (lambda {found.mask:g}): {shares}"


def blocks(found: Comparison, *, layers: bool) -> Iterator[Block]:
    """The tables: models, pairs, roles, and layers if they are asked for."""
    whole = found.whole
    yield Block(
        "models (task vectors: model less base)",
        ("model", "norm", "/ base", "zeros", "density", "stable", "effective", "of", "needs", "alone",
         found.dtype),
        [
            (short(name), number(m.norm), number(m.ratio), percent(m.zeros), number(m.density),
             number(m.stable), number(m.effective), number(m.full), percent(m.needed), percent(m.alone),
             percent(m.rounding.get(found.dtype)))
            for name, m in whole.models.items()
        ]
        + [("mean of them", *[""] * 9, percent(whole.rounding.get(found.dtype)))],
    )  # fmt: skip
    if whole.pairs:
        yield Block(
            "pairs",
            ("models", "cosine", "pearson", "euclid", "conflict"),
            [
                (" / ".join(map(short, names)), signed(p.cosine), signed(p.pearson), number(p.euclid),
                 percent(p.conflict))
                for names, p in whole.pairs.items()
            ],
        )  # fmt: skip
    yield _by("role", found, found.roles)
    if layers:
        yield _by("layer", found, {str(layer): each for layer, each in found.layers.items()})


def _by(what: str, found: Comparison, parts: Mapping[str, Facts]) -> Block:
    several = len(found.models) > 1
    return Block(
        f"by {what}: norm of each change over the base's, and what the models have in common",
        (what, "entries", *map(short, found.models), *(["conflict", "selfish", "shared"] * several)),
        [
            (
                one_line(name),
                f"{part.entries:,}",
                *(number(model.ratio) for model in part.models.values()),
                *(
                    [percent(part.conflict), percent(part.masks["selfish"]), percent(part.masks["shared"])]
                    if several
                    else []
                ),
            )
            for name, part in parts.items()
        ],
    )  # fmt: skip


def _findings(found: Comparison, limits: Limits) -> list[str]:
    return [f"{each.level}: {each.rule}: {one_line(each.text)}" for each in found.findings(limits)]


def table_lines(block: Block, width: int = WIDTH) -> list[str]:
    """A table in lines of at most ``width``; what is too wide goes on below, with the first column again."""
    columns = list(zip(block.heading, *block.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    groups: list[list[int]] = [[]]
    room = left = width - widths[0]
    for number_, each in enumerate(widths[1:], 1):
        left -= each + 2
        if left < 0 and groups[-1]:
            groups.append([])
            left = room - each - 2
        groups[-1].append(number_)
    lines: list[str] = []
    for group in groups:
        lines += [""] * bool(lines)
        for row in zip(*(columns[n] for n in (0, *group)), strict=True):
            cells = [text.rjust(widths[n] + 2) for n, text in zip(group, row[1:], strict=True)]
            lines.append("".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return lines


def short(name: str) -> str:
    """A model's name, cut."""
    return cut(name, NAME)


def number(value: float | None) -> str:
    """Three digits or so."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def percent(share: float | None) -> str:
    """``4.2%``, and what is hardly anything as such."""
    if share is None:
        return "-"
    return "< 0.1%" if 0 < share < 0.001 else f"{100 * share:.1f}%"
