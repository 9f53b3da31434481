"""A run folder that somebody else made: nothing outside of it is written, nothing in it is waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evomerge.errors import InputError
from evomerge.evolution.history import Evaluation, Phase
from evomerge.objects import read_text
from evomerge.record.events import (
    JOURNAL,
    RESPONSES,
    AskedLine,
    BatchLine,
    CandidateLine,
    EvaluationLine,
    lines_of,
    read_lines,
)
from evomerge.record.holder import NAME, announce, holder_of, holding
from evomerge.record.journal import Journal, text_of
from evomerge.record.looks import Book
from evomerge.record.responses import Block, Store
from evomerge.rows import RowWeights
from evomerge.suite.splits import Split
from evomerge.trackers.tracking import STATE, told_in

CANARY = b"not to be written"
Lead = Callable[[Path, Path], None]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "canary"
    path.parent.mkdir()
    path.write_bytes(CANARY)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


@pytest.mark.parametrize("lead", [link, hard_link])
def test_nothing_is_written_through_a_link(lead: Lead, folder: Path, canary: Path) -> None:
    for name in (NAME, JOURNAL, RESPONSES):
        lead(folder / name, canary)
    with holding(folder):
        announce(folder, 1.0)
    assert canary.read_bytes() == CANARY
    with pytest.raises(InputError, match="link"):
        Journal.open(folder / JOURNAL)
    with pytest.raises(InputError, match="link"):
        Store.open(folder / RESPONSES, {"task": ["a"]})
    assert canary.read_bytes() == CANARY


def test_a_file_that_is_no_journal_is_not_cut(folder: Path) -> None:
    path = folder / JOURNAL
    path.write_bytes(CANARY)
    with pytest.raises(InputError, match=r"journal\.jsonl: is no journal"):
        Journal.open(path)
    assert path.read_bytes() == CANARY
    for begun in (b'{"ev', b'{"event":"run","ti', b"\0\0\0"):  # what a crash leaves
        path.write_bytes(begun)
        Journal.open(path).close()
        assert path.read_bytes() == b""


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: link(path, Path("/dev/zero"))])
def test_pipes_and_devices_are_refused(make: Callable[[Path], None], folder: Path) -> None:
    for name in (NAME, RESPONSES, "texts.jsonl", "rows.safetensors"):
        make(folder / name)
    assert holder_of(folder) is None
    with pytest.raises(InputError, match=RESPONSES):
        Store.open(folder / RESPONSES, {"task": ["a"]}, writable=False)
    with pytest.raises(InputError, match=r"texts\.jsonl"):
        read_text(folder / "texts.jsonl")
    with pytest.raises(InputError, match=r"rows\.safetensors"):
        RowWeights("rows.safetensors", "0" * 64, str(folder)).read()


@pytest.mark.parametrize("content", [None, "[" * 100_000, "[]", '{"a":1e999}', '{"a":[]}', "\xff"])
def test_companions_may_be_nonsense(content: str | None, folder: Path) -> None:
    for name in (STATE, "fitness.looks.jsonl"):
        if content is None:
            os.mkfifo(folder / name)
        else:
            (folder / name).write_bytes(content.encode("latin-1"))
    assert told_in(folder) == {}
    spec = SimpleNamespace(file=folder / "fitness.yaml")
    book = Book(SimpleNamespace(spec=spec, splits={Split.REPORT: {}}, scorers={}))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"fitness\.looks\.jsonl"):
        book.read().refuse()


def test_who_works_there_may_be_nonsense(folder: Path) -> None:
    (folder / NAME).write_text("[" * 1024)
    assert holder_of(folder) is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1", "1e13", "2.6e11"])
def test_a_journal_holds_no_time_beyond_all_clocks(number: str, folder: Path) -> None:
    body = f'{{"event":"session","time":{number}}}'.encode()
    (folder / JOURNAL).write_bytes(body[:-1] + b',"sum":"%08x"}\n' % zlib.crc32(body))
    with pytest.raises(InputError, match=r"is no time|beyond all numbers"):
        list(read_lines(folder / JOURNAL))


@pytest.mark.parametrize(
    "change",
    [
        {"items": -1},
        {"tokens": 10**13},
        {"seconds": {"merge": -1.0}},
        {"seconds": {"score": 1e300}},
        {"seconds": {"merge": 7e10}},
        {"block": [-1, 10, 10]},
        {"block": [0, 2**63, 10]},
    ],
)
def test_no_worker_did_what_none_can_do(change: dict[str, Any], folder: Path) -> None:
    found = EvaluationLine.of(Evaluation(0, 0, None, "it failed"), block=None, seconds={})
    assert list(lines_of(folder, [text_of(found.plain)], before=1)) == [found]
    with pytest.raises(InputError, match=r"items, tokens or bytes|seconds of work"):
        list(lines_of(folder, [text_of(found.plain | change)], before=1))


def test_a_key_that_nobody_knows_is_named_on_one_short_line(folder: Path) -> None:
    event = {"event": "session", "time": 1.0, "x`\nevomerge: all is well\n" + "y" * 9000: 1}
    with pytest.raises(InputError, match="unknown field") as caught:
        list(lines_of(folder, [text_of(event)]))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_block_beyond_its_file_takes_no_memory(folder: Path) -> None:
    with Store.open(folder / RESPONSES, {"task": ["a"]}):
        pass
    with pytest.raises(InputError, match=r"responses\.bin: damaged"):
        Store.open(folder / RESPONSES, {"task": ["a"]}, [Block(0, 10**12, 5, 1)], writable=False)


@pytest.mark.parametrize("gene", [-0.1, 1.1])
def test_a_gene_lies_where_genes_lie(gene: float, folder: Path) -> None:
    candidate = CandidateLine(3, "cma", (0.5, gene), {}, False)
    line = BatchLine(
        time=1.0, batch=0, phase=Phase.SEARCH, items=AskedLine("0", {}), progress=0.0, seen=0,
        candidates=(candidate,), fresh=False,
    )  # fmt: skip
    with pytest.raises(InputError, match="gene of candidate 3 is not between 0 and 1"):
        list(lines_of(folder, [text_of(line.plain)], before=1))


def test_the_current_folder_holds_no_plugins(folder: Path) -> None:
    info = folder / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[evomerge]\nevil = evil\n")
    for name in ("evil", "argparse", "logging", "pathlib"):
        (folder / f"{name}.py").write_text("open('canary', 'w')\n")
    path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
    done = subprocess.run(
        [sys.executable, "-m", "evomerge", "methods", "--json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "canary").exists()
