"""Merges of merges: which merge of a file makes the model, and in what order the others come.

A merge has a name if others use it as a model. As for mergekit-multi, the order in the file makes no
difference, and a name means the merge even where a folder is called so, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from evomerge import config
from evomerge.checkpoint import ModelRef
from evomerge.errors import ConfigError, did_you_mean
from evomerge.interop.document import Document


def parts_of(documents: Sequence[Document], problems: config.Problems) -> dict[str, Document]:
    """The merges that have a name, by it; names that say nothing clear are noted as problems."""
    parts: dict[str, Document] = {}
    for document in documents:
        if document.name in parts:
            document.problem(
                problems,
                "name",
                f"two merges are called {document.name!r}; mergekit-multi refuses that, too",
            )
        elif document.name:
            parts[document.name] = document
    for document in documents:
        for reference in document.references:
            _check_reference(document, reference, parts, problems)
    circles = ((document, _circle(document, parts)) for document in parts.values())
    if found := next(((document, circle) for document, circle in circles if circle), None):
        found[0].problem(problems, "name", f"is made from itself: {' -> '.join(found[1])}")
    return parts


def last_of(documents: Sequence[Document]) -> Document:
    """The merge that makes the model: the one without a name, else the one that no other uses.

    Raises:
        ConfigError: there are several.
    """
    unnamed = [document for document in documents if document.name is None]
    used = {reference for document in documents for reference in document.references}
    found = unnamed or [document for document in documents if document.name not in used]
    if len(found) == 1:
        return found[0]
    file = documents[0].node.file
    if unnamed:
        lines = ", ".join(str(document.node.value["merge_method"].line) for document in unnamed)
        raise ConfigError(
            [
                f"{file}: {len(unnamed)} merges have no name (merge_method in lines {lines}): expected one, "
                "which makes the model; mergekit-multi refuses that, too"
            ]
        )
    names = ", ".join(str(document.name) for document in found)
    raise ConfigError(
        [
            f"{file}: {names}: each makes a model that no other merge uses; take the name of the one that is "
            "wanted away, and it is the model"
        ]
    )


def within(document: Document, parts: Mapping[str, Document]) -> list[Document]:
    """The merges that ``document`` is made of, however deep, itself first."""
    names = dict.fromkeys(_used(document, parts))
    for name in (queue := list(names)):
        for other in _used(parts[name], parts):
            if other not in names:
                names[other] = None
                queue.append(other)
    return [document, *(parts[name] for name in names)]


def file_names(names: Sequence[str], file: str) -> dict[str, str]:
    """For each merge's name that of a recipe file beside ``file``, all different."""
    stem = Path(file).stem
    found: dict[str, str] = {}
    for name in names:
        short = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "merge"
        made, number = short, 2
        while f"{stem}-{made}.yaml" in found.values():
            made, number = f"{short}-{number}", number + 1
        found[name] = f"{stem}-{made}.yaml"
    return found


def _used(document: Document, parts: Mapping[str, Document]) -> list[str]:
    return [name for name in document.references if name in parts]


def _circle(document: Document, parts: Mapping[str, Document]) -> list[str]:
    """The names on the way from a merge back to itself; none if there is no such way."""
    ways = {name: [document.name or "", name] for name in _used(document, parts)}
    for name in (queue := list(ways)):
        if name == document.name:
            return ways[name]
        for other in _used(parts[name], parts):
            if other not in ways:
                ways[other] = [*ways[name], other]
                queue.append(other)
    return []


def _check_reference(
    document: Document, reference: str, parts: Mapping[str, Document], problems: config.Problems
) -> None:
    """Note a name that was meant to be a merge's."""
    name, plus, _ = reference.partition("+")
    if reference in parts or not parts:
        return
    if plus and name in parts:
        document.problem(
            problems,
            "models",
            f"{reference}: {name} is a merge of this file, and an adapter is expanded in a model that is there: "
            "merge it first, into a folder, and name that folder",
        )
    elif "/" not in reference and not os.path.exists(ModelRef(reference).portable):
        hint = did_you_mean(reference, parts)
        message = f"{reference!r} is no merge of this file and no folder{hint}"
        if hint:  # a folder may be one of another machine
            document.problem(problems, "models", message)
