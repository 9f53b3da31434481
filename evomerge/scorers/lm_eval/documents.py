"""What a task's documents are called, where they come from, what they say: an ``Item`` for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from jinja2.exceptions import SecurityError

from evomerge.errors import InputError, did_you_mean

# Fields that data sets use for a row's own name, for the original it was made from, its language.
_ID_FIELDS = ("id", "idx", "key", "pair_id", "question_id", "doc_id", "uuid")
_SOURCE_FIELDS = ("source_id", "source")
_STRATUM_FIELDS = ("language", "lang", "lang_code", "language_code", "locale")


def name_documents(docs: Sequence[Any]) -> list[str]:
    """A name per document: its id-like field where that is unique, else the row number."""
    for field in _ID_FIELDS:
        values = _column(docs, field)
        if values and len(set(values)) == len(values):
            return values
    return _numbers(docs)


def find_sources(docs: Sequence[Any], name: str, field: str | None) -> list[str]:
    """The original each document was made from.

    Raises:
        InputError: some document of task ``name`` has no ``field``.
    """
    if field is not None:
        return _named(docs, name, "source_field", field)
    for field in _SOURCE_FIELDS:
        values = _column(docs, field)
        if values and _are_originals(values):
            return values
    return _numbers(docs)


def find_strata(docs: Sequence[Any], name: str, field: str | None) -> list[str]:
    """The label samples are spread over evenly: the language, where documents tell it.

    Raises:
        InputError: some document of task ``name`` has no ``field``.
    """
    if field is not None:
        return _named(docs, name, "stratum", field)
    columns = (_column(docs, field) for field in _STRATUM_FIELDS)
    return next((column for column in columns if column), [""] * len(docs))


def text_of(task: Any, doc: Any) -> str:
    """What a document asks, with its choices; all its texts for a task that asks nothing.

    Raises:
        SecurityError: a template reaches for more than the document.
    """
    doc = deepcopy(doc)
    try:
        parts = [task.doc_to_text(doc)]
        if task.OUTPUT_TYPE == "multiple_choice":
            parts += task.doc_to_choice(doc)
    except SecurityError:
        raise
    except Exception:  # the task's own code: near-duplicates are not worth a failure
        parts = []
    if not parts or not isinstance(parts[0], str) or not parts[0].strip():
        values = doc.items() if isinstance(doc, Mapping) else ()
        parts = [v for key, v in values if key not in (*_ID_FIELDS, *_SOURCE_FIELDS)]
    return "\n".join(part for part in parts if isinstance(part, str))


def _are_originals(values: Sequence[str]) -> bool:
    """Whether a field may name originals: `source` often names a corpus, one for many rows."""
    counts = Counter(values)
    return 2 * len(counts) >= len(values) or max(counts.values()) <= len(values) / 20


def _numbers(docs: Sequence[Any]) -> list[str]:
    return [str(row) for row in range(len(docs))]


def _named(docs: Sequence[Any], name: str, option: str, field: str) -> list[str]:
    values = _column(docs, field)
    if not values:
        known = list(docs[0]) if isinstance(docs[0], Mapping) else []
        raise InputError(
            f"{name}: {option}: no field {field!r} with a text or number in every row"
            f"{did_you_mean(field, known)}; the first row has: {', '.join(known)}"
        )
    return values


def _column(docs: Sequence[Any], field: str) -> list[str]:
    """``field`` of every document as text; empty if any lacks it."""
    values = [doc.get(field) if isinstance(doc, Mapping) else None for doc in docs]
    usable = all(isinstance(v, (str, int)) and v != "" for v in values)
    return [str(value) for value in values] if usable else []
