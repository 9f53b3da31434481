"""Ray's own metrics: numbers that Prometheus scrapes from the nodes of the cluster that a search works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evomerge.pool.ray.gauges import Gauges
from evomerge.trackers import Tracker, Values

NUMBERS = {  # name -> what the tracker is told it as, and what it means
    "evomerge_evaluations": ("total/evaluations", "Evaluations that arrived"),
    "evomerge_failed": ("total/failed", "Evaluations that failed"),
    "evomerge_items": ("total/items", "Items that went through a model"),
    "evomerge_tokens": ("total/tokens", "Tokens that went through a model"),
    "evomerge_merge_seconds": ("total/seconds/merge", "Seconds that workers merged"),
    "evomerge_score_seconds": ("total/seconds/score", "Seconds that workers scored"),
    "evomerge_slope_seconds": ("total/seconds/slope", "Seconds that workers took slopes"),
    "evomerge_best": ("best", "Search score of the best merge so far"),
}


class RayMetrics(Tracker):
    """``ray_evomerge_items{run="NAME"}`` and its like, as ``evomerge status --json`` has them."""

    OPTIONS: ClassVar[Mapping[str, str]] = {"run": "the label `run` (default: the run's folder)"}

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        super().__init__(folder, options)
        meanings = {name: f"{meaning}." for name, (_, meaning) in NUMBERS.items()}
        self._gauges = Gauges(meanings, {"run": options.get("run", self.folder.name)})
        self._hidden, self._shown = 0, 0  # steps

    def start(self, name: str, id: str, config: Mapping[str, Any], steps: int) -> int:
        return steps

    def log(self, step: int, values: Values) -> None:
        shown = {name: values[key] for name, (key, _) in NUMBERS.items() if key in values}
        if self._gauges.set(shown):
            self._shown += 1
        else:  # of an earlier session, told before there are workers; totals make up for it
            self._hidden += 1

    def table(self, heading: Sequence[str], rows: Sequence[Sequence[str]], text: str) -> None:
        """There is no place for a table."""

    def finish(self, done: bool) -> None:
        """What was set is shown until the driver leaves Ray.

        Raises:
            RuntimeError: nothing was.
        """
        if self._hidden and not self._shown:
            raise RuntimeError("it shows searches on Ray, and no Ray was connected (--ray off)")
