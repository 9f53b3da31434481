"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evomerge.trackers import Tracker, Values, missing


class TensorBoard(Tracker):
    """``tensorboard --logdir RUN_DIR/tensorboard`` shows it, also while the search runs."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "dir": "folder of the event files (default: tensorboard in the run's folder)"
    }

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        super().__init__(folder, options)
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            raise missing("tensorboard", "tensorboard") from None

    def start(self, name: str, id: str, config: Mapping[str, Any], steps: int) -> int:
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder / self.options.get("dir", "tensorboard")
        # a reader drops what an earlier session told of later steps
        self._writer: Any = SummaryWriter(str(folder), purge_step=steps + 1)
        self._step = steps
        if not steps:
            self._writer.add_text("run.yaml", f"```\n{json.dumps(config, indent=2)}\n```", 0)
        return steps

    def log(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._step = step
        self._writer.flush()

    def table(self, heading: Sequence[str], rows: Sequence[Sequence[str]], text: str) -> None:
        self._writer.add_text("final table", text, self._step)

    def finish(self, done: bool) -> None:
        self._writer.close()
