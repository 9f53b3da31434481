"""Processes that run the command line, to be killed while they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PATIENCE = 120.0  # seconds that a loaded machine may take


class Drivers:
    """Makes drivers: processes that run ``evomerge`` with some arguments, one at a time.

    They are forked from one process that has done the imports, so that a resume costs a fraction of a second.
    """

    SOURCE = """
import json, os, sys
import evomerge.report.terminal, evomerge.run, evomerge.worker, evomerge.scorers.lm_eval, evomerge.pool.ray, ray
from evomerge.cli import main
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        arguments, environment = json.loads(line)
        os.environ.update(environment)
        sys.exit(main(arguments))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

    def __init__(
        self, folder: Path, *installed: Path, environment: Mapping[str, str] | None = None
    ):
        """Drivers that work in ``folder`` and see what is ``installed`` in others, too."""
        path = os.pathsep.join(map(os.path.abspath, [*map(str, installed), *sys.path]))
        self.output = folder / "output.txt"
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.SOURCE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(folder)} | dict(environment or {}),
        )

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> int:
        """The pid of a new driver."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, dict(environment or {})]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def status(self) -> int:
        """The exit status of the driver, once it has ended; negative: the signal that ended it."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def run(self, *arguments: object, status: int = 0) -> str:
        """What a driver prints that ends with the ``status``."""
        self.start(*map(str, arguments))
        found, printed = self.status(), self.output.read_text()
        assert found == status, printed
        return printed

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)


def await_size(journal: Path, size: int, over: Callable[[], bool] = lambda: False) -> None:
    """Until ``journal`` has grown to ``size`` bytes, or all is ``over``."""
    deadline = time.monotonic() + PATIENCE
    while (not journal.exists() or journal.stat().st_size < size) and not over():
        assert time.monotonic() < deadline, "the search stands still"
        time.sleep(0.002)
