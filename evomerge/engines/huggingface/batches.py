"""How sequences are laid out for a model: a common header, rows of token trees, batches of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evomerge.engines.huggingface.trees import PAIRS, Tokens, TreeRow, pack, plant, shared_prefix

_HEADER = 16  # a common beginning gets a pass of its own from this many tokens on
_LOGITS = 2**28  # most logits that one batch may ask for
CACHED = 8  # keys and values are kept of at most this many times the tokens of a batch


@dataclass(frozen=True)
class PassLimits:
    """How batches may be laid out.

    Attributes:
        tokens: of a batch, padding included.
        vocabulary: of the model.
        reach: beyond which tokens cannot be masked: rows hold no branches then.
        continues: whether plain rows may continue a header that was read once.
    """

    tokens: int
    vocabulary: int
    reach: float
    continues: bool = False


@dataclass(frozen=True)
class Read:
    """Where the logits of a sequence are found: ``logits`` number those that its batch wants.

    ``row`` is a row of the batch, ``path`` its columns there.
    """

    sequence: int
    row: int
    path: list[int]
    logits: list[int]


@dataclass(frozen=True)
class Pass:
    """Rows for one forward pass; logits are ``wanted`` at (row, column)."""

    rows: list[TreeRow]
    wanted: list[tuple[int, int]]
    reads: list[Read]

    @property
    def width(self) -> int:
        return len(self.rows[0])


@dataclass(frozen=True)
class Packing:
    """``header``, which all sequences begin with, and batches of what follows it."""

    header: Tokens
    batches: list[Pass]

    @property
    def tokens(self) -> int:
        """How many go through the model, padding not counted."""
        return len(self.header) + sum(len(row) for batch in self.batches for row in batch.rows)


def lay_out(
    sequences: Sequence[Tokens], firsts: Sequence[int], limits: PassLimits, *, headed: bool = True
) -> Packing:
    """A layout for ``sequences``: a function of their set alone, longest rows first.

    Args:
        sequences: tokens.
        firsts: the position in each sequence from which on its logits are wanted.
        limits: of a batch.
        headed: whether what all begin with may be taken out, for a cache.
    """
    branching = max(map(len, sequences)) <= limits.reach
    header = 0
    if (branching or limits.continues) and headed:
        first, last = min(sequences, key=tuple), max(sequences, key=tuple)
        header = min(shared_prefix(first, last), *firsts)
    rows = plant(sequences, header=header, branching=branching)
    if header < _HEADER or len(rows) == 1:
        header, rows = 0, plant(sequences, branching=branching)
    if branching:
        # The header's keys and values are copied for each row: short ones had better share a row.
        # Side by side they need no filling up, but attention is paid to columns that are masked.
        least = header // 4
        rooms = (least, max(least, len(rows[0])), max(least, 2 * len(rows[0])))
        rows = min(
            (pack(rows, room) for room in rooms), key=lambda rows: _cost(rows, header, limits)
        )
    wanted = [
        sorted({c for n, path in row.paths.items() for c in path[firsts[n] - header :]})
        for row in rows
    ]
    batches = []
    for group in _groups(rows, header, [len(columns) for columns in wanted], limits):
        places = [(at, column) for at, number in enumerate(group) for column in wanted[number]]
        logit = {place: number for number, place in enumerate(places)}
        reads = [
            Read(n, at, path, [logit[at, column] for column in path[firsts[n] - header :]])
            for at, number in enumerate(group)
            for n, path in rows[number].paths.items()
        ]
        batches.append(Pass([rows[number] for number in group], places, reads))
    return Packing(sequences[0][:header], batches)


def _groups(
    rows: Sequence[TreeRow], header: int, wanted: Sequence[int], limits: PassLimits
) -> Iterator[list[int]]:
    """The rows of each batch, by number: as many as memory is meant to hold, but one at least."""
    group: list[int] = []
    for number in range(len(rows)):
        size, width = len(group) + 1, len(rows[group[0] if group else number])
        logits = sum(wanted[n] for n in [*group, number]) * limits.vocabulary
        if group and (
            size * width > limits.tokens
            or size * (header + width) > CACHED * limits.tokens
            or logits > _LOGITS
        ):
            yield group
            group = []
        group.append(number)
    yield group


def _cost(rows: Sequence[TreeRow], header: int, limits: PassLimits) -> int:
    """What the batches of ``rows`` compute, in pairs of a token and a column."""
    groups = _groups(rows, header, [0] * len(rows), limits)
    sizes = ((len(group), len(rows[group[0]])) for group in groups)
    return sum(count * width * (PAIRS + header + width) for count, width in sizes)
