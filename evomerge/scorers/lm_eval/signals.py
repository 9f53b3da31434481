"""Columns that an lm-eval task gets beside its own metrics, answer by answer: margins, nats, signs of trouble."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from statistics import fmean
from typing import Any, TypeVar

from lm_eval.api.task import ConfigurableTask

from evomerge.scorers.lm_eval.loading import GENERATES
from evomerge.scorers.lm_eval.prompts import Asked
from evomerge.scorers.signals import repetitive
from evomerge.suite.language import off_language

T = TypeVar("T")
ItemSignals = dict[str, float | None]
LIKELIHOODS = ("loglikelihood", "loglikelihood_rolling")  # how likely texts are


class Signals:
    """The signals that apply to a task; ``names`` are theirs, and those made of them.

    A task of choices that computes its results by code of its own may mean anything by its target:
    it has none. What ``thinks`` has the tokens of its thoughts counted apart.
    """

    def __init__(self, task: Any, language: str | None, thinks: bool = False) -> None:
        self._task, self._language = task, language
        self._fallbacks = {
            ensemble.name: fallbacks
            for ensemble in task._filters
            if (fallbacks := _fallbacks(ensemble))
        }
        # Once more without their context, after all that are asked with it.
        self._twice = "acc_mutual_info" in task.higher_is_better()
        kind = task.OUTPUT_TYPE
        self.names: tuple[str, ...] = ()
        if kind == "multiple_choice" and plain(task):
            self.names = ("margin", "target_nats")
        elif kind in LIKELIHOODS:
            self.names = ("target_nats",)
        elif kind == GENERATES:
            self.names = ("length", *(("thought_length",) if thinks else ()))
            self.names += ("truncated", "repetitive")
            self.names += ("unextracted",) if self._fallbacks else ()
            self.names += ("off_language", "in_language") if language else ()

    def of(self, asked: Sequence[Asked], right: set[int]) -> ItemSignals:
        """The signals of one item, whose requests are ``asked``; ``right`` ones are right answers."""
        if asked[0].settings is None:
            found = self._of_scores(asked, right)
        else:
            found = self._of_texts(asked[0])
        return {name: found[name] for name in self.names if name in found}

    def _of_scores(self, asked: Sequence[Asked], right: set[int]) -> ItemSignals:
        asked = self.once(asked)
        best = max((asked[n] for n in right), key=lambda each: each.nats, default=None)
        wrong = max((each.nats for n, each in enumerate(asked) if n not in right), default=None)
        return {
            "margin": None if best is None or wrong is None else best.nats - wrong,
            "target_nats": -best.nats / best.targets if best and best.targets else None,
        }

    def once(self, asked: Sequence[T]) -> Sequence[T]:
        """Without those that are asked again without their context."""
        return asked[: len(asked) // 2] if self._twice else asked

    def _of_texts(self, asked: Asked) -> ItemSignals:
        """On average over the repeats of a request."""
        texts = asked.instance.resps
        lengths = [len(answer.tokens) for answer in asked.generated]
        found: dict[str, list[float | None]] = {
            "length": [float(n - m) for n, m in zip(lengths, asked.thoughts, strict=True)],
            "thought_length": [float(thought) for thought in asked.thoughts],
            "truncated": [float(answer.truncated) for answer in asked.generated],
            "repetitive": [float(repetitive(text)) for text in texts],
            "unextracted": [float(self._is_unextracted(asked))],
        }
        if self._language is not None:
            found["off_language"] = [off_language(text, self._language) for text in texts]
        known = {name: [v for v in values if v is not None] for name, values in found.items()}
        return {name: fmean(values) if values else None for name, values in known.items()}

    def right_answers(self, doc: Any) -> set[int]:
        """Which requests of a document ask for the right answer."""
        task = self._task
        if task.OUTPUT_TYPE != "multiple_choice":
            return {0}
        if "margin" not in self.names:
            return set()
        doc = deepcopy(doc)
        gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        choices = task.doc_to_choice(doc)
        if isinstance(gold, str):
            gold = choices.index(gold) if gold in choices else -1
        golds = gold if isinstance(gold, list) else [gold]
        return {number for number in golds if 0 <= number < len(choices)}

    def _is_unextracted(self, asked: Asked) -> bool:
        """Whether every filter that extracts answers fell back to saying that there is none."""
        for name, fallbacks in self._fallbacks.items():
            filtered = asked.instance.filtered_resps[name]
            found = filtered if isinstance(filtered, list) else [filtered]
            if any(answer not in fallbacks for answer in found):
                return False
        return True


def plain(task: Any) -> bool:
    """Whether lm-eval itself computes the results of ``task`` from what its configuration says."""
    own = getattr(type(task), "process_results", None)
    return own is ConfigurableTask.process_results and not callable(task.config.process_results)


def _fallbacks(ensemble: Any) -> list[Any]:
    """What the filters of ``ensemble`` say when they find no answer; empty if none looks for one."""
    made = [getattr(make(), "fallback", None) for make in ensemble.filters]
    found = [fallback for fallback in made if fallback is not None]
    return [*found, "", "[invalid]"] if found else []
