"""Token trees: sequences that begin alike, laid out in one row, with what they share there once.

A row lists the tokens of a prefix tree in depth-first order. A token sees its ancestors alone:
column ``q`` attends to column ``k`` iff ``k <= q < end[k]``, where ``end[k]`` is one past the last
column below ``k``. Its position is its depth.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

Tokens = Sequence[int]

# A shared token saves the linear layers; a longer row costs attention to columns that are masked.
# This many pairs of a token and a column cost as much as one token: 1,500 were measured on a CPU in
# a model of 135M parameters; the wider the model, the more.
PAIRS = 1024


@dataclass
class TreeRow:
    """One row; ``paths`` has the columns of every sequence in it, by the sequence's number."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def branches(self) -> bool:
        """Whether some token does not see every token before it."""
        return any(end < len(self) for end in self.ends)

    def add(self, number: int, sequence: Tokens, stem: Sequence[int]) -> None:
        """Put in ``sequence``, whose first tokens stand in the columns ``stem`` already."""
        start, shared = len(self), len(stem)
        path = [*stem, *range(start, start + len(sequence) - shared)]
        self.tokens += sequence[shared:]
        self.depths += range(shared, len(sequence))
        self.ends += [0] * (len(sequence) - shared)
        for column in path:
            self.ends[column] = len(self)
        self.paths[number] = path

    def append(self, row: TreeRow) -> None:
        """Put in all of ``row``, unseen by what there is."""
        offset = len(self)
        self.tokens += row.tokens
        self.depths += row.depths
        self.ends += [offset + end for end in row.ends]
        self.paths |= {n: [offset + c for c in path] for n, path in row.paths.items()}


def shared_prefix(one: Tokens, other: Tokens) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def plant(sequences: Sequence[Tokens], *, header: int = 0, branching: bool = True) -> list[TreeRow]:
    """Rows that hold ``sequences``, the longest first: a function of the set of sequences alone.

    A sequence joins the row of its lexicographic neighbour where that is cheaper than a row of its
    own, and always if it equals or continues that neighbour.

    Args:
        header: this many first tokens, which all have in common, are left out.
        branching: False for a model that cannot be masked: no token is hidden from a later one.
    """
    rows: list[TreeRow] = []
    before: Tokens = ()
    path: list[int] = []
    for number in sorted(range(len(sequences)), key=lambda number: tuple(sequences[number])):
        sequence = sequences[number][header:]
        shared = shared_prefix(before, sequence)
        new = len(sequence) - shared
        joins = shared == len(before) or (
            branching and shared * PAIRS >= new * len(rows[-1])
        )  # the first has no row to join
        if not rows or not joins:
            rows.append(TreeRow())
            shared = 0
        rows[-1].add(number, sequence, path[:shared])
        before, path = sequence, rows[-1].paths[number]
    return sorted(rows, key=lambda row: (-len(row), row.tokens))


def pack(rows: Sequence[TreeRow], room: int) -> list[TreeRow]:
    """``rows`` side by side in fewer, of at most ``room`` columns unless one alone is longer.

    Each goes, the longest first, where it leaves the least room.
    """
    packed: list[TreeRow] = []
    rooms: list[tuple[int, int]] = []  # (columns left, number of the packed row), sorted
    for row in rows:
        at = bisect_left(rooms, (len(row), 0))
        if at < len(rooms):
            left, number = rooms.pop(at)
        else:
            left, number = max(room, len(row)), len(packed)
            packed.append(TreeRow())
        insort(rooms, (left - len(row), number))
        packed[number].append(row)
    return sorted(packed, key=lambda row: (-len(row), row.tokens))
