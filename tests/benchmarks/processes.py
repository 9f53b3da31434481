"""Whole processes, measured: wall and CPU seconds, resident and anonymous memory at their peaks."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Attributes:
        wall: seconds.
        cpu: seconds, user and system, all threads.
        resident: sampled peak of its memory, mapped files included, bytes.
        anonymous: sampled peak of its memory, mapped files not included, bytes.
    """

    wall: float
    cpu: float
    resident: int
    anonymous: int


def run(command: Sequence[str | Path], environment: Mapping[str, str] = {}) -> Cost:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
        peak, ended = {"RssAnon": 0, "VmHWM": 0}, threading.Event()
        sampler = threading.Thread(target=_sample, args=(process.pid, peak, ended))
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        ended.set()
        sampler.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            text = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(map(str, command))}: exit {process.returncode}\n{text}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak["VmHWM"], peak["RssAnon"])


def _sample(pid: int, peak: dict[str, int], ended: threading.Event) -> None:
    """Note the highest of each of the fields of ``peak`` until the process ends.

    ``ru_maxrss`` would not do: a child inherits what its parent had when it was forked.
    """
    status = Path(f"/proc/{pid}/status")
    while not ended.wait(0.004):
        try:
            lines = status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return
        for line in lines:
            field, _, value = line.partition(":")
            if field in peak:
                peak[field] = max(peak[field], int(value.split()[0]) * 1024)
