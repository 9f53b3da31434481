"""What two runs must have in common to be the same search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evomerge.record.events import JOURNAL
from evomerge.record.record import Record

Trajectory = tuple[list[dict[str, Any]], list[dict[str, Any]], str]


def trajectory(folder: Path) -> Trajectory:
    """All that a finished search decided and measured, without when, how fast and in which order.

    Returns:
        Its events, its evaluations with their responses by batch and candidate, and the winner's
        recipe as text.
    """
    events = []
    for line in (folder / JOURNAL).read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        del event["time"], event["sum"]
        event.pop("seconds", None)
        event.pop("looks", None)  # of others, whatever this search does
        if event["event"] != "session":
            events.append(event)
    evaluations = [event for event in events if event["event"] == "evaluation"]
    others = [event for event in events if event["event"] != "evaluation"]
    with Record(folder).open_responses() as store:
        blocks = iter(store.blocks)
        for event in evaluations:
            event["block"] = store.read(next(blocks)) if event["block"] else None
    evaluations.sort(key=lambda event: (event["batch"], event["candidate"]))
    return others, evaluations, (folder / "best.yaml").read_text(encoding="utf-8")
