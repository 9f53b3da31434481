"""The table of published systems, ``systems.yaml``: what is wrong with it, and the page that is made of it."""

from __future__ import annotations

import argparse
import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "systems.yaml"
COUNT = 113  # rows, numbered from 1
Row = Mapping[str, Any]

STATES = {  # -> what a row of it says beside what the system is
    "works": ("here", "use", "tests"),
    "in part": ("here", "lacks", "use", "tests"),
    "transfer": ("here", "lacks", "use", "tests"),
    "not": ("lacks",),
}
MEANINGS = {
    "works": "can be searched, exported, and is held by a test",
    "in part": "what is missing stands in the row",
    "transfer": "no merge of language models' weights, or none that can be searched; what was taken over",
    "not": "not here, and why",
}
CLASSES = {
    "method": "Merge methods",
    "method with data": "Merge methods that take data",
    "search": "Searches",
    "choice": "Choosing what to merge",
    "measuring": "Measuring merges",
    "alignment": "Aligning neurons",
    "adapters": "Adapters",
    "routing": "Routing and experts",
    "training": "Merging beside training",
    "application": "Applications",
    "beside": "Beside merging language models",
}
ALWAYS = ("number", "system", "year", "class", "is", "state")
FOLDERS = {"space": "search_spaces", "fitness": "fitness", "run": "runs", "docs": "docs"}


def load() -> list[dict[str, Any]]:
    """The rows, as the file has them."""
    from evomerge import config

    rows: list[dict[str, Any]] = config.read(TABLE).plain
    return rows


def faults(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Everything that is wrong with the rows, one a line: ``row 12: ...``."""
    numbers = Counter(row.get("number") for row in rows)
    for number in range(1, COUNT + 1):
        if numbers[number] != 1:
            yield f"row {number}: stands {numbers[number]} times"
    for number in numbers:
        if number not in range(1, COUNT + 1):
            yield f"row {number}: expected numbers from 1 to {COUNT}"
    for row in rows:
        yield from (f"row {row.get('number')}: {fault}" for fault in _faults_of(row))


def _faults_of(row: Row) -> Iterator[str]:
    if row.get("state") not in STATES:
        yield f"state {row.get('state')!r}: expected one of {', '.join(STATES)}"
        return
    asked = (*ALWAYS, *STATES[row["state"]])
    for key in asked:
        if not row.get(key):
            yield f"{key}: missing"
    for key in row:
        if key not in (*asked, "link"):
            yield f"{key}: says nothing of a system whose state is {row['state']!r}"
    if row.get("class") not in CLASSES:
        yield f"class {row.get('class')!r}: expected one of {', '.join(CLASSES)}"
    if "link" in row and not re.fullmatch(r"https://[\w./-]+", str(row["link"])):
        yield f"link {row['link']!r}: expected https://..."
    for kind, names in row.get("use", {}).items():
        known = there(kind)
        for name in names:
            if known is None:
                yield f"use: unknown kind {kind!r}"
            elif name not in known:
                yield f"use: there is no {kind} {name!r}"
    for name in row.get("tests", ()):
        file, _, test = name.partition("::")
        if test not in tests_in(file):
            yield f"tests: there is no {name}"


@cache
def there(kind: str) -> frozenset[str] | None:
    """The names of a kind that a row may use; None if there is no such kind."""
    from evomerge import methods, registry

    if kind in FOLDERS:
        folder = ROOT / FOLDERS[kind]
        return frozenset(path.name for path in folder.iterdir())
    if kind == "command":
        return frozenset(_commands())
    named = {
        "method": methods.names,
        "optimizer": registry.OPTIMIZERS.names,
        "loss": registry.LOSSES.names,
        "part": registry.PARTS.names,
        "estimator": registry.PREDICTORS.names,
        "statistic": registry.STATISTICS.names,
    }
    return frozenset(named[kind]()) if kind in named else None


def _commands() -> Iterator[str]:
    """``merge``, and ``merge --experts`` for each of its options."""
    from evomerge.cli.parser import make_parser

    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield name
                yield from (
                    f"{name} {option}" for each in sub._actions for option in each.option_strings
                )


@cache
def tests_in(file: str) -> frozenset[str]:
    """The tests of a file as pytest names them, and its classes of tests; none if it is no file of tests."""
    path = ROOT / file
    if not file.startswith("tests/") or not path.is_file():
        return frozenset()
    return frozenset(_tests(ast.parse(path.read_text(encoding="utf-8")).body))


def _tests(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name.lower().startswith(
            "test"
        ):
            yield node.name
            if isinstance(node, ast.ClassDef):
                yield from (f"{node.name}::{name}" for name in _tests(node.body))


def counts_table() -> str:
    """How many rows there are of each state."""
    found = Counter(row["state"] for row in load())
    rows = ["| state | systems | |", "| --- | ---: | --- |"]
    rows += [f"| {state} | {found[state]} | {MEANINGS[state]} |" for state in STATES]
    return "\n".join(rows)


def systems_table() -> str:
    """Every system, class by class, in the order of their numbers."""
    rows = sorted(load(), key=lambda row: row["number"])
    parts = []
    for name, title in CLASSES.items():
        lines = ["| # | system | what it is | | in evomerge | by | tests |"]
        lines.append("| ---: | --- | --- | --- | --- | --- | --- |")
        lines += [_line(row) for row in rows if row["class"] == name]
        parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n" + "\n\n".join(parts) + "\n"


def _line(row: Row) -> str:
    named = f"[{row['system']}]({row['link']})" if "link" in row else row["system"]
    here = [row["here"]] if "here" in row else []
    lacks = (
        [f"*{'Why not' if row['state'] in ('not', 'transfer') else 'Lacks'}:* {row['lacks']}"]
        if "lacks" in row
        else []
    )
    # of a transfer it is first said why it is none
    told = " ".join(lacks + here if row["state"] == "transfer" else here + lacks)
    cells = (
        str(row["number"]),
        f"{named}, {row['year']}",
        row["is"],
        f"**{row['state']}**",
        told,
        "<br>".join(
            _used(kind, name) for kind, names in row.get("use", {}).items() for name in names
        ),
        "<br>".join(_test(name) for name in row.get("tests", ())),
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _used(kind: str, name: str) -> str:
    if kind == "docs":
        return f"[{name}]({name})"
    if kind in FOLDERS:
        path = f"{FOLDERS[kind]}/{name}" + ("/run.yaml" if kind == "run" else "")
        return f"{kind} [`{name}`](../{path})"
    return f"`evomerge {name}`" if kind == "command" else f"{kind} `{name}`"


def _test(name: str) -> str:
    file, _, test = name.partition("::")
    test = test.rpartition("::")[2]
    return f"[{test.removeprefix('test_').replace('_', ' ')}](../{file})"
