"""The head of a cluster, and how long it has been away."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

# as it is now: code of the user's may not end the process by it meanwhile, this may
from os import _exit

from evomerge.errors import RunError
from evomerge.pool.ray.knocking import answers

GLANCE = 2.0  # seconds that it may take to answer, for one look
PATIENCE = 20.0  # seconds that it may be away
LONGEST = 45.0  # the same while the driver waits in a call of Ray's; after 60 Ray itself aborts the process


class ClusterHead:
    """The head at a host and port.

    Args:
        place: its host and port.
        connected: whether this process is connected to it, by a connection of ours; None: not by one of ours.

    A call of Ray's to a head that is gone waits, and ends the process in words of its own. Where the connection is ours
    a thread does so before, in ours, until this is closed; all that was answered is on the disk.
    """

    def __init__(self, place: tuple[str, int], connected: Callable[[], bool] | None = None) -> None:
        self._place = place
        self._away: float | None = None  # since when, as the driver saw it
        self._looked = time.monotonic()  # when the driver did
        self._closed = threading.Event()
        if connected is not None:
            watch = threading.Thread(target=self._watch, args=(connected,), daemon=True)
            watch.name = "evomerge-head"
            watch.start()

    @property
    def present(self) -> bool:
        """Whether it answers now; while it does not, nothing may be asked of it.

        Raises:
            RunError: it has been away for too long.
        """
        self._looked = now = time.monotonic()
        if answers(self._place, GLANCE):
            self._away = None
            return True
        self._away = now if self._away is None else self._away
        if now - self._away >= PATIENCE:
            self.close()
            raise RunError(self._gone(PATIENCE))
        return False

    @property
    def reached(self) -> bool:
        """Whether it answered when it was looked for last."""
        return self._away is None

    def close(self) -> None:
        """Look for it no more."""
        self._closed.set()

    def _watch(self, connected: Callable[[], bool]) -> None:
        away = (
            0.0  # seconds, as far as it was looked for: a process may have been stopped in between
        )
        while not self._closed.wait(GLANCE) and connected():
            away = 0.0 if answers(self._place, GLANCE) else away + GLANCE
            waits = time.monotonic() - self._looked >= PATIENCE
            if away >= LONGEST and waits and not self._closed.is_set():
                print(f"evomerge: {self._gone(LONGEST)}", file=sys.stderr, flush=True)
                _exit(1)

    def _gone(self, seconds: float) -> str:
        host, port = self._place
        return (
            f"the head of the Ray cluster at {host}:{port} has not answered for {seconds:g} s: it died, or the "
            "network to it. What was answered is kept: start the cluster again, and resume the run"
        )
