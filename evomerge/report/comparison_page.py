"""``evomerge compare`` as a page: one file of tables that are heat maps, without scripts or anything from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from evomerge.parents.comparison import Comparison, Facts, Limits
from evomerge.report.comparison import (
    Block,
    blocks,
    head_of,
    masks_text,
    number,
    percent,
    short,
    signed,
)
from evomerge.visible import one_line

Value = float | None
_STYLE = """\
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
caption { text-align: left; padding: .3rem 0 }
th, td { padding: .15rem .5rem; text-align: right; white-space: nowrap }
th:first-child { text-align: left }
thead th { border-bottom: 1px solid }
.heat td { color: #000; text-align: center }
li { margin: .2rem 0 } .warning b { color: #b3261e } .note b { color: #8a5a00 } .ok b { color: #1b6e3c }
@media (prefers-color-scheme: dark) { .warning b { color: #ff8a80 } .note b { color: #ffc266 } .ok b { color: #7ddc9f } }
"""


def comparison_page(found: Comparison, limits: Limits) -> str:
    """The page. All names in it come from users and strangers, and are text there."""
    parts = [
        f"<h1>Models beside {text(found.base)}</h1>",
        f"<p>{text(head_of(found))}</p>",
        "<h2>Verdict</h2>",
        "<ul>",
        *(
            f'<li class="{each.level}"><b>{each.level}</b> {text(each.rule)}: {text(each.text)}</li>'
            for each in found.findings(limits)
        ),
        "</ul>",
        *(_table(block) for block in blocks(found, layers=False)),
        f"<p>{text(masks_text(found))}</p>",
        *_squares(found),
        *_maps(found),
        f"<h2>Limits of the verdict</h2><p>{_limits(limits)}</p>",
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>evomerge compare: {text(found.base)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n"
        f"{body}\n</body>\n</html>\n"
    )


def text(value: str) -> str:
    """A text, and nothing but text."""
    return escape(one_line(value))


def _limits(limits: Limits) -> str:
    plain = {name: "by size" if each is None else each for name, each in limits.plain.items()}
    return ", ".join(f"{text(name)} {text(str(each))}" for name, each in plain.items())


def _table(block: Block) -> str:
    rows = "".join(
        _row(row[0], (f"<td>{text(cell)}</td>" for cell in row[1:])) for row in block.rows
    )
    return f"<h2>{text(block.title)}</h2>{_framed(block.heading, rows)}"


def _squares(found: Comparison) -> list[str]:
    """Each model beside each other: how akin they are, and how often they disagree."""
    names, whole = tuple(found.models), found.whole
    if len(names) < 2:
        return []
    pairs = {**whole.pairs, **{(b, a): each for (a, b), each in whole.pairs.items()}}

    def square(title: str, of: Callable[[str, str], Value], show: Callable[[Value], str]) -> str:
        values = {(a, b): of(a, b) for a in names for b in names}
        rows = "".join(
            _row(short(a), (_heat(values[a, b], show, _diverging) for b in names)) for a in names
        )
        return f"<h2>{title}</h2>{_framed(('', *map(short, names)), rows, heat=True)}"

    return [
        square(
            "Kinship: cosine of task vectors",
            lambda a, b: 1.0 if a == b else pairs[a, b].cosine,
            signed,
        ),
        square(
            "Conflict: opposite signs, of the entries that both change",
            lambda a, b: None if a == b else pairs[a, b].conflict,
            percent,
        ),
    ]


def _maps(found: Comparison) -> list[str]:
    """By layer and role."""
    cells = found.cells
    maps = [
        _map(f"Norm of what {name} changes, over the base's", cells, lambda f, n=name: f.models[n].ratio, number)  # type: ignore[misc]
        for name in found.models
    ]  # fmt: skip
    if len(found.models) > 1:
        maps += [
            _map("Conflict of all pairs", cells, lambda f: f.conflict, percent),
            _map("Selfish entries: a single model needs them", cells, lambda f: f.masks["selfish"], percent),
        ]  # fmt: skip
    return maps


def _map(
    title: str,
    cells: Mapping[tuple[int | None, str], Facts],
    of: Callable[[Facts], Value],
    show: Callable[[Value], str],
) -> str:
    roles = list(dict.fromkeys(role for _, role in cells))
    layers = sorted({layer for layer, _ in cells if layer is not None})
    values = {place: of(facts) for place, facts in cells.items()}
    most = max((value for value in values.values() if value is not None), default=0.0)

    def shade(value: float) -> str:
        return _sequential(value / most if most > 0 else 0.0)

    rows = "".join(
        _row(
            "outside" if layer is None else str(layer),
            (
                _heat(values[layer, role], show, shade) if (layer, role) in values else "<td></td>"
                for role in roles
            ),
        )
        for layer in (None, *layers)
        if any((layer, role) in values for role in roles)
    )
    return f"<h2>{text(title)}</h2>{_framed(('layer', *roles), rows, heat=True)}"


def _framed(heading: Sequence[str], rows: str, *, heat: bool = False) -> str:
    cells = "".join(f'<th scope="col">{text(each)}</th>' for each in heading)
    kind = ' class="heat"' if heat else ""
    return (
        f'<div class="wide" tabindex="0"><table{kind}><thead><tr>{cells}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(name: str, cells: Iterable[str]) -> str:
    return f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}</tr>'


def _heat(value: Value, show: Callable[[Value], str], shade: Callable[[float], str]) -> str:
    if value is None:
        return "<td></td>"
    return f'<td style="background:{shade(value)}">{text(show(value))}</td>'


def _sequential(share: float) -> str:
    """White to blue for 0 to 1; black reads well on all of it."""
    return f"hsl(210 80% {98 - 38 * max(0.0, min(1.0, share)):.0f}%)"


def _diverging(value: float) -> str:
    """Red to white to blue for -1 to 0 to 1."""
    hue = 210 if value >= 0 else 10
    return f"hsl({hue} 80% {98 - 38 * min(1.0, abs(value)):.0f}%)"
