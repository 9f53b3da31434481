"""Data sets as they are stored: a picture or a sound is bytes and a path, and nobody follows the path.

`datasets` decodes such columns whenever a row is read, and a path may be an address.
"""

from __future__ import annotations

from copy import copy
from typing import Any


def as_stored(loaded: Any) -> Any:
    """What `datasets` loaded, all splits or one, without decoding.

    Raises:
        ValueError: a column that would be decoded is within another one.
    """
    if isinstance(loaded, dict):
        return type(loaded)({split: _stored(each) for split, each in loaded.items()})
    return _stored(loaded)


def _stored(rows: Any) -> Any:
    for name, kind in (rows.features or {}).items():
        if _follows(kind):
            plain = copy(kind)
            plain.decode = False
            rows = rows.cast_column(name, plain)
        elif _decodes(kind):
            raise ValueError(
                f"column {name!r} holds pictures or sounds within others, which nobody reads here"
            )
    return rows


def _decodes(kind: Any) -> bool:
    """Whether a kind of column, or one within it, is decoded."""
    if isinstance(kind, dict):
        return any(map(_decodes, kind.values()))
    if isinstance(kind, (list, tuple)):
        return any(map(_decodes, kind))
    return _follows(kind) or _decodes(getattr(kind, "feature", ()))


def _follows(kind: Any) -> bool:
    """Whether values of this kind are made from what lies elsewhere."""
    if not hasattr(kind, "decode_example") or type(kind).__name__ == "Json":
        return False
    return getattr(kind, "decode", None) is not False  # 1 counts, too
