"""MLflow: a run in its store, by default an SQLite file in the run's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evomerge.errors import InputError
from evomerge.trackers import Tracker, Values, flat, missing

TAG, COUNT = "evomerge.id", "items"  # every step has a number of items
LONGEST = 500  # characters of a parameter
MOST = 100  # parameters at a time


class MLflow(Tracker):
    """``mlflow ui --backend-store-uri sqlite:///RUN_DIR/mlflow.db`` shows it."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "uri": "of the tracking server or store (default: sqlite:///RUN_DIR/mlflow.db)",
        "experiment": "its name (default: evomerge)",
        "name": "of the run (default: the run's folder)",
    }

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        super().__init__(folder, options)
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise missing("mlflow", "mlflow-skinny") from None
        uri = options.get("uri", f"sqlite:///{self.folder / 'mlflow.db'}")
        try:
            self._client: Any = MlflowClient(tracking_uri=uri)
        except Exception as error:
            raise InputError(f"tracker mlflow: uri {uri!r}: {error}") from None

    def start(self, name: str, id: str, config: Mapping[str, Any], steps: int) -> int:
        client, experiment = self._client, self._experiment()
        found = client.search_runs([experiment], f"tags.`{TAG}` = '{id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            client.update_run(self._run, status="RUNNING")
            told = [metric.step for metric in client.get_metric_history(self._run, COUNT)]
            return max(told, default=0)
        made = client.create_run(
            experiment, run_name=self.options.get("name", name), tags={TAG: id}
        )
        self._run = made.info.run_id
        self._describe(config)
        return 0

    def _describe(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        plain = {_named(key)[:200]: str(value) for key, value in flat(config).items()}
        params = [Param(key, value[:LONGEST]) for key, value in plain.items()]
        for first in range(0, len(params), MOST):
            self._client.log_batch(self._run, params=params[first : first + MOST])
        self._client.log_dict(self._run, json.loads(json.dumps(config)), "run.json")

    def _experiment(self) -> str:
        name = self.options.get("experiment", "evomerge")
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        kept = None if "uri" in self.options else (self.folder / "mlflow-artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=kept))

    def log(self, step: int, values: Values) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(
            self._run, metrics=[Metric(_named(n), v, now, step) for n, v in values.items()]
        )

    def table(self, heading: Sequence[str], rows: Sequence[Sequence[str]], text: str) -> None:
        self._client.log_text(self._run, text, "table.md")

    def finish(self, done: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if done else "KILLED")


def _named(name: str) -> str:
    """As MLflow lets a metric or a parameter be called."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)
