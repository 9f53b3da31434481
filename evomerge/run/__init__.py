"""Runs: one search in one folder. Starting and resuming are the same loop."""

from evomerge.run.ending import Result
from evomerge.run.events import JOURNAL, RESPONSES
from evomerge.run.loop import Listener, search
from evomerge.run.record import Record
from evomerge.run.spec import RunSpec, load_run

__all__ = ["JOURNAL", "RESPONSES", "Listener", "Record", "Result", "RunSpec", "load_run", "search"]
