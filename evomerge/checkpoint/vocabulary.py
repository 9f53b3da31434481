"""Vocabularies: which row of an embedding belongs to which token."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint.donor import Donor
from evomerge.checkpoint.fields import NUMBER, TEXT, Kind, each, field, mapping, whole
from evomerge.checkpoint.files import TOKENIZER, read_json

ABSENT = -1
_ROW = whole(0)
_ROWS = mapping(_ROW, "rows by token")
_SCORE = Kind(
    "[token, score]",
    lambda value: (
        isinstance(value, list)
        and len(value) == 2
        and TEXT.holds(value[0])
        and NUMBER.holds(value[1])
    ),
)
_SCORED = each(_SCORE, "[token, score]")


def vocabulary(model: Donor) -> dict[str, int]:
    """Token -> row, from the model's ``tokenizer.json``; empty if it has none."""
    path = model.tokenizer_folder / TOKENIZER
    if not path.is_file():
        return {}
    return tokens_of(read_json(path), path)


def tokens_of(content: Mapping[str, Any], path: Path) -> dict[str, int]:
    """The same from the content of ``path``, a ``tokenizer.json``."""
    model: dict[str, Any] = content.get("model") or {}
    vocab: Any = model.get("vocab") or {}
    if isinstance(vocab, list):  # of a unigram model
        field(model, "vocab", _SCORED, path, "model.")
        tokens = {token: row for row, (token, _) in enumerate(vocab)}
    else:
        tokens = dict(field({"vocab": vocab}, "vocab", _ROWS, path, "model."))
    for number, token in enumerate(content.get("added_tokens") or []):
        within = f"added_tokens[{number}]."
        text: str = field(token, "content", TEXT, path, within)
        tokens[text] = field(token, "id", _ROW, path, within)
    return tokens


def same_tokenizer(model: Donor, other: Donor) -> bool:
    """True if both have the same ``tokenizer.json``, byte for byte (cheap, where parsing is not)."""
    ours, theirs = model.tokenizer_folder / TOKENIZER, other.tokenizer_folder / TOKENIZER
    return ours.is_file() and theirs.is_file() and filecmp.cmp(ours, theirs, shallow=False)


def matching_rows(
    tokens: Mapping[str, int], height: int, wanted: Mapping[str, int], wanted_height: int
) -> list[int]:
    """For each row of the wanted vocabulary, the row that means the same here.

    A token's row is the row of the same token. A row without a token (padding) is the row of the
    same number if it is padding here, too.

    Args:
        tokens: token -> row of this model.
        height: rows of its embedding; tokens beyond it have none.
        wanted: token -> row of the wanted vocabulary.
        wanted_height: rows wanted.

    Returns:
        ``wanted_height`` rows, ``ABSENT`` where there is none.
    """
    rows = [row if row < height else ABSENT for row in range(wanted_height)]
    for row in tokens.values():
        if row < wanted_height:
            rows[row] = ABSENT
    named: set[int] = set()
    for token, row in wanted.items():
        # two tokens may share a row: the first that is known here decides
        if row < wanted_height and (row not in named or rows[row] == ABSENT):
            source = tokens.get(token, ABSENT)
            rows[row] = source if source < height else ABSENT
            named.add(row)
    return rows
