"""A line of text that shows how a number went."""

from __future__ import annotations

from collections.abc import Sequence

BARS, PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"
WIDTH = 32


class Course:
    """The best so far, evaluation by evaluation, in at most ``2 WIDTH`` steps however long it is."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._each, self._waiting = 1, 0  # evaluations that a step stands for; of the next step

    def add(self, value: float) -> None:
        """The best so far is ``value`` now."""
        self._waiting += 1
        if self._waiting < self._each and self._values:
            self._values[-1] = value
            return
        self._values.append(value)
        self._waiting = 0
        if len(self._values) >= 2 * WIDTH:
            self._values = self._values[1::2]
            self._each *= 2

    def line(self, *, plain: bool = False) -> str:
        """``▁▁▃▅▆█``, from the least value to the greatest; empty where there are none, ``plain`` in ASCII."""
        return sparkline(self._values, PLAIN if plain else BARS)


def sparkline(values: Sequence[float], bars: str = BARS) -> str:
    """``values`` as bars, ``WIDTH`` at most: of a stretch the last one is shown."""
    if not values:
        return ""
    step = max(1.0, len(values) / WIDTH)
    count = min(WIDTH, len(values))
    shown = [values[min(len(values), round((n + 1) * step)) - 1] for n in range(count)]
    low, high = min(shown), max(shown)
    if high == low:
        return bars[0] * len(shown)
    return "".join(bars[round((v - low) / (high - low) * (len(bars) - 1))] for v in shown)
