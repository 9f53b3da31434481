"""Vocabularies: which row of an embedding belongs to which token."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping

from evomerge.checkpoint.donor import Donor
from evomerge.checkpoint.files import TOKENIZER, read_json
from evomerge.errors import CheckpointError

ABSENT = -1


def vocabulary(model: Donor) -> dict[str, int]:
    """Token -> row, from the model's ``tokenizer.json``; empty if it has none."""
    path = model.tokenizer_folder / TOKENIZER
    if not path.is_file():
        return {}
    content = read_json(path)
    try:
        vocab = content.get("model", {}).get("vocab", {})
        tokens = (
            dict(vocab)
            if isinstance(vocab, dict)
            else {entry[0]: i for i, entry in enumerate(vocab)}
        )
        tokens.update({token["content"]: token["id"] for token in content.get("added_tokens", [])})
        bad = [token for token, row in tokens.items() if type(row) is not int or row < 0]
        if bad:
            raise ValueError(f"token {bad[0]!r:.60} has no row")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not the vocabulary of a tokenizer: {error}") from None
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
