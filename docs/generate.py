"""Write every generated table of the documents, between its markers; ``make docs``.

    python docs/generate.py            write them
    python docs/generate.py --check    exit with 1 and say which are stale

A new method, scorer signal or floor of imports changes a table and no text.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def methods_table() -> str:
    """Every merge method with what it takes, its parameters and its first sentence."""
    from evomerge import methods

    rows = ["| method | models | parameters | what it does |", "| --- | --- | --- | --- |"]
    for name in methods.names():
        method = methods.get(name)
        parameters = ", ".join(f"`{p.name}`" for p in method.parameters)
        rows.append(f"| `{name}` | {method.takes} | {parameters} | {method.summary} |")
    return "\n".join(rows)


def rooms_table() -> str:
    """Every room of the package, top floor first, with the first line of its text."""
    order = re.search(
        r'ORDER = """\n(.*?)"""', (ROOT / "tests/test_imports.py").read_text(encoding="utf-8"), re.S
    )
    assert order
    rows = ["| floor | room | |", "| ---: | --- | --- |"]
    floors = order[1].strip().splitlines()
    for number, floor in zip(range(len(floors), 0, -1), floors, strict=True):
        for name in floor.split():
            rows.append(f"| {number} | `{name}` | {first_line(name)} |")
    return "\n".join(rows)


def first_line(name: str) -> str:
    folder = ROOT / "evomerge" / name
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].replace("|", "\\|") if text else ""


def search_tables() -> str:
    """The benchmark of searches, from its frozen rows."""
    sys.path.insert(0, str(ROOT))
    from tests.benchmarks.search.results import load, tables

    return tables(load(ROOT / "tests/benchmarks/search/results.jsonl"))


def frontier_tables() -> str:
    """What is kept of one parent under a floor on another, from the frozen rows."""
    sys.path.insert(0, str(ROOT))
    from tests.benchmarks.search.frontier_rows import ROWS, load, tables

    return tables(load(ROWS))


def scale_tables() -> str:
    """What a driver takes in long searches, from the frozen measurements."""
    sys.path.insert(0, str(ROOT))
    from tests.benchmarks.scale.results import load, tables

    return tables(load())


def optimizers_table() -> str:
    """Every optimizer with its options and the first sentence about it."""
    from evomerge import optimizers
    from evomerge.registry import OPTIMIZERS

    rows = ["| optimizer | options | |", "| --- | --- | --- |"]
    for name, place in OPTIMIZERS.built_in.items():
        kind = optimizers.get(name)
        options = ", ".join(f"`{option.name}`" for option in kind.OPTIONS)
        room = place.partition(":")[0].removeprefix("evomerge.").replace(".", "/")
        rows.append(f"| `{name}` | {options} | {first_line(room)} |")
    return "\n".join(rows)


def families_table() -> str:
    """The families of decoders that tests walk through, and what is left out."""
    from evomerge.testing.zoo import LEFT_OUT, decoders

    known = decoders()
    walked = [name for name in sorted(known) if name not in LEFT_OUT]
    reasons: dict[str, list[str]] = {}
    for name in sorted(LEFT_OUT):
        reasons.setdefault(LEFT_OUT[name], []).append(f"`{name}`")
    lines = [
        f"**{len(walked)} of {len(known)}** types of model: {', '.join(f'`{name}`' for name in walked)}.",
        "Left out:",
    ]
    lines += [f"* {why}: {', '.join(names)}" for why, names in reasons.items()]
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def counts() -> str:
    """How much there is of what people count."""
    from evomerge import methods
    from evomerge.registry import OPTIMIZERS
    from evomerge.testing.zoo import LEFT_OUT, decoders

    architectures = len(decoders()) - len(LEFT_OUT)
    return (
        f"* **It takes what you have.** {len(methods.names())} [methods](docs/methods.md), "
        f"{len(OPTIMIZERS.built_in)} [optimizers](docs/optimizers.md), {architectures} [architectures]"
        "(docs/architectures.md),\n  adapters in and out, other vocabularies, mergekit files both ways."
    )


def systems_counts() -> str:
    """How many published systems work, and how far."""
    return _systems().counts_table()


def systems_table() -> str:
    """Every published system with what of it works here."""
    return _systems().systems_table()


def _systems() -> Any:
    sys.path.insert(0, str(ROOT / "docs"))
    import systems

    return systems


TABLES: dict[str, tuple[str, Callable[[], str]]] = {  # marker -> file, table
    "methods table": ("docs/methods.md", methods_table),
    "counts": ("README.md", counts),
    "rooms table": ("CONTRIBUTING.md", rooms_table),
    "optimizers table": ("docs/optimizers.md", optimizers_table),
    "search tables": ("docs/search.md", search_tables),
    "families table": ("docs/architectures.md", families_table),
    "frontier tables": ("docs/search.md", frontier_tables),
    "scale tables": ("docs/scale.md", scale_tables),
    "systems counts": ("docs/systems.md", systems_counts),
    "systems table": ("docs/systems.md", systems_table),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing, say what is stale")
    check, stale = parser.parse_args().check, []
    for marker, (name, table) in TABLES.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        found = re.search(rf"(?<=<!-- {marker} -->\n).*?(?=<!-- end -->)", text, re.S)
        assert found, f"{name} has no <!-- {marker} -->"
        new = f"{text[: found.start()]}{table()}\n{text[found.end() :]}"
        if new != text:
            stale.append(f"{name}: {marker}")
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        print(f"stale: {', '.join(stale)}; run `make docs`", file=sys.stderr)
        return 1
    print(f"{'written' if stale else 'up to date'}: {', '.join(stale) or ', '.join(TABLES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
