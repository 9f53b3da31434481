"""What a suite knows of its scorers: items, metrics, and answers as plain data.

A scorer is one task. The driver builds it to learn its items, metrics and aggregation, and asks no
model; a worker builds it again and binds it to an engine (``evomerge.scorers``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict, runtime_checkable

from evomerge.errors import CandidateFailed, InputError, did_you_mean


@dataclass(frozen=True)
class Item:
    """One question of a scorer.

    ``source`` names the original it was made from: translations of one item share it, and never
    part across splits. ``split`` fixes the split; otherwise the source's hash decides.
    ``stratum`` is a label, as a rule the language, that samples are spread over evenly; ``text`` is
    what near-duplicates are found by.
    """

    id: str
    source: str
    split: str | None = None
    stratum: str = ""
    text: str = ""


class Responses(TypedDict):
    """What a model answered, by columns: position ``i`` of every list belongs to ``items[i]``.

    JSON-able, and finite: NaN and infinity are ``NonFinite``, never data. A metric value of None
    means that the metric does not apply to the item; aggregation skips it. ``metrics`` holds the
    signals, too. ``tokens`` went through the model for this call.
    """

    items: list[str]
    responses: list[Any]
    metrics: dict[str, list[Any]]
    tokens: int


Results = dict[str, Responses]  # scorer name -> responses
Items = dict[str, list[str]]  # scorer name -> item ids

SIGNALS: Mapping[str, bool] = {
    "margin": True,  # nats by which the right choice leads the best wrong one
    "target_nats": False,  # nats per token of the right answer
    "length": False,  # of the written answer, in tokens
    "thought_length": False,  # of what was thought before it, in tokens
    "truncated": False,  # 1 if the answer was cut at the length cap
    "repetitive": False,  # 1 if the answer is empty or repeats itself without end
    "unextracted": False,  # 1 if the task's filters found no answer in it
    "off_language": False,  # 1 if it is not in the language asked for
    "in_language": True,
}
"""Per-item metrics that evomerge adds to a task's own, and whether higher is better.

One that does not apply to a task is absent from ``Responses.metrics``; they aggregate by the mean.
"""

UNBOUNDED = ("margin", "target_nats", "length", "thought_length")
"""Signals that are no shares, even where each is 0 or 1."""


class NonFinite(CandidateFailed):
    """A model answered with NaN or infinity: its candidate failed.

    ``item`` is None when no single item can be blamed.
    """

    def __init__(self, name: str, item: str | None = None) -> None:
        super().__init__(name, item)
        self.name, self.item = name, item

    def __str__(self) -> str:
        where = self.name if self.item is None else f"{self.name}, item {self.item}"
        return f"{where}: the model's answer is not a finite number"


class Scorer(Protocol):
    """A task: its items, and what answers to them are worth.

    ``metrics`` maps each metric to whether higher is better; empty means that any name is accepted
    because none is known before the first call.
    """

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> Mapping[str, bool]: ...

    @property
    def fingerprint(self) -> str:
        """sha256 of what is asked and how: documents, prompts, metrics; a resumed run compares it."""
        ...

    @property
    def files(self) -> Mapping[str, str]:
        """Files on this machine that scores depend on, in a folder that may move -> sha256."""
        ...

    @property
    def sources(self) -> Mapping[str, Path]:
        """The same files, where they lie on this machine, by a name that is the same on every machine."""
        ...

    def items(self) -> list[Item]:
        """Every item, in the order of the data. Ids are unique and stable."""
        ...

    def resolve_metric(self, metric: str) -> str:
        """The full name of ``metric``.

        Raises:
            InputError: the scorer does not report it.
        """
        ...

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """One number from the per-item ``values`` of ``metric``, in the metric's own direction.

        Raises:
            NonFinite: the number is NaN or infinite, or no item has a value.
        """
        ...


@runtime_checkable
class Taught(Protocol):
    """A scorer that says what its items teach, if anything."""

    @property
    def teaches(self) -> str:
        """Why its items teach nothing; empty if they do."""
        ...

    @property
    def taught(self) -> Sequence[str]:
        """The metrics that are better where right answers lead; of others its items say nothing."""
        ...


@runtime_checkable
class Shown(Taught, Protocol):
    """A scorer that may state no right answers, but knows those that models wrote."""

    @property
    def shown(self) -> str:
        """Why answers of other models stand for right ones of its own; empty if they do not."""
        ...

    def written(self, responses: Responses) -> list[str | None]:
        """The text that each item was answered by; None where there is no whole one."""
        ...


@runtime_checkable
class Mixing(Protocol):
    """A scorer whose stored answers tell what a mixture of several models' output distributions answers."""

    def mixed(self, answers: Sequence[Responses]) -> Responses | None:
        """The answers of the mean of the distributions, with all metrics that follow from it.

        Args:
            answers: of several models, to the same items.

        Returns:
            None where whole answers are kept and not how likely others were.
        """
        ...


@runtime_checkable
class Chatting(Protocol):
    """A scorer that writes its prompts by what a tokenizer says of chats and tokens."""

    def prompt_notes(self, tokenizer: Any) -> list[str]:
        """What ``tokenizer`` makes otherwise than asked, one fact a line.

        Raises:
            InputError: prompts cannot be written by it, or what ends a thought is never found.
        """
        ...


def column(responses: Responses, metric: str) -> list[Any]:
    """The per-item values of ``metric``, which may be a product: ``exact_match,none*in_language``.

    A product has no value where a factor has none; but an answer too short to tell its language is
    in no other than the asked one.

    Raises:
        InputError: the responses have no such metric.
    """
    factors = [_factor(responses, name) for name in metric.split("*")]
    if len(factors) == 1:
        return factors[0]
    return [None if None in values else math.prod(values) for values in zip(*factors, strict=True)]


def _factor(responses: Responses, name: str) -> list[Any]:
    metrics = responses["metrics"]
    if name in ("in_language", "off_language") and "off_language" in metrics:
        off = [0.0 if value is None else value for value in metrics["off_language"]]
        return off if name == "off_language" else [1.0 - value for value in off]
    if name not in metrics:
        raise InputError(f"no {name!r} was measured; there are: {', '.join(metrics)}")
    return metrics[name]


def unknown_metric(name: str, metric: str, known: Sequence[str]) -> str:
    """The message for a ``metric`` that scorer ``name`` does not report."""
    hint = did_you_mean(metric, known)
    return f"{name}: no metric {metric!r}{hint}; it reports: {', '.join(known)}"
