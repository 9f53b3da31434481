"""All tests as two pytest processes side by side, which two cores run in little more than half the time; ``make test``.

    python tests/halves.py [ARGUMENTS OF PYTEST ...]

Each half takes about as long as the other. Lines of both are printed as they come, marked by whose they are;
what failed in either is said once more at the end, where it is looked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

TESTS = Path(__file__).parent
FIRST = (
    "run", "optimizers", "evolution", "judging", "record", "report", "suite", "hub", "space", "trackers",
)  # fmt: skip
TOLD_AGAIN = ("FAILED ", "ERROR ", "E  ")
NOTHING_ASKED = 5  # pytest's status where its arguments leave out every test of a half


def main() -> int:
    first = [str(TESTS / name) for name in FIRST]
    rest = [str(TESTS), *(f"--ignore={name}" for name in first)]
    # a thread of torch a core and half; a pool of threads in each would only wait for the other
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    halves = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", *sys.argv[1:], *paths],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )
        for paths in (first, rest)
    ]
    failed: list[str] = []
    readers = [
        threading.Thread(target=show, args=(half, f"{number}| ", failed))
        for number, half in enumerate(halves, start=1)
    ]
    try:
        for reader in readers:
            reader.start()
        found = {half.wait() for half in halves}
    except KeyboardInterrupt:  # both hear it themselves
        found = {half.wait() for half in halves}
    for reader in readers:
        reader.join()
    print(*failed, sep="", end="", flush=True)
    return max(found - {NOTHING_ASKED}, default=NOTHING_ASKED if found else 0)


def show(half: subprocess.Popen[str], mark: str, failed: list[str]) -> None:
    """Print every line of ``half`` with ``mark`` before it, and keep in ``failed`` those that tell of a failure."""
    assert half.stdout is not None
    for line in half.stdout:
        print(mark + line, end="", flush=True)
        if line.startswith(TOLD_AGAIN):
            failed.append(mark + line)


if __name__ == "__main__":
    sys.exit(main())
