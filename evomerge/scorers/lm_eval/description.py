"""What can be known of a task without its data, hence without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import InputError
from evomerge.scorers.lm_eval.loading import (
    GENERATES,
    check_cap,
    check_counts,
    check_fewshot,
    locate,
    manager,
)
from evomerge.scorers.lm_eval.reading import (
    Function,
    TaskFile,
    fetched,
    is_local,
    read_task,
)
from evomerge.scorers.lm_eval.thinking import Thinking
from evomerge.scorers.sources import Code
from evomerge.suite.scorer import SIGNALS, unknown_metric


@dataclass(frozen=True)
class Description:
    """Of a task's YAML.

    Attributes:
        download: a data set of the hub, or None.
        metrics: full names; empty if code decides them.
        code: what building the task, and scoring with it, executes.
        better: metric, without its filter -> whether more is better, where the file says so.
        asks: what of a model: its output type; empty if code decides it.
        num_fewshot: examples per prompt, where the file says so.
    """

    download: str | None
    metrics: Sequence[str]
    code: Sequence[Code] = ()
    better: Mapping[str, bool] = field(default_factory=dict)
    asks: str = GENERATES
    num_fewshot: Any = None

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Refuse options of a fitness file that task ``name`` does not take, as building it would.

        Raises:
            InputError: with the reason.
        """
        check_fewshot(name, self.num_fewshot, options.get("num_fewshot"))
        if self.asks:
            check_cap(name, self.asks, options.get("max_gen_toks"))
            end, enabled = options.get("think_end_token"), options.get("enable_thinking")
            Thinking.check_asked(name, self.asks, end, enabled)

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

    def maximize(self, metric: str) -> bool | None:
        """Whether more of ``metric`` is better; None if only executing the task would tell."""
        first = metric.split("*")[0].rpartition(",")
        name = first[0] or first[2]
        return SIGNALS[name] if name in SIGNALS else self.better.get(name)


def describe(name: str, include: Sequence[str]) -> Description:
    """The task ``name``, by its YAML alone.

    Raises:
        InputError: there is no such task.
    """
    folders = tuple(Path(folder) for folder in include)
    path, _ = locate(name, manager(folders), folders)
    check_counts(name, file := read_task(path))
    return described(file)


def described(task: TaskFile) -> Description:
    """What a task's file says.

    Raises:
        InputError: its lists of metrics or filters are none.
    """
    path, content = next(iter(task.files)), task.content
    asks, address = content.get("output_type", GENERATES), fetched(task)
    fetches = [Code(f"the download of {address}", str(path))] if address else []
    filters = _named(content.get("filter_list") or [{"name": "none"}], "name", path)
    metrics = _named(content.get("metric_list") or (), "metric", path)
    if any(isinstance(metric, Function) for metric in metrics):
        metrics = []
    return Description(
        address or (None if is_local(task) else str(task.data)),
        [f"{m},{f}" for m in metrics for f in filters if m],
        [*task.code, *fetches],
        {
            each["metric"]: each["higher_is_better"]
            for each in content.get("metric_list") or ()
            if isinstance(each.get("higher_is_better"), bool)
        },
        "" if "class" in content or not isinstance(asks, str) else asks,
        content.get("num_fewshot"),
    )


def _named(entries: Any, key: str, path: Path) -> list[str]:
    """The texts under ``key`` of a list of mappings.

    Raises:
        InputError: it is no such list.
    """
    listed = list(entries) if isinstance(entries, (list, tuple)) else [None]
    values = [each.get(key) if isinstance(each, dict) else None for each in listed]
    found = [value for value in values if isinstance(value, str)]
    if len(found) < len(values):
        raise InputError(
            f"{path}: expected a list of mappings with {key!r}, found {entries!r:.100}"
        )
    return found
