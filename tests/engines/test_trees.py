"""A row of token trees shows every token its own past, whole and alone."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from evomerge.engines.huggingface.batches import CACHED, PassLimits, lay_out
from evomerge.engines.huggingface.trees import TreeRow, pack, plant

Sequences = list[list[int]]
few_letters = st.lists(st.integers(0, 2), min_size=1, max_size=12)
sequences = st.lists(few_letters, min_size=1, max_size=12)


def seen_by(row: TreeRow, column: int) -> list[int]:
    return [k for k, end in enumerate(row.ends) if k <= column < end]


def assert_holds(rows: list[TreeRow], expected: Sequences) -> None:
    found = {number: (row, path) for row in rows for number, path in row.paths.items()}
    assert sorted(found) == list(range(len(expected)))
    for number, (row, path) in found.items():
        assert [row.tokens[column] for column in path] == expected[number]
        assert [row.depths[column] for column in path] == list(range(len(path)))
        assert seen_by(row, path[-1]) == path


@given(sequences, st.booleans(), st.integers(0, 40))
def test_a_token_sees_its_own_past_alone(asked: Sequences, branching: bool, room: int) -> None:
    rows = plant(asked, branching=branching)
    assert_holds(rows, asked)
    assert branching or not any(row.branches for row in rows)
    packed = pack(rows, room)
    assert_holds(packed, asked)
    assert all(len(row) <= max(room, len(rows[0])) for row in packed)


@given(sequences, st.randoms())
def test_rows_do_not_depend_on_the_order(asked: Sequences, chance: random.Random) -> None:
    shuffled = list(asked)
    chance.shuffle(shuffled)
    assert [row.tokens for row in plant(asked)] == [row.tokens for row in plant(shuffled)]


def test_choices_share_their_context() -> None:
    context, other = list(range(100)), list(range(100, 200))
    asked = [[*context, 7], [*context, 8], [*context, 8, 9], context, [*other, 7]]
    rows = plant(asked)
    assert [len(row) for row in rows] == [103, 101]
    assert [len(row) for row in plant(asked, branching=False)] == [102, 101, 101]
    assert [len(row) for row in plant([one[:1] * 9 + one for one in asked], header=9)] == [103, 101]


@given(sequences, st.integers(1, 40), st.integers(0, 20))
def test_a_layout_reads_everything_within_its_limits(
    asked: Sequences, tokens: int, common: int
) -> None:
    asked = [[5] * common + sequence for sequence in asked]
    firsts = [len(sequence) // 2 for sequence in asked]
    layout = lay_out(asked, firsts, PassLimits(tokens, vocabulary=10, reach=99))
    header = len(layout.header)
    reads = [(batch, read) for batch in layout.batches for read in batch.reads]
    assert sorted(read.sequence for _, read in reads) == list(range(len(asked)))
    for batch, read in reads:
        row, sequence = batch.rows[read.row], asked[read.sequence]
        assert [*layout.header, *(row.tokens[c] for c in read.path)] == sequence
        where = [batch.wanted[logit] for logit in read.logits]
        assert where == [(read.row, c) for c in read.path[firsts[read.sequence] - header :]]
    for batch in layout.batches:
        rows = len(batch.rows)
        assert rows == 1 or rows * batch.width <= tokens
        assert rows == 1 or rows * (header + batch.width) <= CACHED * tokens
    assert layout.tokens <= sum(map(len, asked))
