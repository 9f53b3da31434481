"""Weights & Biases, on its service or offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evomerge.errors import InputError, one_of
from evomerge.trackers import Tracker, Values, missing

MODES = ("online", "offline")


class WandB(Tracker):
    """A run under one id, in every session; what is offline is sent later with ``wandb sync RUN_DIR/wandb/*``."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "project": "its project (default: evomerge)",
        "entity": "team or user (default: that of the login)",
        "mode": "online (default) or offline",
        "name": "of the run (default: the run's folder)",
    }

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        super().__init__(folder, options)
        try:
            import wandb
        except ImportError:
            raise missing("wandb", "wandb") from None
        self._wandb: Any = wandb
        self._mode = options.get("mode") or wandb.setup().settings.mode or MODES[0]
        if options.get("mode", MODES[0]) not in MODES:
            raise InputError(
                f"tracker wandb: mode: expected {one_of(MODES)}, found {options['mode']!r}"
            )
        if self._mode == MODES[0] and not wandb.api.api_key:
            raise InputError(
                "tracker wandb: nobody is logged in: `wandb login`, or keep the run on this machine with mode=offline"
            )

    def start(self, name: str, id: str, config: Mapping[str, Any], steps: int) -> int:
        wandb = self._wandb
        self._run = wandb.init(
            project=self.options.get("project", "evomerge"),
            entity=self.options.get("entity"),
            name=self.options.get("name", name),
            id=id,
            resume="allow" if self._mode == MODES[0] else None,
            mode=self._mode,
            dir=str(self.folder),
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )
        self._step = steps
        return max(steps, int(self._run.step) - 1)

    def log(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step, commit=True)
        self._step = step

    def table(self, heading: Sequence[str], rows: Sequence[Sequence[str]], text: str) -> None:
        table = self._wandb.Table(columns=list(heading), data=[list(row) for row in rows])
        self._run.log({"final table": table}, step=self._step + 1)

    def finish(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)
