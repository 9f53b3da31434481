"""Scorers: what turns a live model into responses, task by task.

A worker builds each scorer of a suite once and binds it to its engine, whose weights change between
calls. What a scorer returns is plain data, for the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from evomerge.engines import Engine
from evomerge.suite.scorer import Responses, Results, Scorer
from evomerge.suite.spec import ScorerSpec


class LiveScorer(Scorer, Protocol):
    """A scorer that can be asked. A plugin is such a class under group ``evomerge.scorers``."""

    def bind(self, engine: Engine) -> None:
        """Prepare to score what ``engine`` runs; must come before ``score``."""
        ...

    def score(self, ids: Sequence[str]) -> Responses:
        """Responses of the bound engine's model to the items ``ids`` (distinct), in that order.

        They depend on the model's weights and on the set of ids, on nothing scored before.

        Raises:
            NonFinite: an answer is NaN or infinite.
        """
        ...


def build_scorers(plain: Mapping[str, Any]) -> dict[str, LiveScorer]:
    """The scorers that ``SuiteSpec.plain`` describes, by name."""
    specs = [ScorerSpec(*entry) for entry in plain["scorers"]]
    return {spec.name: spec.build(plain["include"]) for spec in specs}


def evaluate(
    scorers: Mapping[str, LiveScorer],
    items: Mapping[str, Sequence[str]],
    heard: Callable[[str], None] = lambda name: None,
) -> Results:
    """Responses of the bound model to ``items``, scorer by scorer; ``heard`` is told whose turn it is."""
    found: Results = {}
    for name, ids in items.items():
        heard(name)
        found[name] = scorers[name].score(list(ids))
    return found
