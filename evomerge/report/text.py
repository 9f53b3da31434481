"""The final table as texts, for terminals and for Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evomerge.inference.intervals import Interval
from evomerge.judging.beside import BLEND, MIXTURE
from evomerge.judging.estimation import ANCHORED
from evomerge.judging.table import Count, Effort, Held, Row, Table, Trust
from evomerge.visible import one_line


def table_rows(table: Table) -> list[tuple[str, ...]]:
    """The final table as texts, heading first; a column on health if there is anything to say."""
    objectives = list(table.items)
    heading = ("model", f"score ({table.combine})", *objectives, "winner - model", "p", "health")
    rows = [heading]
    for row in table.rows:
        texts = [""] * len(objectives)
        if row.score:
            texts = [interval_text(row.objectives[name]) for name in objectives]
        rows.append(
            (
                row.label,
                interval_text(row.score) if row.score else "failed",
                *texts,
                interval_text(row.gain.difference) if row.gain else "",
                p_text(row.gain.p) if row.gain else "",
                _health_text(row),
            )
        )
    return rows if any(row[-1] for row in rows[1:]) else [row[:-1] for row in rows]


def beside_rows(table: Table) -> list[tuple[str, ...]]:
    """What the sources do together without being merged, as texts, heading first; empty if there is nothing."""
    if not table.beside:
        return []
    objectives = list(table.items)
    heading = ("no merge", f"score ({table.combine})", *objectives, "winner - this", "p")
    return [
        heading,
        *(
            (
                each.label,
                interval_text(each.score),
                *(interval_text(each.objectives[name]) for name in objectives),
                interval_text(each.gain.difference) if each.gain else "",
                p_text(each.gain.p) if each.gain else "",
            )
            for each in table.beside
        ),
    ]


def beside_title(table: Table) -> str:
    """What the rows of ``beside_rows`` are, in a line."""
    meaning = {
        BLEND: f"{BLEND}: each item answered by a source drawn for it",
        MIXTURE: f"{MIXTURE}: choices as likely as to the sources on average, else the {BLEND}",
    }
    told = "; ".join(meaning.get(each.label, each.label) for each in table.beside)
    return f"no merges, and no candidates: all sources would have to run ({told})"


def table_title(table: Table) -> str:
    """What the final table shows, in a line."""
    items = ", ".join(f"{name} {count_text(count)}" for name, count in table.items.items())
    return f"report split ({items}; 95% intervals)"


def table_notes(table: Table) -> list[str]:
    """What has to be said with the table, a sentence or two a line."""
    lines = [*_trust_lines(table), _effort_line(table.effort)]
    tests = sorted({row.gain.test for row in table.rows if row.gain})
    if tests:
        lines.append(
            f"p: {', '.join(tests)}; two-sided, each row by itself. The differences are paired: "
            "they can be clear where the models' own intervals overlap."
        )
    if invalid := table.effort.invalid:
        named = ", ".join(f"#{id}" for id in invalid)
        lines.append(
            f"{len(invalid)} of the shortlist ({named}) are invalid on the select split: they rank below all others."
        )
    lines += [*_floor_lines(table), *volume_lines(table)]
    if table.rounding:
        lines += [f"{line}." for line in table.rounding.lines()]
    for row in table.rows:
        if row.gain and row.gain.difference.value < 0:
            lines.append(f"{row.label} scores higher than the winner on the report split.")
        lines += [f"INVALID: {row.label}: {reason}." for reason in row.invalid]
        lines += [f"note: {row.label}: {note}." for note in row.notes]
    return lines


def _trust_lines(table: Table) -> list[str]:
    trust, lines = table.trust, list[str]()
    if trust.report is not None:
        parts = ["search: never scored there"]
        if trust.search is not None:
            parts = [f"search {_searched_text(trust.search, trust)}"]
        if trust.select is not None and trust.select_items is not None:
            parts.append(f"select {interval_text(trust.select)} ({count_text(trust.select_items)})")
        parts.append(f"report {interval_text(trust.report)}")
        lines.append(f"the winner's score: {', '.join(parts)}.")
    if trust.gap is not None:
        lines.append(f"gap, search less report, both of them samples: {interval_text(trust.gap)}.")
    if table.yardsticks:
        units = ", ".join(f"{name} {value:.3f}" for name, value in table.yardsticks.items())
        where = f"exact on the {count_text(trust.search_items, 'search items')}"
        where = ANCHORED if trust.anchored else where
        lines.append(f"gains that count 1 in the score ({where}): {units}.")
    return lines


_FLOORS_ON = {
    "new": "select items it was chosen by",
    "all": "items of search and select together, not on new ones alone",
}


def _floor_lines(table: Table) -> list[str]:
    """How the winner and others stand to the floors; who misses one is named in capitals."""
    lines, trust = list[str](), table.trust
    if trust.floors is not None:
        sure = "confirmed" if trust.floors >= trust.confidence else "NOT CONFIRMED"
        lines.append(
            f"the winner's floors: {sure} on the {_FLOORS_ON[trust.floors_on]}; all of them hold with "
            f"probability {_percent(trust.floors)} (paired resamples; asked: {_percent(trust.confidence)})."
        )
    for row in table.rows:
        if row.candidate == table.winner or row.front is not None:
            lines += [
                f"{'floor held' if each.held else 'FLOOR MISSED'}: {row.label}: {_held_text(row, each)}."
                for each in row.floors
            ]
        else:
            lines += [
                f"FLOOR MISSED: {row.label}: {_held_text(row, each)}."
                for each in row.floors
                if not each.held
            ]
    return lines


def _held_text(row: Row, each: Held) -> str:
    """``chat_en 0.977 [0.950, 0.996], at least 0.980 (98% of chat): by -0.003 [-0.030, 0.016]``."""
    side = "at most" if each.ceiling else "at least"
    stated = f"{each.bound:.3f} ({each.floor})" if "%" in each.floor else each.floor
    value = interval_text(row.objectives[each.objective])
    margin = f"{each.margin.value:+.3f} [{each.margin.why}]"
    if not each.margin.why:
        margin = f"{each.margin.value:+.3f} [{each.margin.low:+.3f}, {each.margin.high:+.3f}]"
    return f"{each.objective} {value}, {side} {stated}: by {margin} on the report items"


def volume_lines(table: Table) -> list[str]:
    """How much the front covers; nothing where none was asked for."""
    if not table.volume:
        return []
    found = ", ".join(f"{name} {interval_text(each)}" for name, each in table.volume.items())
    return [
        f"hypervolume over the base on the report items, in yardsticks (1: a merge as good as the best parent "
        f"at everything): {found}."
    ]


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f}%"


def _searched_text(score: Interval, trust: Trust) -> str:
    if score.why:
        why = ANCHORED if trust.anchored else "of a sample; error unknown"
        return f"{score.value:.3f} ({why})"
    where = count_text(trust.search_items, "search items")
    if score.low == score.high:
        return f"{score.value:.3f} (exact on the {where})"
    return f"{interval_text(score)} (estimated for the {where})"


def _effort_line(effort: Effort) -> str:
    text = f"{effort.candidates} candidates tried; {effort.select_looks} scores taken on the select split"
    if effort.dropped:
        text += f", where racing dropped {effort.dropped} early and saved {effort.saved} item-evaluations"
    return f"{text}."


def table_markdown(table: Table) -> str:
    """The final table as Markdown."""
    lines = [markdown_text(table_title(table)), "", *markdown_rows(table_rows(table)), ""]
    if table.beside:
        lines += [markdown_text(beside_title(table)), "", *markdown_rows(beside_rows(table)), ""]
    lines += [f"* {markdown_text(note)}" for note in table_notes(table)]
    return "\n".join(lines) + "\n"


def markdown_rows(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table as Markdown, line by line; the first row is its heading."""
    heading, *others = (tuple(map(markdown_text, row)) for row in rows)
    rule = ("---", *("---:" for _ in heading[1:]))
    return [f"| {' | '.join(row)} |" for row in (heading, rule, *others)]


def markdown_text(text: str) -> str:
    """``text`` in Markdown, and nothing but text: no cell, line, tag, entity, link or code of its own."""
    return _MARKUP.sub(lambda found: _ESCAPED.get(found[0], f"\\{found[0]}"), one_line(text))


# a tag or comment begins with what follows its <, an entity with what follows its &; a link is ](, [][ or defined by ]:
_MARKUP = re.compile(
    r"<(?=[A-Za-z/!?])|&(?=#|[A-Za-z])|[|`]|(?<=\])\(|\](?=[\[:])|\\(?=[!-/:-@\[-`{-~])"
)
_ESCAPED = {"<": "&lt;", "&": "&amp;"}


def interval_text(interval: Interval) -> str:
    """``0.781 [0.742, 0.812]``, ``0.781 [too few sources]`` or ``0.000 (exact)``."""
    return _interval_text(interval, ".3f")


def signed_interval(interval: Interval) -> str:
    """``+0.078 [+0.048, +0.124]``."""
    return _interval_text(interval, "+.3f")


def _interval_text(interval: Interval, form: str) -> str:
    if interval.why:
        return f"{interval.value:{form}} [{interval.why}]"
    if interval.low == interval.high:
        return f"{interval.value:{form}} (exact)"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def count_text(count: Count, noun: str = "items") -> str:
    """``300 items of 48 sources``, or ``12 items`` where each has its own."""
    text = f"{count.items} {noun}"
    if count.items == count.sources:
        return text
    return f"{text} of {count.sources} source{'s' * (count.sources > 1)}"


def _health_text(row: Row) -> str:
    if row.invalid:
        return "INVALID"
    return "see note" if row.notes else ""


def p_text(p: float | None) -> str:
    """``< 0.001`` or ``0.042``; what to say where there is none."""
    if p is None:
        return "no test"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
