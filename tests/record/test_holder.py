"""Who works on a run: told while it lives, and known for dead when it was killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from evomerge.record.holder import NAME, holder_of, holding

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


def test_what_is_no_such_file_tells_nothing(tmp_path: Path) -> None:
    for text in ("", "[]", '{"pid": "x"}', "\x00"):
        (tmp_path / NAME).write_text(text)
        assert holder_of(tmp_path) is None


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    with holding(tmp_path / "nowhere"):
        assert holder_of(tmp_path / "nowhere") is None
