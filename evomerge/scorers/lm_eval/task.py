"""One lm-eval task as a scorer."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import nanmean
from lm_eval.api.samplers import FirstNSampler
from lm_eval.defaults import DEFAULT_OTHER_SEED

from evomerge.engines import Engine
from evomerge.errors import InputError, RunError
from evomerge.scorers.foreign import named, staying
from evomerge.scorers.lessons import Choice, Lesson, Text, Written
from evomerge.scorers.lm_eval.chats import Chat
from evomerge.scorers.lm_eval.documents import find_sources, find_strata, name_documents, text_of
from evomerge.scorers.lm_eval.isolation import pinned, quiet
from evomerge.scorers.lm_eval.loading import GENERATES, load, set_cap, set_fewshot, writes_requests
from evomerge.scorers.lm_eval.prompts import Asked, Prompts
from evomerge.scorers.lm_eval.reading import fingerprints, sources
from evomerge.scorers.lm_eval.signals import LIKELIHOODS, Signals, plain
from evomerge.scorers.lm_eval.targets import of_likelihood, why_nothing, why_shown, written_target
from evomerge.scorers.lm_eval.templates import rendered
from evomerge.scorers.lm_eval.thinking import Thinking
from evomerge.suite.language import check_language
from evomerge.suite.scorer import SIGNALS, Item, NonFinite, Responses, unknown_metric
from evomerge.visible import first_line

_MOST = int(sys.float_info.max)
# Configuration that says where a task's data is, not what it asks.
_WHEREABOUTS = ("dataset_path", "dataset_name", "dataset_kwargs", "metadata")


class LmEvalTask:
    """One lm-eval task: a built-in name, or a task YAML in one of the ``include`` folders.

    Args:
        num_fewshot: examples per prompt; None takes the task's own number. Examples that lm-eval
            draws at random are those of a run over the whole task with ``seed``, so an item's
            prompt does not depend on which other items are scored.
        apply_chat_template: write prompts with the tokenizer's chat template, with
            ``system_instruction``, few-shot turns and ``chat_template_args`` as lm-eval does.
        enable_thinking: a switch that templates of some models have; None leaves it alone.
        think_end_token: the text, or the number of the token, that ends a thought. What comes before is no
            part of the answer, as in lm-eval, and is counted apart: the signal ``thought_length``.
        source_field: the field that names the original of an item; by default ``source_id`` or
            ``source`` if it tells most rows apart, else the row number. So row n of one task
            and row n of its translation share a source.
        stratum: the field that samples are stratified by; by default one that names a language.
        language: ISO 639-1 code of the language that answers are to be in: adds the signal
            ``off_language`` to generated answers.
        max_gen_toks: most tokens of a generated answer, its thought included; None takes the task's own
            number. A task whose requests are code of its own may generate nothing for all that.
        seed: lm-eval's ``fewshot_random_seed``.
        commits: data set of the hub -> commit to take it at; of others, what their branch means now. The attribute
            of that name says what was taken.

    Responses are lm-eval's ``resps``: per request of the item, per repeat, ``[log-likelihood in
    nats, is it the greedy answer]``, a rolling log-likelihood, or the generated text.

    Raises:
        InputError: no such task, a group, data that is absent or empty, a task that executes what
            the model writes or needs more than text, an unknown language, thinking asked of a task that
            generates nothing.
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
        chat_template_args: Mapping[str, Any] | None = None,
        enable_thinking: bool | None = None,
        think_end_token: str | int | None = None,
        source_field: str | None = None,
        stratum: str | None = None,
        language: str | None = None,
        max_gen_toks: int | None = None,
        seed: int = DEFAULT_OTHER_SEED,
        commits: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        if language is not None:
            check_language(language)
        args = dict(chat_template_args or {})
        if enable_thinking is not None:
            args["enable_thinking"] = enable_thinking
        self._chat = Chat(apply_chat_template, system_instruction, fewshot_as_multiturn, args)
        self._thinking = Thinking.of(think_end_token, enable_thinking)
        self._seed, self._cap = seed, max_gen_toks
        loaded = load(name, tuple(Path(folder) for folder in include), commits or {})
        self._task, self._docs, self._file = loaded.task, loaded.docs, loaded.file
        self.commits = loaded.commits
        set_fewshot(self._task, name, num_fewshot)
        set_cap(self._task, name, max_gen_toks)
        self._thinking.check_asked(name, self._task.OUTPUT_TYPE, think_end_token, enable_thinking)
        self._filters: list[str] = [ensemble.name for ensemble in self._task._filters]
        self._own = {
            f"{metric},{filter_}": better
            for metric, better in self._task.higher_is_better().items()
            for filter_ in self._filters
        }
        self._signals = Signals(self._task, language, self._thinking.end is not None)
        self.metrics: dict[str, bool] = self._own | {n: SIGNALS[n] for n in self._signals.names}
        self._ids = name_documents(self._docs)
        self._sources = find_sources(self._docs, name, source_field)
        self._strata = find_strata(self._docs, name, stratum)
        self._rows = {id: row for row, id in enumerate(self._ids)}
        self._engine: Engine | None = None
        self._prompts: Prompts | None = None
        self._instances: dict[int, list[Instance]] = {}
        self._asked: dict[int, list[Asked]] = {}
        self._right: dict[int, set[int]] = {}
        self._is_plain = plain(self._task)
        if self._is_plain:
            _remember(self._task, self._docs)

    @property
    def fingerprint(self) -> str:
        """Of the documents, the task's configuration and the source of its functions.

        Not of where the documents lie: a run's folder may move.
        """
        config = {k: v for k, v in self._task.dump_config().items() if k not in _WHEREABOUTS}
        content = [[dict(doc) for doc in self._docs], config]
        text = json.dumps(content, sort_keys=True, default=_described)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def files(self) -> dict[str, str]:
        """Files that scores depend on, by their path from the task's file -> sha256 of what counts.

        Of a YAML file, its keys and values but for where data lies; of data files, and of code
        with all that it imports and no package installs, every byte.
        """
        return fingerprints(self._file, _WHEREABOUTS)

    @property
    def sources(self) -> dict[str, Path]:
        return sources(self._file)

    def items(self) -> list[Item]:
        """One item per document of the test split, or of the validation split if there is none."""
        return list(self._items)

    @cached_property
    def _items(self) -> list[Item]:
        with named(self.name, InputError), self._rendered():
            texts = [text_of(self._task, doc) for doc in self._docs]
        columns = zip(self._ids, self._sources, self._strata, texts, strict=True)
        return [
            Item(id, source, stratum=stratum, text=text) for id, source, stratum, text in columns
        ]

    def resolve_metric(self, metric: str) -> str:
        """``"acc,none"`` as it is; ``"acc"`` too, if one filter reports it; products by factor.

        Raises:
            InputError: the task does not report ``metric``, or several filters do.
        """
        return "*".join(map(self._resolve, metric.split("*")))

    def _resolve(self, metric: str) -> str:
        if metric in self.metrics:
            return metric
        found = [full for full in self._own if full.rpartition(",")[0] == metric]
        if len(found) > 1:
            raise InputError(f"{self.name}: {metric!r} is ambiguous; say {' or '.join(found)}")
        if not found:
            raise InputError(unknown_metric(self.name, metric, list(self.metrics)))
        return found[0]

    def bind(self, engine: Engine) -> None:
        """Take the resident model; prompts are written for its tokenizer on first need.

        Raises:
            InputError: as ``Prompts``.
        """
        self._engine = engine
        self._thinking.check(self.name, engine.tokenizer)
        self._prompts = Prompts(self._task, self.name, engine, self._chat, self._cap)
        self._instances.clear()
        self._asked.clear()
        if writes_requests(self._task):  # what is wrong with them is told now, not amid a search
            with quiet(), pinned(), named(self.name):
                self._prepared(0)

    def prompt_notes(self, tokenizer: Any) -> list[str]:
        """What ``tokenizer`` makes otherwise than asked; see ``suite.scorer.Chatting``."""
        self._thinking.check(self.name, tokenizer)
        writer = self._chat.writer(self.name, tokenizer)
        try:
            with quiet(), pinned(), staying(), self._rendered():
                asked = self._chat.instances(self._task, 0, self._docs[0], writer)
                found = self._thinking.notes(asked, self._cap)
        except InputError:
            raise
        except Exception as error:  # whatever the task's own code and templates raise
            raise InputError(
                f"{self.name}, item {self._ids[0]}: its prompt cannot be written: {type(error).__name__}: "
                f"{first_line(error)}"
            ) from None
        found = [*self._chat.notes(self._task, writer), *found]
        if self._cap is not None and not any(each.request_type == GENERATES for each in asked):
            found.append(f"max_gen_toks is {self._cap}, but it generates nothing")
        return [f"{self.name}: {fact}" for fact in found]

    def score(self, ids: Sequence[str]) -> Responses:
        """Run the requests of ``ids`` and compute their metrics, as lm-eval would.

        Batches are laid out from the set of ids alone: a candidate's answers do not depend on
        what was scored before it, nor on the order of ``ids``.
        """
        if self._engine is None:
            raise RuntimeError(f"{self.name}: bind a model before scoring")
        rows = {self._row(id): id for id in ids}
        before = self._engine.tokens
        with quiet(), pinned(self._engine.device), named(self.name):
            asked = {row: self._prepared(row) for row in sorted(rows)}
            self._ask([each for requests in asked.values() for each in requests])
            measured = {rows[row]: self._measure(row, requests) for row, requests in asked.items()}
        names = dict.fromkeys(name for _, values in measured.values() for name in values)
        return {
            "items": list(ids),
            "responses": [measured[id][0] for id in ids],
            "metrics": {
                name: [measured[id][1].get(name) for id in ids]
                for name in self.metrics
                if name in names
            },
            "tokens": self._engine.tokens - before,
        }

    @property
    def teaches(self) -> str:
        """Why its items teach nothing; empty if they do."""
        if self._thinking.expected:
            return "a thought comes before its answers, which no right answer states"
        return why_nothing(self._task, self._signals)

    @property
    def taught(self) -> Sequence[str]:
        """Metrics that are better where the right answer leads: all of its own that go up, and the margin.

        Where the task measures likelihoods alone, those by which less is better: bits per byte stand for them.
        """
        if of_likelihood(self._task):
            return list(self.metrics)
        own = [name for name, better in self._own.items() if better]
        return [*own, *(name for name in ("margin",) if name in self.metrics)]

    @property
    def shown(self) -> str:
        """Why right answers that models wrote stand for its own; empty if it states what is to be written."""
        return why_shown(self._task, self._signals)

    def written(self, responses: Responses) -> list[str | None]:
        """What was written, where it was written once and to its end."""
        cut = responses["metrics"].get("truncated", [0.0] * len(responses["items"]))
        found: list[str | None] = []
        for answer, truncated in zip(responses["responses"], cut, strict=True):
            once = len(answer) == 1 and len(answer[0]) == 1 and isinstance(answer[0][0], str)
            found.append(answer[0][0] if once and not truncated and answer[0][0].strip() else None)
        return found

    def mixed(self, answers: Sequence[Responses]) -> Responses | None:
        """Of a plain task of choices: a choice is as likely as it is to the models on average.

            log p(choice) = log mean_k exp(log p_k(choice))

        A choice is the greedy answer where it is every model's, which is enough and not necessary. ``target_nats``
        is left out: it counts tokens, and they are not kept.
        """
        if self._task.OUTPUT_TYPE != "multiple_choice" or not self._is_plain:
            return None
        first, *others = answers
        at = [{item: row for row, item in enumerate(each["items"])} for each in others]
        measured = list[tuple[list[Any], dict[str, Any]]]()
        with quiet(), pinned(), named(self.name), self._rendered():
            for number, item in enumerate(first["items"]):
                kept = [first["responses"][number]]
                kept += [each["responses"][of[item]] for each, of in zip(others, at, strict=True)]
                measured.append(self._mixed(self._row(item), kept))
        names = dict.fromkeys(name for _, values in measured for name in values)
        return {
            "items": list(first["items"]),
            "responses": [responses for responses, _ in measured],
            "metrics": {name: [values.get(name) for _, values in measured] for name in names},
            "tokens": 0,
        }

    def _mixed(self, row: int, kept: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The mixed responses of one item, and its metrics; ``kept`` are those of each model, request by request."""
        doc = self._docs[row]
        requests = list[Instance]()
        for number, same in enumerate(zip(*kept, strict=True)):
            nats = float(np.logaddexp.reduce([each[0][0] for each in same]) - math.log(len(same)))
            request = Instance("loglikelihood", doc, (), number)
            request.resps = [(nats, all(each[0][1] for each in same))] * len(same[0])
            requests.append(request)
        for ensemble in self._task._filters:
            ensemble.apply(requests)
        right = self._signals.right_answers(doc)
        choices = [each.resps[0][0] for each in self._signals.once(requests)]
        wrong = [value for n, value in enumerate(choices) if n not in right]
        margin = max(choices[n] for n in right) - max(wrong) if right and wrong else None
        responses, measured = self._own_metrics(row, requests)
        return responses, {**measured, "margin": margin}

    def lessons(
        self, ids: Sequence[str], answers: Mapping[str, str] | None = None
    ) -> list[Lesson | None]:
        """Choices with their right answers; of written answers the target, as the task words it.

        Where ``shown`` says so, it is the item's text in ``answers``. Of a likelihood, the text that is to be
        likely, or to be the likeliest token by token.
        """
        assert self._engine is not None and self._prompts is not None
        with quiet(), pinned(self._engine.device), named(self.name):
            return [self._lesson(self._row(id), (answers or {}).get(id)) for id in ids]

    def _lesson(self, row: int, answer: str | None) -> Lesson | None:
        asked = self._prepared(row)
        if self._task.OUTPUT_TYPE in LIKELIHOODS:
            return self._likely(asked)
        if asked[0].settings is None:
            requests = tuple(each.requests[0] for each in self._signals.once(asked))
            right = frozenset(self._right[row])
            return Choice(requests, right) if 0 < len(right) < len(requests) else None
        assert self._prompts is not None
        if self.shown:
            return self._prompts.answer(asked[0], answer, as_written=True) if answer else None
        with self._rendered():
            target = written_target(self._task, deepcopy(self._docs[row]))
        return self._prompts.answer(asked[0], target) if target else None

    def _likely(self, asked: Sequence[Asked]) -> Lesson | None:
        """The text that is to be likely, or, where the likeliest counts, to be written token by token."""
        [one, *others], text = asked, of_likelihood(self._task)
        if text and not others:
            return Text(tuple(one.requests), len(one.instance.args[-1].encode()))
        return Written(one.requests[0]) if not others and len(one.requests) == 1 else None

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """lm-eval's aggregation of ``metric``, the mean of a signal or product; None is skipped."""
        full = self.resolve_metric(metric)
        applying = [value for value in values if value is not None]
        short = full.rpartition(",")[0]
        combine = self._task.aggregation()[short] if full in self._own else fmean
        with named(self.name):
            try:
                result = float(combine(applying)) if applying else math.nan
            except OverflowError:  # exp of a hopeless perplexity
                result = math.inf
        if not math.isfinite(result):
            raise NonFinite(self.name)
        return result

    def _row(self, id: str) -> int:
        try:
            return self._rows[id]
        except KeyError:
            raise InputError(
                f"{self.name}: no item {id!r} among its {len(self._rows)}; "
                "has the data changed since the items were listed?"
            ) from None

    def _prepared(self, row: int) -> list[Asked]:
        """The requests of a document, written and tokenized once."""
        if row not in self._asked:
            assert self._prompts is not None
            where = f"{self.name}, item {self._ids[row]}"
            self._asked[row] = [self._prompts.encode(i, where) for i in self._written(row)]
            with self._rendered():
                self._right[row] = self._signals.right_answers(self._docs[row])
        return self._asked[row]

    def _written(self, row: int) -> list[Instance]:
        """The requests of a document as lm-eval words them."""
        if row not in self._instances:
            assert self._prompts is not None
            # Examples are drawn from one stream over all documents, so all are written in order.
            drawn = (self._task.config.num_fewshot or 0) > 0 and not isinstance(
                self._task.sampler, FirstNSampler
            )
            self._task.set_fewshot_seed(self._seed)
            for each in range(len(self._docs)) if drawn else (row,):
                with pinned(), self._rendered():
                    self._instances[each] = self._prompts.instances(each, self._docs[each])
        return self._instances[row]

    def _ask(self, asked: Sequence[Asked]) -> None:
        """Fill the instances of ``asked`` with the answers, forgetting every earlier candidate's."""
        assert self._engine is not None
        requests = [request for each in asked for request in each.requests]
        scores = iter(self._engine.loglikelihood(requests))
        generations: dict[str, list[Asked]] = defaultdict(list)
        for each in asked:
            if each.settings is not None:
                generations[each.settings.key].append(each)
                continue
            parts = [next(scores) for _ in each.requests]
            nats = sum(part.nats for part in parts)
            rolling = each.instance.request_type == "loglikelihood_rolling"
            answer = nats if rolling else (nats, parts[0].greedy)
            each.instance.resps = [answer] * each.repeats
        for group in generations.values():
            self._generate(group)
        for ensemble in self._task._filters if asked else ():
            ensemble.apply([each.instance for each in asked])

    def _generate(self, asked: Sequence[Asked]) -> None:
        assert self._engine is not None and asked[0].settings is not None
        settings = asked[0].settings
        # lm-eval's order, which decides what a sampled answer draws.
        order = sorted(asked, key=lambda each: str(each.instance.args[0]))
        try:
            made = self._engine.generate(
                [each.prompt for each in order for _ in range(each.repeats)],
                until=settings.until,
                limit=settings.limit,
                options=settings.options,
            )
        except FloatingPointError:
            raise NonFinite(self.name) from None
        answers = iter(made)
        for each in order:
            each.generated = [next(answers) for _ in range(each.repeats)]
            read = [
                self._thinking.read(answer, settings.until, self._engine.tokenizer)
                for answer in each.generated
            ]
            each.instance.resps, each.thoughts = map(list, zip(*read, strict=True))

    def _measure(self, row: int, asked: Sequence[Asked]) -> tuple[list[Any], dict[str, Any]]:
        """The raw responses of one item, and its metrics and signals by full name."""
        with self._rendered():
            return self._measured(row, asked)

    def _rendered(self) -> AbstractContextManager[None]:
        return rendered(self.name, next(iter(self._file.files)))

    def _measured(self, row: int, asked: Sequence[Asked]) -> tuple[list[Any], dict[str, Any]]:
        responses, measured = self._own_metrics(row, [each.instance for each in asked])
        return responses, measured | self._signals.of(asked, self._right[row])

    def _own_metrics(
        self, row: int, requests: Sequence[Instance]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The raw responses of one item, whose filters were applied, and the task's own metrics by full name."""
        responses = [_plain(each.resps) for each in requests]
        if not _finite(responses):
            raise NonFinite(self.name, self._ids[row])
        measured: dict[str, Any] = {}
        aggregation = self._task.aggregation()
        for filter_ in self._filters:
            results = [each.filtered_resps[filter_] for each in requests]
            # A copy: a task's own code may write into its document.
            doc = self._docs[row] if self._is_plain else deepcopy(self._docs[row])
            for metric, raw in self._task.process_results(doc, results).items():
                value = _plain(raw)
                if value != value and aggregation.get(metric) is nanmean:
                    value = None  # the task's way to say that the metric does not apply
                if f"{metric},{filter_}" not in self._own:
                    continue
                if not _finite(value):
                    raise NonFinite(self.name, self._ids[row])
                if not _is_plain(value):
                    raise RunError(
                        f"{self.name} ({next(iter(self._file.files))}): its process_results gave {value!r:.100} for "
                        f"{metric} of item {self._ids[row]}; expected numbers, texts, or lists of them"
                    )
                measured[f"{metric},{filter_}"] = value
        return responses, measured


def _remember(task: Any, docs: Sequence[Any]) -> None:
    """Let ``task`` render the prompt, choices and target of each of ``docs`` once.

    They cannot change, and rendering them is most of what computing a metric costs. Copies of
    documents, as few-shot prompts take, are rendered as ever.
    """
    known = {id(doc) for doc in docs}
    for name in ("doc_to_text", "doc_to_choice", "doc_to_target"):
        setattr(task, name, _remembering(getattr(task, name), known))


def _remembering(render: Callable[..., Any], known: set[int]) -> Callable[..., Any]:
    rendered: dict[int, Any] = {}

    def remembered(doc: Any, *options: Any, **named: Any) -> Any:
        if options or named or id(doc) not in known:
            return render(doc, *options, **named)
        if id(doc) not in rendered:
            rendered[id(doc)] = render(doc)
        return rendered[id(doc)]

    return remembered


def _described(value: Any) -> str:
    """What JSON cannot hold, in a way that is the same in every process."""
    if callable(value):
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            return getattr(value, "__qualname__", type(value).__qualname__)
    return str(value)


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
    """Whether no number inside a plain ``value`` is NaN, infinite or beyond float64."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    if isinstance(value, int):
        return abs(value) <= _MOST
    return not isinstance(value, float) or math.isfinite(value)


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold ``value``."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
