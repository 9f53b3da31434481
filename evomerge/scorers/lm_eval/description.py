"""What can be known of a task without its data, hence without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval.tasks._yaml_loader import load_yaml

from evomerge.errors import InputError
from evomerge.scorers.lm_eval.loading import locate, manager
from evomerge.suite.scorer import SIGNALS, unknown_metric

_LOCAL = ("json", "csv", "parquet", "text", "arrow")  # loaders of `datasets` for files at hand


@dataclass(frozen=True)
class Description:
    """Of a task's YAML: ``download`` is a data set of the hub, ``metrics`` are full names."""

    download: str | None
    metrics: Sequence[str]

    def check_metric(self, name: str, metric: str) -> None:
        """Refuse a metric that task ``name`` cannot report; a signal passes, as far as one knows.

        Raises:
            InputError: a factor of ``metric`` is no metric of the task.
        """
        for factor in metric.split("*"):
            known = [m for m in self.metrics if factor in (m, m.rpartition(",")[0])]
            if len(known) > 1:
                raise InputError(f"{name}: {factor!r} is ambiguous; say {' or '.join(known)}")
            if self.metrics and not known and factor not in SIGNALS:
                raise InputError(unknown_metric(name, factor, [*self.metrics, *SIGNALS]))


def describe(name: str, include: Sequence[str]) -> Description:
    """The task ``name``, by its YAML alone.

    Raises:
        InputError: there is no such task.
    """
    folders = tuple(Path(folder) for folder in include)
    path, _ = locate(name, manager(folders), folders)
    content = load_yaml(path, resolve_func=False)
    data = content.get("dataset_path")
    files = (content.get("dataset_kwargs") or {}).get("data_files")
    local = data is None or content.get("custom_dataset") or (data in _LOCAL and files)
    filters = [each["name"] for each in content.get("filter_list") or [{"name": "none"}]]
    metrics = [each["metric"] for each in content.get("metric_list") or ()]
    return Description(
        None if local else str(data), [f"{m},{f}" for m in metrics for f in filters if m]
    )
