"""Where lm-eval's tasks are found, and how one is built with its documents."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from jinja2.exceptions import SecurityError
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from evomerge.config import shown
from evomerge.errors import InputError, causes_of, did_you_mean
from evomerge.scorers.foreign import Left, staying, where
from evomerge.scorers.lm_eval.commits import at
from evomerge.scorers.lm_eval.confined import HERE, HUB, confined
from evomerge.scorers.lm_eval.isolation import no_local_metrics, pinned, quiet
from evomerge.scorers.lm_eval.reading import (
    TaskFile,
    check_folder,
    fetched,
    is_local,
    read_task,
)
from evomerge.scorers.lm_eval.templates import refusal

GENERATES = "generate_until"  # the kind of a request, and of a task, that wants a text written


@dataclass(frozen=True)
class Loaded:
    """A task with its documents in data order, its file, and the commits of the hub that its data came from."""

    task: Any
    docs: list[Any]
    file: TaskFile
    commits: Mapping[str, str]


def load(name: str, include: tuple[Path, ...], commits: Mapping[str, str]) -> Loaded:
    """The task ``name``, its data at ``commits`` (data set -> commit) where these say so.

    Raises:
        InputError: there is no such task, or it cannot be built.
    """
    index = manager(include)
    where, spec = locate(name, index, include)
    if spec != name:  # a path, which would be that of a task in ``include`` that is called so
        index = manager(())
    check_counts(name, file := read_task(where))
    told = None if file.code or fetched(file) else HERE if is_local(file) else HERE | HUB
    if told is None:
        no_local_metrics()
    try:
        with quiet(), pinned(), staying(), confined(told), at(commits) as found:
            task = next(iter(index.load([spec])["tasks"].values()))
            docs = list(task.eval_docs)
            _ = [make() for filters in task._filters for make in filters.filters]  # or say why not
    except Exception as error:  # whatever the task's own code and data raise
        raise InputError(_why(name, where, error)) from error
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(f"{name}: executes code that the model writes; evomerge does not run it")
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"{name}: needs images or sound; evomerge merges and scores text models")
    if detector := sys.modules.get("langdetect"):
        detector.DetectorFactory.seed = 0  # IFEval's checks of language draw at random
    return Loaded(task, docs, file, found)


@cache
def manager(include: tuple[Path, ...]) -> Any:
    """lm-eval's index of the ``include`` folders, without its own 14,000 files (10 s)."""
    for folder in include:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of lm-eval tasks")
        check_folder(folder)
    try:
        with quiet():
            return lm_eval.tasks.TaskManager(include_path=list(include), include_defaults=False)
    except Exception as error:  # whatever a file makes lm-eval raise
        places = ", ".join(map(str, include))
        raise InputError(
            f"{places}: lm-eval cannot list these tasks: {type(error).__name__}: {error}"
        ) from error


def locate(name: str, index: Any, include: Sequence[Path]) -> tuple[Path, str]:
    """The YAML file of task ``name``, and what ``TaskManager.load`` finds it by."""
    entry = index.task_index.get(name)
    if entry is not None and entry.kind.name in ("TASK", "PY_TASK"):
        return Path(entry.yaml_path), name
    tasks, groups = _builtin()
    if entry is None and name in tasks:
        return tasks[name], str(tasks[name])
    if entry is not None:
        members = sorted(entry.tags) if entry.kind.name == "TAG" else entry.cfg.get("task", [])
        raise InputError(_group(name, members))
    if name in groups:
        raise InputError(_group(name, load_yaml(groups[name], resolve_func=False).get("task", [])))
    message = f"unknown lm-eval task {name!r}"
    message += did_you_mean(name, [*index.all_tasks, *tasks, *groups])
    places = ", ".join(str(folder) for folder in include)
    message += f"; looked in {places + ' and ' if places else ''}lm-eval's own tasks"
    raise InputError("\n".join([message, *_unreadable(include)]))


def _group(name: str, members: Any) -> str:
    members = members if isinstance(members, list) else [members]
    named = [
        str(m.get("task") or m.get("group")) if isinstance(m, dict) else str(m) for m in members
    ]
    more = ", ..." if len(named) > 20 else ""
    return f"{name}: a group, not a task; name its tasks one by one: {', '.join(named[:20])}{more}"


@cache
def _builtin() -> tuple[dict[str, Path], dict[str, Path]]:
    """The files of lm-eval's own tasks and groups by name, read from their text in 0.3 s."""
    tasks: dict[str, Path] = {}
    groups: dict[str, Path] = {}
    line = re.compile(r"^['\"]?(task|group)['\"]?:[ \t]*['\"]?([^\s'\"#\[]+)", re.MULTILINE)
    for path in sorted(Path(lm_eval.tasks.__file__).parent.glob("**/*.yaml")):
        found = dict(line.findall(path.read_text(encoding="utf-8", errors="replace")))
        if "group" in found:
            groups.setdefault(found["group"], path)
        elif "task" in found:
            tasks.setdefault(found["task"], path)
    return tasks, groups


def _unreadable(include: Sequence[Path]) -> Iterator[str]:
    """A line for each YAML that lm-eval skipped in silence."""
    for path in (path for folder in include for path in sorted(folder.glob("**/*.yaml"))):
        try:
            load_yaml(path, resolve_func=False)
        except Exception as error:
            yield f"{path}: skipped, cannot be read: {error}"


def _why(name: str, path: Path, error: Exception) -> str:
    """Why a task could not be built: no data, or anything else."""
    if isinstance(error, SecurityError):
        return refusal(name, path, error)
    for each in causes_of(error):
        if isinstance(each, InputError):
            return f"{name} ({path}): {each}"
    if isinstance(error, Left):
        return f"{name} ({path}): {where(error) or 'its code'} {error}"
    # What `datasets` raises for the first row of an empty file, and of an empty selection.
    if isinstance(error, StopIteration) or "out of bounds for size 0" in str(error):
        return f"{name} ({path}): its data is empty"
    config = read_task(path).content
    data = " ".join(str(config[k]) for k in ("dataset_path", "dataset_name") if config.get(k))
    cause = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    missing = (OSError, HfHubHTTPError, OfflineModeIsEnabled, datasets.exceptions.DatasetsError)
    if data and isinstance(error, missing):
        return (
            f"{name} ({path}): its data {data!r} cannot be loaded: {cause}\n"
            "A data set of the hub needs a network or a filled cache; without one, write a task "
            "YAML with `dataset_path: json` and local `data_files`."
        )
    return f"{name} ({path}): cannot be built: {cause}"


def set_fewshot(task: Any, name: str, num_fewshot: int | None) -> None:
    """lm-eval's rule: a task that says 0 keeps it; here, asking otherwise is an error."""
    own = task.get_config("num_fewshot")
    check_fewshot(name, own, num_fewshot)
    task.set_config(key="num_fewshot", value=(own or 0) if num_fewshot is None else num_fewshot)


def check_fewshot(name: str, own: Any, num_fewshot: int | None) -> None:
    """Refuse examples of a task whose ``own`` number is 0.

    Raises:
        InputError: it is, and some are asked for.
    """
    if num_fewshot and own == 0:
        raise InputError(
            f"{name}: the task fixes num_fewshot at 0, and lm-eval would ignore {num_fewshot}; "
            "leave num_fewshot out, or change the task"
        )


def check_counts(name: str, file: TaskFile) -> None:
    """Refuse a task whose numbers of examples and of answers are none.

    Raises:
        InputError: they are not.
    """
    for key, low in (("num_fewshot", 0), ("repeats", 1)):
        said = file.content.get(key)
        if said is not None and (type(said) is not int or said < low):
            raise InputError(
                f"{name} ({next(iter(file.files))}): {key}: expected a whole number of at least {low}, found {shown(said)}"
            )


def set_cap(task: Any, name: str, max_gen_toks: int | None) -> None:
    """Let answers be ``max_gen_toks`` tokens long, whatever the task says.

    What a task asks that writes its requests by code of its own is known when it asks: one whose output type says
    that it writes texts may ask log-likelihoods alone, and is not refused.

    Raises:
        InputError: the task's output type says that it generates nothing.
    """
    if max_gen_toks is None:
        return
    check_cap(name, task.OUTPUT_TYPE, max_gen_toks)
    options = task.get_config("generation_kwargs") or {}
    if not isinstance(options, dict):
        raise InputError(f"{name}: generation_kwargs: expected a mapping, found {shown(options)}")
    task.set_config(key="generation_kwargs", value={**options, "max_gen_toks": max_gen_toks})


def check_cap(name: str, asks: str, max_gen_toks: int | None) -> None:
    """Refuse a cap on the answers of a task that ``asks`` for none.

    Raises:
        InputError: it does, and there is one.
    """
    if max_gen_toks is not None and asks != GENERATES:
        raise InputError(
            f"{name}: max_gen_toks is {max_gen_toks}, but the task generates nothing ({asks}); leave it out"
        )


def writes_requests(task: Any) -> bool:
    """Whether code of ``task`` decides what is asked, whatever its configuration says."""
    return (
        getattr(type(task), "construct_requests", None) is not ConfigurableTask.construct_requests
    )
