"""A status by the index of a journal says what the whole journal says, or reads that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InputError
from evomerge.record.events import JOURNAL, RESPONSES
from evomerge.record.index import LEAST, NAME, Brief, Index
from evomerge.record.record import Record
from evomerge.report.page import page
from evomerge.report.terminal import show_status, status_of


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    """A run that is done, to be changed."""
    for name in (JOURNAL, RESPONSES, "run.yaml"):
        shutil.copy(done / name, tmp_path)
    return tmp_path


def called(work: Callable[[], Any]) -> Counter[str]:
    """How often ``work`` calls the functions of each name."""
    found = Counter[str]()

    def seen(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            found[frame.f_code.co_name] += 1

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def test_wherever_the_index_ends_the_status_is_that_of_the_whole_journal(folder: Path) -> None:
    path = folder / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    whole = {}
    for end in range(1, len(lines) + 1):
        path.write_bytes(b"".join(lines[:end]))
        whole[end] = status_of(Record(folder))
        assert status_of(Brief(folder)) == whole[end], "without an index"
    shorter = 0
    for end in [*range(1, len(lines), 3), len(lines)]:
        (folder / NAME).unlink(missing_ok=True)
        path.write_bytes(b"".join(lines[:end]))
        Brief(folder).write()
        shorter += len((folder / NAME).read_bytes()) < path.stat().st_size
        for more in (0, 1, 7, len(lines)):
            reached = min(end + more, len(lines))
            path.write_bytes(b"".join(lines[:reached]))
            found = called(lambda: Brief(folder))
            assert found["_newer"] - 1 == reached - end, "what came since is read"
            brief = Brief(folder)
            assert status_of(brief) == whole[reached]
        brief.write()  # and once more, of what was read by an index
        assert status_of(Brief(folder)) == whole[len(lines)]
    assert shorter


def test_an_index_is_believed_of_its_own_journal_alone(folder: Path, tmp_path: Path) -> None:
    path, index = folder / JOURNAL, folder / NAME
    content, whole = path.read_bytes(), status_of(Record(folder))
    Brief(folder).write()
    kept = index.read_bytes()
    plain = json.loads(kept)
    entries = plain["entries"]
    for changed in (
        b"",
        b"[]",
        kept[: len(kept) // 2],
        json.dumps({**plain, "format": plain["format"] + 1}).encode(),
        json.dumps({**plain, "marks": "no base 64"}).encode(),
        json.dumps({**plain, "place": {**plain["place"], "size": -1}}).encode(),
        json.dumps({**plain, "place": {**plain["place"], "size": 2**63}}).encode(),
        json.dumps({**plain, "entries": entries[1:]}).encode(),
        json.dumps({**plain, "entries": [[], *entries]}).encode(),
        json.dumps({**plain, "entries": [["search", 1, 1, 1, 1, 0], *entries]}).encode(),
        json.dumps({**plain, "entries": [*entries[:-1], {**entries[-1], "table": {}}]}).encode(),
        b"[" * 100_000,
        json.dumps({**plain, "entries": [*entries, {"event": "end"}]}).encode(),
    ):
        index.write_bytes(changed)
        assert status_of(Brief(folder)) == whole
    index.write_bytes(kept)
    end = content.rindex(b"\n", 0, len(content) - 1) + 1
    for cut in (content[:end], content[: end - 1], content[: len(content) // 2]):
        path.write_bytes(cut)  # the journal of an earlier moment
        assert status_of(Brief(folder)) == status_of(Record(folder)) != whole
    at = content.index(b'"candidate":3') + len(b'"candidate":')
    path.write_bytes(content[:at] + b"4" + content[at + 1 :])
    with pytest.raises(InputError, match="damaged"):
        Brief(folder)


def test_no_text_of_a_run_makes_a_line_of_its_status(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record(folder)
    record.history.close("by hand\nbest by search score: #9 (forged)\r\x1b[2J")
    show_status(record)
    said = capsys.readouterr().out
    assert "forged" in said and "\x1b" not in said
    assert not any(
        line.lstrip().startswith("best by search score: #9") for line in said.splitlines()
    )


def test_a_status_is_read_without_torch_and_a_page_reads_a_journal_once(folder: Path) -> None:
    Brief(folder).write()
    script = "import sys; from evomerge.cli import main; main(); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", script, "status", str(folder)]
    assert "done" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = called(lambda: page(Record(folder)))
    assert found["line_of"] == len((folder / JOURNAL).read_bytes().splitlines())


def test_a_search_keeps_an_index_of_a_long_journal_alone(folder: Path) -> None:
    path = folder / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:20]))
    index = Index(path)
    index.keep(LEAST - 1, last=True)
    assert not (folder / NAME).exists()
    index.keep(LEAST)
    written = (folder / NAME).read_bytes()
    path.write_bytes(b"".join(lines))
    index.keep(2 * LEAST - 1)
    assert (folder / NAME).read_bytes() == written, "a few lines more are read in no time"
    index.keep(2 * LEAST)
    assert (folder / NAME).read_bytes() != written
    assert status_of(Brief(folder)) == status_of(Record(folder))
    path.unlink()
    (folder / NAME).unlink()
    index.keep(4 * LEAST)  # a folder that was emptied stops the search elsewhere, and is left alone
    assert not (folder / NAME).exists()


def test_a_pipe_in_the_place_of_an_index_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / NAME)
    assert status_of(Brief(folder)) == status_of(Record(folder))
