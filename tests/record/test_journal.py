from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import InputError, RunError
from evomerge.record import journal
from evomerge.record.journal import Journal

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.sampled_from('a"\\\n\r\0é\u2028ไ😀\ud800'), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
events = st.lists(st.fixed_dictionaries({"event": st.just("told"), "data": plain}), max_size=5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def write(path: Path, *added: dict[str, Any]) -> None:
    with Journal.open(path) as log:
        for event in added:
            log.append(event)


def same(left: object, right: object) -> bool:
    """Equal, and of equal types and signs of zero."""
    return repr(left) == repr(right)


@settings(deadline=None)
@given(added=events)
def test_what_was_appended_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, added: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "journal.jsonl"
    with Journal.open(path) as log:
        for event in added:
            log.append(event)
        assert same(journal.read(path), added)
    with Journal.open(path) as log:
        assert same(journal.read(path), added)


@settings(deadline=None)
@given(added=events, data=st.data())
def test_a_journal_cut_at_any_byte_reopens_to_a_prefix_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, added: list[dict[str, Any]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("run") / "journal.jsonl"
    write(path, *added)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = added[: content[:cut].count(b"\n")]
    assert same(journal.read(path), whole)
    with Journal.open(path) as log:
        assert same(journal.read(path), whole)
        log.append({"event": "resumed"})
    assert same(journal.read(path), [*whole, {"event": "resumed"}])


@pytest.mark.parametrize("tail", [b'{"event":', b'{"event":"told"}', b"\0\0\0", b"\xff\n", b"\0\n"])
def test_a_torn_tail_never_happened(path: Path, tail: bytes) -> None:
    write(path, {"event": "started"})
    good = path.read_bytes()
    path.write_bytes(good + tail)
    assert journal.read(path) == [{"event": "started"}]
    assert path.read_bytes() == good + tail, "a reader changes nothing"
    Journal.open(path).close()
    assert path.read_bytes() == good


@pytest.mark.parametrize("line", [b"", b"{", b"[1]", b'{"kind":"told"}', b"\xff", b'{"event":"b"}'])
def test_a_bad_line_in_the_middle_is_named_and_nothing_is_cut(path: Path, line: bytes) -> None:
    write(path, {"event": "a"}, {"event": "b"}, {"event": "c"})
    first, _, last = path.read_bytes().splitlines(keepends=True)
    content = first + line + b"\n" + last
    path.write_bytes(content)
    for writable in (True, False):
        with pytest.raises(InputError, match=rf"{path}:2: .*damaged"):
            Journal.open(path, writable=writable)
    assert path.read_bytes() == content
    path.write_bytes(first)
    Journal.open(path).close()  # the failed open let go of the lock


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_flipped_bit_passes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """It is named by its line, or, in what makes a line one, an end that never happened."""
    path = tmp_path_factory.mktemp("run") / "journal.jsonl"
    added = [{"event": "told", "score": 0.1 * n, "genome": [n, 2 * n]} for n in range(4)]
    write(path, *added)
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    line = bytes(path.read_bytes()[: bit // 8]).count(b"\n") + 1
    try:
        found = journal.read(path)
    except InputError as error:
        assert re.search(rf":({line}|1): ", str(error))  # the first line may be of another format
    else:
        assert found == added[: len(found)] and len(found) == 3


def test_lines_that_are_gone_put_in_or_in_another_order_are_found(path: Path) -> None:
    write(path, *({"event": "told", "n": n} for n in range(4)))
    one, two, three, four = path.read_bytes().splitlines(keepends=True)
    for lines in ([one, three, four], [one, two, two, three], [one, three, two, four], [two]):
        path.write_bytes(b"".join(lines))
        with pytest.raises(InputError, match="damaged: this line, or lines before it"):
            journal.read(path)


def test_events_are_what_a_later_open_reads(path: Path) -> None:
    log = Journal.open(path)
    event: dict[str, Any] = {"event": "told", "scores": (1, 2), "nested": {"list": []}}
    log.append(event)
    event["nested"]["list"].append("changed later")
    assert journal.read(path) == [{"event": "told", "scores": [1, 2], "nested": {"list": []}}]
    log.close()


def test_one_writer_at_a_time(path: Path) -> None:
    with Journal.open(path) as log:
        log.append({"event": "started"})
        with pytest.raises(InputError, match=rf"another search is writing.*\(pid {os.getpid()}\)"):
            Journal.open(path)
        assert journal.read(Journal.open(path, writable=False).path) == [{"event": "started"}]
        log.append({"event": "told"})
    with Journal.open(path) as log:
        assert log.count == 2


def test_a_killed_writer_leaves_its_events_and_no_lock(path: Path) -> None:
    code = (
        "import sys, time; from evomerge.record.journal import Journal\n"
        "log = Journal.open(sys.argv[1]); log.append({'event': 'started'})\n"
        "print('ready', flush=True); time.sleep(3600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        with pytest.raises(InputError, match=rf"\(pid {writer.pid}\)"):
            Journal.open(path)
        writer.send_signal(signal.SIGKILL)
    with Journal.open(path):
        assert journal.read(path) == [{"event": "started"}]


def test_a_full_disk_loses_nothing(path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.open(path) as log:
        log.append({"event": "started"})
        before = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, hard))
        try:
            with pytest.raises(RunError, match=r"disk is full.*resume"):
                log.append({"event": "told", "responses": "x" * 5000})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert path.read_bytes() == before
        assert journal.read(path) == [{"event": "started"}]
        log.append({"event": "told"})
    assert journal.read(path) == [{"event": "started"}, {"event": "told"}]


def test_an_interrupted_append_leaves_no_half_a_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    with Journal.open(path) as log:
        log.append({"event": "started"})
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "fsync", interrupted)
            log.append({"event": "told"})
        log.append({"event": "stopped"})
    assert journal.read(path) == [{"event": "started"}, {"event": "stopped"}]


@pytest.mark.parametrize(
    "event", [{}, {"kind": "told"}, {"event": "told", "score": float("nan")}, {"event": {1, 2}}]
)
def test_what_is_not_an_event_is_refused_and_not_written(path: Path, event: dict[str, Any]) -> None:
    with Journal.open(path) as log:
        with pytest.raises((ValueError, TypeError)):
            log.append(event)
        assert path.read_bytes() == b"" and journal.read(path) == []


def test_a_reader_cannot_append(path: Path) -> None:
    write(path, {"event": "started"})
    with pytest.raises(ValueError, match="not open for writing"):
        Journal.open(path, writable=False).append({"event": "told"})
    log = Journal.open(path)
    log.close()
    with pytest.raises(ValueError, match="not open for writing"):
        log.append({"event": "told"})


def test_an_absent_journal(path: Path) -> None:
    for reader in (journal.read, lambda p: Journal.open(p, writable=False)):
        with pytest.raises(InputError, match="no such journal"):
            reader(path)
    assert not path.exists()
    with pytest.raises(InputError, match="cannot be written"):
        Journal.open(path.parent / "no folder" / "journal.jsonl")


def test_a_read_only_place_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:  # root may write anywhere but to the kernel's own files
        place = Path("/proc/journal.jsonl")
    else:
        tmp_path.chmod(0o555)
        place = tmp_path / "journal.jsonl"
    with pytest.raises(InputError, match="cannot be written"):
        Journal.open(place)
