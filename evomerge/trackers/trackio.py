"""trackio: a project in its own folder on this machine, or on a Space."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evomerge.trackers import Tracker, Values, missing


class Trackio(Tracker):
    """``trackio show --project PROJECT`` shows it. Where it lies, ``TRACKIO_DIR`` says."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "project": "its project (default: evomerge)",
        "space": "a Space of the hub to log to (default: this machine)",
        "name": "of the run (default: the run's folder with the run's id)",
    }

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        super().__init__(folder, options)
        try:
            import trackio
        except ImportError:
            raise missing("trackio", "trackio") from None
        self._trackio: Any = trackio

    def start(self, name: str, id: str, config: Mapping[str, Any], steps: int) -> int:
        project = self.options.get("project", "evomerge")
        called = self.options.get("name", f"{name} {id}")
        space = self.options.get("space")
        if (
            space is None
        ):  # what was buffered when a session was killed is not there: it is told again
            from trackio.sqlite_storage import SQLiteStorage

            last = SQLiteStorage.get_last_step(project, called)
            steps = 0 if last is None else last
        with _silent():
            self._run = self._trackio.init(
                project=project,
                name=called,
                space_id=space,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self._step = steps
        return steps

    def log(self, step: int, values: Values) -> None:
        with _silent():
            self._run.log(dict(values), step=step)
        self._step = step

    def table(self, heading: Sequence[str], rows: Sequence[Sequence[str]], text: str) -> None:
        with _silent():
            self._run.log({"final table": self._trackio.Markdown(text)}, step=self._step)

    def finish(self, done: bool) -> None:
        with _silent():
            self._trackio.finish()  # not the run's own: at the exit of the process it would be finished again


@contextlib.contextmanager
def _silent() -> Any:
    """It tells what it does on standard output, which is for results."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
