"""lm-eval tasks on the resident model.

lm-eval's own code loads the data, writes the prompts, runs the requests, filters the answers and
computes the metrics, so that scores equal ``lm_eval.simple_evaluate`` on the exported folder, item
for item. What differs is what happens when: prompts are written and tokenized once per worker, and
a candidate pays for forward passes only.

The one module that imports ``lm_eval``.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import numpy as np
import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import nanmean
from lm_eval.api.samplers import FirstNSampler
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks._yaml_loader import load_yaml

from evomerge.errors import InputError, did_you_mean
from evomerge.fitness import Item, Live, NonFinite, Responses, unknown_metric

# Fields that data sets use for a row's own name, and for the original it was made from.
_ID_FIELDS = ("id", "idx", "key", "pair_id", "question_id", "doc_id", "uuid")
_SOURCE_FIELDS = ("source_id", "source")

# Configuration that says where a task's data is, not what it asks.
_WHEREABOUTS = ("dataset_path", "dataset_name", "dataset_kwargs", "metadata")

Tokens = list[int]


@dataclass
class _Request:
    """One lm-eval request; ``encoded`` is its (texts, context, continuation) once tokenized."""

    instance: Instance
    encoded: tuple[tuple[str, str], Tokens, Tokens] | None = None


class LmEvalTask:
    """One lm-eval task: a built-in name, or a task YAML in one of the ``include`` folders.

    Args:
        num_fewshot: examples per prompt; None takes the task's own number. Examples that lm-eval
            draws at random are those of a run over the whole task with ``seed``, so an item's
            prompt does not depend on which other items are scored.
        apply_chat_template: write prompts with the tokenizer's chat template, with
            ``system_instruction`` and few-shot turns as lm-eval does.
        source_field: the field that names the original of an item; by default ``source_id`` or
            ``source`` if it tells most rows apart, else the row number. So row n of one task
            and row n of its translation share a source.
        seed: lm-eval's ``fewshot_random_seed``.

    Responses are lm-eval's ``resps``: per request of the item, per repeat, ``[log-likelihood in
    nats, is it the greedy answer]``, a rolling log-likelihood, or the generated text.

    Raises:
        InputError: no such task, a group, data that is absent or empty, a task that executes what
            the model writes or needs more than text.
    """

    def __init__(
        self,
        name: str,
        *,
        include: Sequence[str | Path] = (),
        num_fewshot: int | None = None,
        apply_chat_template: bool = False,
        system_instruction: str | None = None,
        fewshot_as_multiturn: bool = False,
        source_field: str | None = None,
        seed: int = DEFAULT_OTHER_SEED,
    ) -> None:
        self.name = name
        self._chat = apply_chat_template
        self._system = system_instruction
        self._multiturn = fewshot_as_multiturn
        self._seed = seed
        self._task, self._docs = _load(name, tuple(Path(folder) for folder in include))
        _set_fewshot(self._task, name, num_fewshot)
        self._filters: list[str] = [ensemble.name for ensemble in self._task._filters]
        self.metrics: dict[str, bool] = {
            f"{metric},{filter_}": better
            for metric, better in self._task.higher_is_better().items()
            for filter_ in self._filters
        }
        ids, sources = _ids(self._docs), _sources(self._docs, name, source_field)
        self._items = [Item(id, source) for id, source in zip(ids, sources, strict=True)]
        self._rows = {id: row for row, id in enumerate(ids)}
        self._lm: _ResidentLM | None = None
        self._requests: dict[int, list[_Request]] = {}

    @property
    def fingerprint(self) -> str:
        """Of the documents, the task's configuration and the source of its functions.

        Not of where the documents lie: a run's folder may move.
        """
        config = {k: v for k, v in self._task.dump_config().items() if k not in _WHEREABOUTS}
        content = [[dict(doc) for doc in self._docs], config]
        text = json.dumps(content, sort_keys=True, default=_described)
        return hashlib.sha256(text.encode()).hexdigest()

    def items(self) -> list[Item]:
        """One item per document of the test split, or of the validation split if there is none."""
        return list(self._items)

    def resolve_metric(self, metric: str) -> str:
        """``"acc,none"`` as it is; ``"acc"`` too, if one filter reports it.

        Raises:
            InputError: the task does not report ``metric``, or several filters do.
        """
        if metric in self.metrics:
            return metric
        found = [full for full in self.metrics if full.rpartition(",")[0] == metric]
        if len(found) > 1:
            raise InputError(f"{self.name}: {metric!r} is ambiguous; say {' or '.join(found)}")
        if not found:
            raise InputError(unknown_metric(self.name, metric, list(self.metrics)))
        return found[0]

    def bind(self, live: Live) -> None:
        """Wrap the resident model; prompts are written for its tokenizer on first need.

        Raises:
            InputError: a chat template is asked for and the tokenizer has none, or generation
                leaves no room for a prompt.
        """
        if self._chat and not live.tokenizer.chat_template:
            raise InputError(
                f"{self.name}: apply_chat_template is on, but the tokenizer has no chat template; "
                "name a model that has one as `tokenizer`, or turn it off"
            )
        with _quiet():
            self._lm = _ResidentLM(
                pretrained=live.model,
                tokenizer=live.tokenizer,
                batch_size=live.batch_size,
                max_length=live.max_length,
            )
        self._requests.clear()
        room = 0
        if self._task.OUTPUT_TYPE == "generate_until":
            with _quiet():
                options = self._task.get_config("generation_kwargs") or {}
                room = normalize_gen_kwargs(options, self._lm.max_gen_toks)["max_gen_toks"]
        if room >= self._lm.max_length:
            raise InputError(
                f"{self.name}: generates up to {room} tokens, but the model's whole length is "
                f"{self._lm.max_length}; lower the task's max_gen_toks"
            )

    def score(self, ids: Sequence[str]) -> Responses:
        """Run the requests of ``ids`` and compute their metrics, as lm-eval would.

        Batches are laid out from the set of ids alone: a candidate's answers do not depend on
        what was scored before it, nor on the order of ``ids``.
        """
        rows = {self._row(id): id for id in ids}
        with _quiet(), _pinned(self._model.device), torch.no_grad():
            requests = {row: self._prepared(row) for row in sorted(rows)}
            self._answer([request for row in requests.values() for request in row])
            answered = {
                rows[row]: self._measure(rows[row], self._docs[row], asked)
                for row, asked in requests.items()
            }
        metrics = {
            metric: [answered[id][1].get(metric) for id in ids]
            for metric in self.metrics
            if any(metric in measured for _, measured in answered.values())
        }
        return {
            "items": list(ids),
            "responses": [answered[id][0] for id in ids],
            "metrics": metrics,
        }

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """lm-eval's aggregation of ``metric``; None values are skipped."""
        short = self.resolve_metric(metric).rpartition(",")[0]
        applying = [value for value in values if value is not None]
        try:
            result = float(self._task.aggregation()[short](applying)) if applying else math.nan
        except OverflowError:  # exp of a hopeless perplexity
            result = math.inf
        if not math.isfinite(result):
            raise NonFinite(self.name)
        return result

    @property
    def _model(self) -> _ResidentLM:
        if self._lm is None:
            raise RuntimeError(f"{self.name}: bind a model before scoring")
        return self._lm

    def _row(self, id: str) -> int:
        try:
            return self._rows[id]
        except KeyError:
            raise InputError(
                f"{self.name}: no item {id!r} among its {len(self._rows)}; "
                "has the data changed since the items were listed?"
            ) from None

    def _prepared(self, row: int) -> list[_Request]:
        """The requests of a document, written and tokenized once."""
        if row not in self._requests:
            # Examples are drawn from one stream over all documents, so all are written in order.
            drawn = (self._task.config.num_fewshot or 0) > 0 and not isinstance(
                self._task.sampler, FirstNSampler
            )
            self._task.set_fewshot_seed(self._seed)
            for each in range(len(self._docs)) if drawn else (row,):
                with _pinned():
                    self._requests[each] = [_Request(i) for i in self._instances(each)]
        for request in self._requests[row]:
            if request.instance.request_type == "loglikelihood" and request.encoded is None:
                request.encoded = self._encode(row, *request.instance.args)
        return self._requests[row]

    def _instances(self, row: int) -> list[Instance]:
        """The requests of one document, as ``Task.build_all_requests`` makes them."""
        doc = deepcopy(self._docs[row])
        chat_template = self._model.apply_chat_template if self._chat else None
        context = self._task.fewshot_context(
            doc,
            num_fewshot=self._task.config.num_fewshot or 0,
            system_instruction=self._system,
            apply_chat_template=self._chat,
            fewshot_as_multiturn=self._multiturn,
            chat_template=chat_template,
            gen_prefix=self._task.doc_to_prefix(doc),
        )
        made = self._task.construct_requests(
            doc=doc,
            ctx=context,
            metadata=(self._task.config["task"], row, self._task.config.repeats),
            apply_chat_template=self._chat,
            chat_template=chat_template,
        )
        instances = made if isinstance(made, list) else [made]
        return sorted(instances, key=lambda instance: instance.idx)

    def _encode(
        self, row: int, context: str, continuation: str
    ) -> tuple[tuple[str, str], Tokens, Tokens]:
        """Tokens of one request, as ``TemplateLM.loglikelihood`` makes them."""
        lm = self._model
        if context:
            before, after = lm._encode_pair(context, continuation)
        else:
            after = lm.tok_encode(continuation, add_special_tokens=False)
            before = [lm.prefix_token_id]
            if after[:1] == before:
                before, after = after[:1], after[1:]
        if not 0 < len(after) <= lm.max_length:
            raise InputError(
                f"{self.name}, item {self._items[row].id}: the answer {continuation!r} is "
                f"{len(after)} tokens; expected 1 to {lm.max_length}, the model's length"
            )
        return (context, continuation), before, after

    def _answer(self, requests: Sequence[_Request]) -> None:
        """Fill ``instance.filtered_resps``, forgetting every earlier candidate's."""
        by_type: dict[str, list[_Request]] = defaultdict(list)
        for request in requests:
            request.instance.resps, request.instance.filtered_resps = [], {}
            by_type[request.instance.request_type] += [request] * (request.instance.repeats or 1)
        for kind, asked in by_type.items():
            for request, answer in zip(asked, self._run(kind, asked), strict=True):
                request.instance.resps.append(answer)
        for ensemble in self._task._filters if requests else ():
            ensemble.apply([request.instance for request in requests])

    def _run(self, kind: str, asked: Sequence[_Request]) -> Any:
        """The model's answers, in order."""
        if kind == "loglikelihood":
            return self._model._loglikelihood_tokens([request.encoded for request in asked])
        try:
            run = getattr(self._model, kind)
            return run([request.instance for request in asked], disable_tqdm=True)
        except FloatingPointError:
            raise NonFinite(self.name) from None

    def _measure(
        self, id: str, doc: Any, requests: Sequence[_Request]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The raw responses of one item, and its metric values by full name."""
        responses = [_plain(request.instance.resps) for request in requests]
        if not _finite(responses):
            raise NonFinite(self.name, id)
        measured = {}
        aggregation = self._task.aggregation()
        for filter_ in self._filters:
            results = [request.instance.filtered_resps[filter_] for request in requests]
            # A copy: a task may write into its document.
            for metric, raw in self._task.process_results(deepcopy(doc), results).items():
                value = _plain(raw)
                if value != value and aggregation.get(metric) is nanmean:
                    value = None  # the task's way to say that the metric does not apply
                if f"{metric},{filter_}" not in self.metrics:
                    continue
                if not _finite(value):
                    raise NonFinite(self.name, id)
                measured[f"{metric},{filter_}"] = value
        return responses, measured


class _ResidentLM(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model, without progress bars, refusing to generate from NaN."""

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> Any:
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def _model_generate(self, context: Any, max_length: int, stop: Any, **options: Any) -> Any:
        # The greedy choice among NaNs is a token like any other, and its text may even score.
        return super()._model_generate(
            context, max_length, stop, logits_processor=[_RefuseNaN()], **options
        )


class _RefuseNaN(transformers.LogitsProcessor):  # type: ignore[misc]
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if bool(torch.isnan(scores).any()):
            raise FloatingPointError("NaN logits")
        return scores


def _load(name: str, include: tuple[Path, ...]) -> tuple[Any, list[Any]]:
    """The task ``name`` and its documents, in data order."""
    manager = _manager(include)
    where, spec = _locate(name, manager, include)
    try:
        with _quiet(), _pinned():
            task = next(iter(manager.load([spec])["tasks"].values()))
            docs = list(task.eval_docs)
    except Exception as error:  # whatever the task's own code and data raise
        raise InputError(_why(name, where, error)) from error
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(f"{name}: executes code that the model writes; evomerge does not run it")
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"{name}: needs images or sound; evomerge merges and scores text models")
    return task, docs


@cache
def _manager(include: tuple[Path, ...]) -> Any:
    """lm-eval's index of the ``include`` folders, without its own 14,000 files (10 s)."""
    for folder in include:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of lm-eval tasks")
    with _quiet():
        return lm_eval.tasks.TaskManager(include_path=list(include), include_defaults=False)


def _locate(name: str, manager: Any, include: Sequence[Path]) -> tuple[Path, str]:
    """The YAML file of task ``name``, and what ``TaskManager.load`` finds it by."""
    entry = manager.task_index.get(name)
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
    message += did_you_mean(name, [*manager.all_tasks, *tasks, *groups])
    places = ", ".join(str(folder) for folder in include)
    message += f"; looked in {places + ' and ' if places else ''}lm-eval's own tasks"
    raise InputError("\n".join([message, *_unreadable(include)]))


def _group(name: str, members: Any) -> str:
    members = members if isinstance(members, list) else [members]
    named = [m if isinstance(m, str) else str(m.get("task") or m.get("group")) for m in members]
    more = ", ..." if len(named) > 20 else ""
    return f"{name}: a group, not a task; name its tasks one by one: {', '.join(named[:20])}{more}"


@cache
def _builtin() -> tuple[dict[str, Path], dict[str, Path]]:
    """The files of lm-eval's own tasks and groups by name, read from their text in 0.3 s."""
    tasks: dict[str, Path] = {}
    groups: dict[str, Path] = {}
    line = re.compile(r"^(task|group):[ \t]*['\"]?([^\s'\"#\[]+)", re.MULTILINE)
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
    # What `datasets` raises for the first row of an empty file, and of an empty selection.
    if isinstance(error, StopIteration) or "out of bounds for size 0" in str(error):
        return f"{name} ({path}): its data is empty"
    config = load_yaml(path, resolve_func=False)
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


def _set_fewshot(task: Any, name: str, num_fewshot: int | None) -> None:
    """lm-eval's rule: a task that says 0 keeps it; here, asking otherwise is an error."""
    own = task.get_config("num_fewshot")
    if num_fewshot and own == 0:
        raise InputError(
            f"{name}: the task fixes num_fewshot at 0, and lm-eval would ignore {num_fewshot}; "
            "leave num_fewshot out, or change the task"
        )
    task.set_config(key="num_fewshot", value=(own or 0) if num_fewshot is None else num_fewshot)


def _described(value: Any) -> str:
    """What JSON cannot hold, in a way that is the same in every process."""
    if callable(value):
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            return getattr(value, "__qualname__", type(value).__qualname__)
    return str(value)


def _ids(docs: Sequence[Any]) -> list[str]:
    """A name per document: its id-like field where that is unique, else the row number."""
    for field in _ID_FIELDS:
        values = _column(docs, field)
        if values and len(set(values)) == len(values):
            return values
    return [str(row) for row in range(len(docs))]


def _sources(docs: Sequence[Any], name: str, field: str | None) -> list[str]:
    """The original each document was made from."""
    if field is not None:
        values = _column(docs, field)
        if not values:
            known = list(docs[0]) if isinstance(docs[0], Mapping) else []
            raise InputError(
                f"{name}: source_field: no field {field!r} with a text or number in every row"
                f"{did_you_mean(field, known)}; the first row has: {', '.join(known)}"
            )
        return values
    for field in _SOURCE_FIELDS:
        values = _column(docs, field)
        # `source` often names a corpus, not an original: one value for every row.
        if values and 2 * len(set(values)) >= len(values):
            return values
    return [str(row) for row in range(len(docs))]


def _column(docs: Sequence[Any], field: str) -> list[str]:
    """``field`` of every document as text; empty if any lacks it."""
    values = [doc.get(field) if isinstance(doc, Mapping) else None for doc in docs]
    usable = all(isinstance(v, (str, int)) and v != "" for v in values)
    return [str(value) for value in values] if usable else []


def _plain(value: Any) -> Any:
    """``value`` as JSON holds it: tuples and arrays to lists, NumPy scalars to Python's."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(each) for each in value]
    return value


def _finite(value: Any) -> bool:
    """Whether no number inside a plain ``value`` is NaN or infinite."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@contextmanager
def _pinned(device: torch.device | None = None) -> Iterator[None]:
    """lm-eval's own seeds for task code that draws from global generators; restored after."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        torch.manual_seed(DEFAULT_OTHER_SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no warnings that would repeat for every candidate."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers", "datasets")]
    levels = [logger.level for logger in loggers]
    bars = not datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
