"""Numbers of the driver that Ray's agents show to Prometheus, while the driver is connected to Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Gauges:
    """Gauges of Ray; it calls them ``ray_NAME``.

    Args:
        meanings: name -> what it counts.
        labels: of all of them.
    """

    def __init__(self, meanings: Mapping[str, str], labels: Mapping[str, str]) -> None:
        self._meanings, self._labels = meanings, dict(labels)
        self._made: dict[str, Any] = {}

    def set(self, values: Mapping[str, float]) -> bool:
        """Show ``values``; False where no Ray is connected."""
        import ray
        from ray.util.metrics import Gauge

        if not ray.is_initialized():
            return False
        for name, value in values.items():
            if name not in self._made:
                made = Gauge(name, self._meanings[name], tuple(self._labels))
                made.set_default_tags(self._labels)
                self._made[name] = made
            self._made[name].set(value)
        return True
