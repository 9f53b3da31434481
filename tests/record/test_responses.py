from __future__ import annotations

import os
import resource
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import InputError, RunError
from evomerge.record.responses import Block, Store

INVENTORY = {"sums": [f"s{n}" for n in range(12)], "texts": [f"t{n}" for n in range(5)]}

numbers = st.floats(allow_nan=False, allow_infinity=False)
columns = st.sampled_from(
    [
        st.none() | st.sampled_from([0.0, 1.0, -0.0, 0.5, 1e300, 2.0**-149, 0.1]),
        st.none() | numbers,
        st.none() | st.integers(-(2**70), 2**70),
        st.none() | st.integers(0, 255),
        st.none() | st.booleans(),
        st.tuples(numbers, st.integers()).map(list),
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    ]
)


@st.composite
def results(draw: st.DrawFn) -> dict[str, Any]:
    found = {}
    for scorer in draw(st.lists(st.sampled_from(list(INVENTORY)), unique=True)):
        items = draw(st.lists(st.sampled_from(INVENTORY[scorer]), unique=True))
        count = len(items)
        names = draw(st.lists(st.sampled_from(["acc", "margin", "f1"]), unique=True))
        found[scorer] = {
            "items": items,
            "responses": draw(st.lists(st.text(max_size=3), min_size=count, max_size=count)),
            "metrics": {
                name: draw(st.lists(draw(columns), min_size=count, max_size=count))
                for name in names
            },
            "tokens": draw(st.integers(0, 10**6)),
        }
    return found


@settings(deadline=None, max_examples=100)
@given(added=st.lists(results(), max_size=4))
def test_what_was_appended_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, added: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "responses.bin"
    with Store.open(path, INVENTORY) as store:
        places = [store.append(one) for one in added]
        # equal, of equal types and signs of zero
        assert repr([store.read(place) for place in places]) == repr(added)
    with Store.open(path, INVENTORY, places, writable=False) as store:
        assert repr([store.read(place) for place in places]) == repr(added)


def asked(draw: np.random.Generator, scorer: str, items: np.ndarray) -> dict[str, Any]:
    return {
        scorer: {
            "items": [INVENTORY[scorer][at] for at in items],
            "responses": [""] * len(items),
            "metrics": {
                "acc": draw.integers(0, 2, len(items)).astype(float).tolist(),
                "margin": [None if v < -1 else v for v in draw.normal(size=len(items)).tolist()],
                "pairs": [[1.0, 2]] * len(items),
            },
            "tokens": 1,
        }
    }


def test_the_matrix_holds_every_value_in_its_place(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    subsets = [draw.permutation(12)[: 1 + n % 12] for n in range(40)] + [np.arange(3, 9)]
    added = [asked(draw, "sums", items) for items in subsets] + [asked(draw, "texts", np.arange(5))]
    with Store.open(tmp_path / "r", INVENTORY) as store:
        for one in added:
            store.append(one)
        for metric in ("acc", "margin", "absent"):
            expected = np.full((len(added), 12), np.nan)
            for row, items in enumerate(subsets):
                values = added[row]["sums"]["metrics"].get(metric, [None] * len(items))
                expected[row, items] = [np.nan if value is None else value for value in values]
            np.testing.assert_array_equal(store.matrix("sums", metric), expected)
        with pytest.raises(InputError, match="'pairs' are not numbers"):
            store.matrix("sums", "pairs")
    with Store.open(tmp_path / "empty", INVENTORY) as store:
        assert store.matrix("sums", "acc").shape == (0, 12)


ONE = asked(np.random.default_rng(1), "sums", np.arange(12))


def test_what_no_line_names_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "responses.bin"
    with Store.open(path, INVENTORY) as store:
        places = [store.append(ONE) for _ in range(3)]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with Store.open(path, INVENTORY, places[:2]) as store:
        assert store.append(ONE) == places[2]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", ["absent", "short", "flipped"])
def test_a_damaged_block_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "responses.bin"
    with Store.open(path, INVENTORY) as store:
        places = [store.append(ONE) for _ in range(2)]
    named = [Block(p.offset, p.size, p.crc, line) for line, p in zip((7, 9), places, strict=True)]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes({"absent": b"", "short": content[:-3], "flipped": content}[damage])
    line = 7 if damage == "absent" else 9
    with pytest.raises(InputError, match=rf"delete line {line} .*resumes from line {line - 1}"):
        Store.open(path, INVENTORY, named)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "responses.bin"
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store.open(path, INVENTORY) as store:
        first = store.append(ONE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (first.size + 10, hard))
        try:
            with pytest.raises(RunError, match=r"disk is full.*make room and resume"):
                store.append(ONE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert os.path.getsize(path) == first.size
        assert store.append(ONE).offset == first.size
        assert store.matrix("sums", "acc").shape == (2, 12)


def test_numbers_are_narrow_and_the_checksum_is_crc_32(tmp_path: Path) -> None:
    count = 4000
    inventory = {"s": [str(n) for n in range(count)]}
    flags = {**ONE["sums"], "items": inventory["s"], "responses": [0] * count}
    with Store.open(tmp_path / "r", inventory) as store:
        sizes = [
            store.append({"s": {**flags, "metrics": {"m": [value] * count}}}).size
            for value in (1.0, 300.0, 0.5, 0.1)
        ]
        place = store.blocks[0]
        assert zlib.crc32((tmp_path / "r").read_bytes()[: place.size]) == place.crc
    widths = [round((size - sizes[0]) / count) for size in sizes]
    assert widths == [0, 1, 3, 7]
