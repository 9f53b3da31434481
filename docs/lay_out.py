"""Lay the documents out for a site: one folder, with links that hold there; ``make site``.

    python docs/lay_out.py OUT        then: zensical build, in OUT

On a code host the documents link to each other where they lie. A site has one folder: README.md becomes its first
page, the READMEs of spaces and fitness files become pages, and what is no page is linked where the code lies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = "https://github.com/evomerge/evomerge/blob/main/"

SECTIONS = {
    "Begin": ["index", "first-search", "choosing", "cookbook", "running"],
    "Look and share": ["report", "compare", "sharing"],
    "What there is": ["methods", "optimizers", "spaces", "fitness", "recipes", "adapters", "architectures", "rounds"],
    "Why to believe it": ["winner", "evidence", "search", "systems"],
    "Run and extend": ["clusters", "scale", "security", "extending", "contributing"],
}  # fmt: skip
ELSEWHERE = {
    "index": "README.md",
    "spaces": "search_spaces/README.md",
    "fitness": "fitness/README.md",
    "contributing": "CONTRIBUTING.md",
}
PICTURES = (".svg", ".png")


def pages() -> dict[Path, str]:
    """Document -> name of its page, in order."""
    names = [name for section in SECTIONS.values() for name in section]
    return {ROOT / ELSEWHERE.get(name, f"docs/{name}.md"): name for name in names}


def rewritten(file: Path, known: dict[Path, str]) -> str:
    """The text of a document with its links as they are in one folder."""

    def link(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        if target.startswith(("http", "mailto:")):
            return found[0]
        path = Path(os.path.normpath(file.parent / target))
        if path in known:
            return f"]({known[path]}.md{anchor})"
        if path.suffix in PICTURES:
            return f"]({path.name})"
        return f"]({CODE}{path.relative_to(ROOT)}{anchor})"

    return re.sub(r"\]\(([^)#\s]+)(#[^)]*)?\)", link, file.read_text(encoding="utf-8"))


def main() -> None:
    out = Path(sys.argv[1])
    known = pages()
    shutil.rmtree(out, ignore_errors=True)
    (out / "docs").mkdir(parents=True)
    for file, name in known.items():
        (out / "docs" / f"{name}.md").write_text(rewritten(file, known), encoding="utf-8")
    for file in (ROOT / "docs").iterdir():
        if file.suffix in PICTURES:
            shutil.copy(file, out / "docs")
    nav = [{title: [f"{name}.md" for name in names]} for title, names in SECTIONS.items()]
    config = {
        "site_name": "evomerge",
        "site_description": "The best merge of a few descendants of one language model",
        "theme": {
            "name": "material",
            "palette": [
                {"media": "(prefers-color-scheme: light)", "scheme": "default"},
                {"media": "(prefers-color-scheme: dark)", "scheme": "slate"},
            ],
        },
        "nav": nav,
    }
    # YAML, too
    (out / "mkdocs.yml").write_text(json.dumps(config, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
