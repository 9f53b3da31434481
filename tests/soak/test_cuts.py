"""The record of a real search, cut at every byte, flipped at random, gone on from at every line; ``make soak``."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from evomerge.commands.search import search
from evomerge.errors import InputError
from evomerge.record.events import JOURNAL, RESPONSES
from evomerge.record.journal import Journal, read
from evomerge.record.record import Record
from evomerge.testing.trajectory import trajectory

FLIPS = 5_000
SOAK = os.environ.get("EVOMERGE_TEST_SOAK", "")
SEED = os.environ.get("EVOMERGE_TEST_SEED", "0")

pytestmark = pytest.mark.skipif(not SOAK, reason="minutes: make soak")

WriteJob = Callable[..., Path]


@pytest.fixture(scope="module")
def whole(
    write_job: WriteJob, small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a search that nothing disturbed."""
    folder = write_job(tmp_path_factory.mktemp("soak") / "whole", **small)
    search(folder)
    return folder


def test_cut_at_every_byte_it_is_what_was_whole(whole: Path, tmp_path: Path) -> None:
    content = (whole / JOURNAL).read_bytes()
    lines = content.splitlines(keepends=True)
    ends = [sum(map(len, lines[:count])) for count in range(len(lines) + 1)]
    path = tmp_path / JOURNAL
    for count, (begin, end) in enumerate(pairwise(ends)):
        path.write_bytes(content[:begin])
        kept = read(path)
        assert len(kept) == count
        for cut in range(begin, end):
            path.write_bytes(content[:cut])
            with Journal.open(path) as journal:
                assert journal.count == count and read(path) == kept, cut
            assert path.stat().st_size == begin, cut


def test_a_flipped_bit_is_named_or_never_was(whole: Path, tmp_path: Path) -> None:
    """By its line, whether the journal or the answers hold it; a search changes nothing then."""
    draw = random.Random(f"flip {SEED}")
    folder = tmp_path / "flipped"
    shutil.copytree(whole, folder)
    files = {name: (whole / name).read_bytes() for name in (JOURNAL, RESPONSES)}
    torn = files[JOURNAL].rstrip(b"\n").rfind(b"\n") + 1  # where the last line begins
    for number in range(FLIPS):
        name = draw.choice(list(files))
        content = bytearray(files[name])
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(content)
        try:
            record = Record(folder)
            with record.open_responses() as store:
                for block in store.blocks:
                    store.read(block)
        except InputError as error:
            assert JOURNAL in str(error) or RESPONSES in str(error), (number, name, bit)
        else:
            assert name == JOURNAL and bit // 8 >= torn, (number, name, bit)
        assert (folder / name).read_bytes() == content, "a reader changes nothing"
        (folder / name).write_bytes(files[name])


def test_gone_on_from_any_line_it_ends_alike(
    whole: Path, write_job: WriteJob, small: dict[str, Any], tmp_path: Path
) -> None:
    lines = (whole / JOURNAL).read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        folder = write_job(tmp_path / f"from {count}", **small)
        (folder / JOURNAL).write_bytes(b"".join(lines[:count]))
        shutil.copy(whole / RESPONSES, folder / RESPONSES)
        search(folder)
        assert trajectory(folder) == trajectory(whole), count
        assert (folder / RESPONSES).read_bytes() == (whole / RESPONSES).read_bytes(), count
