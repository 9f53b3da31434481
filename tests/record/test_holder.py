"""Who works on a run: told while it lives, and known for dead when it was killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from evomerge.record.holder import NAME, announce, holder_of, holding

HOLDS = (
    "import sys, time\nfrom pathlib import Path\nfrom evomerge.record.holder import holding\n"
    "with holding(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
)


def test_a_process_is_told_until_it_ends(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    with holding(tmp_path):
        found = holder_of(tmp_path)
        assert found is not None
        assert (found.pid, found.host, found.running) == (os.getpid(), socket.gethostname(), True)
        assert holder_of(tmp_path) == found, "looking changes nothing"
    assert holder_of(tmp_path) is None and not (tmp_path / NAME).exists()


def test_one_that_was_killed_is_known_for_dead(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    found = holder_of(tmp_path)
    assert found is not None and (found.pid, found.running) == (process.pid, True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = holder_of(tmp_path)
    assert left is not None and left.running is False
    with holding(tmp_path):  # the next one takes its place
        assert (now := holder_of(tmp_path)) is not None and now.running is True


def test_another_machines_process_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": 0}))
    found = holder_of(tmp_path)
    assert found is not None and found.running is None


def test_what_it_announces_is_known_with_its_age_until_it_ends(tmp_path: Path) -> None:
    announce(tmp_path, 60.0)
    assert not (tmp_path / NAME).exists(), "who does not hold it says nothing"
    with holding(tmp_path):
        assert (found := holder_of(tmp_path)) is not None and found.left is None
        before = time.time()
        announce(tmp_path, 3600.0)
        announce(tmp_path, 10.0)  # too soon after the other to be heard
        found = holder_of(tmp_path)
        assert found is not None and found.announced is not None
        assert (found.left, found.running, found.pid) == (3600.0, True, os.getpid())
        assert before <= found.announced <= time.time()
        said = json.loads((tmp_path / NAME).read_text())
        (tmp_path / NAME).write_text(json.dumps(said | {"announced": found.announced - 60}))
        announce(tmp_path, 10.0, 60.0)
        later = holder_of(tmp_path)
        assert later is not None and (later.left, later.limit) == (10.0, 60.0)
        (tmp_path / NAME).write_text(json.dumps(said | {"pid": 1, "announced": 0}))
        announce(tmp_path, 5.0)
        assert (other := holder_of(tmp_path)) is not None and other.left == 3600.0, "not ours"
    assert holder_of(tmp_path) is None


def test_what_is_no_such_file_tells_nothing(tmp_path: Path) -> None:
    good = {"pid": 1, "host": "a", "since": 0, "left": 5, "announced": 1}
    bad = [{"pid": 1e999}, {"left": -1}, {"limit": "long"}, {"left": "soon"}, {"announced": 1e999}]
    texts = [json.dumps(good | each) for each in bad]
    for text in ("", "[]", '{"pid": "x"}', "\x00", *texts):
        (tmp_path / NAME).write_text(text)
        assert holder_of(tmp_path) is None


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    with holding(tmp_path / "nowhere"):
        assert holder_of(tmp_path / "nowhere") is None
