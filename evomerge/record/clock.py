"""The time of what a journal says. Within a process it never jumps, whoever sets the machine's clock meanwhile."""

from __future__ import annotations

import time

LONGEST = 2.5e11  # seconds; no moment and no wait is more: calendars end with year 9999
_WALL, _STEADY = time.time(), time.monotonic()


def now() -> float:
    """Seconds since the epoch, by the clock as it was when this process began."""
    return _WALL + time.monotonic() - _STEADY
