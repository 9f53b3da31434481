"""What every scorer must hold to, as tests: subclass, and say how to make one and an engine for it.

class TestMine(ScorerContract):
    def make(self): return Mine("mine", ...)       # one with four items at least

    @pytest.fixture
    def engine(self): ...       # made anew: a test writes into the weights of its torch module
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from evomerge.engines import Engine
from evomerge.errors import InputError
from evomerge.scorers import LiveScorer
from evomerge.suite.scorer import NonFinite, Responses


class ScorerContract:
    """Laws of ``LiveScorer``."""

    def make(self) -> LiveScorer:
        """The scorer, the same at every call."""
        raise NotImplementedError

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    def expected(self, metric: str, values: Sequence[Any]) -> float:
        """What the aggregate of ``metric`` is promised to be: the mean, unless a subclass says otherwise."""
        return math.fsum(values) / len(values)

    @pytest.fixture
    def scorer(self, engine: Engine) -> LiveScorer:
        scorer = self.make()
        scorer.bind(engine)
        return scorer

    @pytest.fixture
    def ids(self) -> list[str]:
        return [item.id for item in self.make().items()]

    def test_items_are_stable_and_their_ids_unique(self) -> None:
        scorer, again = self.make(), self.make()
        items = scorer.items()
        ids = [item.id for item in items]
        assert len(set(ids)) == len(ids) >= 4
        assert all(type(id) is str and id for id in ids)
        assert scorer.items() == items == again.items()
        assert (scorer.name, scorer.metrics) == (again.name, again.metrics)
        assert scorer.fingerprint == again.fingerprint
        items.clear()
        assert scorer.items(), "callers get a list of their own"

    def test_answers_are_plain_data_in_columns(self, scorer: LiveScorer, ids: list[str]) -> None:
        found = scorer.score(ids)
        assert found == json.loads(json.dumps(found, allow_nan=False))
        assert found.keys() == {"items", "responses", "metrics", "tokens"}
        assert found["items"] == ids
        assert len(found["responses"]) == len(ids)
        assert found["metrics"] and all(len(v) == len(ids) for v in found["metrics"].values())
        assert not scorer.metrics or set(found["metrics"]) <= set(scorer.metrics)
        assert found["tokens"] >= 0
        assert scorer.score([])["items"] == []

    def test_answers_depend_on_the_set_of_ids_alone(
        self, scorer: LiveScorer, engine: Engine, ids: list[str]
    ) -> None:
        part = ids[1:4]
        found = _by_item(scorer.score(part))
        assert _by_item(scorer.score(part[::-1])) == found
        scorer.score(ids)
        assert _by_item(scorer.score(part)) == found
        fresh = self.make()
        fresh.bind(engine)
        assert _by_item(fresh.score(part)) == found

    def test_answers_are_of_the_weights_there_are_now(
        self, scorer: LiveScorer, engine: Engine, ids: list[str]
    ) -> None:
        before = _by_item(scorer.score(ids))
        parameters = list(_module(engine).parameters())
        kept = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(1.5)
        assert _by_item(scorer.score(ids)) != before
        with torch.no_grad():
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old)
        assert _by_item(scorer.score(ids)) == before

    def test_nan_is_refused(self, scorer: LiveScorer, engine: Engine, ids: list[str]) -> None:
        scorer.score(ids)
        with torch.no_grad():
            for parameter in _module(engine).parameters():
                parameter.fill_(math.nan)
        with pytest.raises(NonFinite):
            scorer.score(ids[:2])

    def test_aggregates_are_what_is_promised(self, scorer: LiveScorer, ids: list[str]) -> None:
        for metric, values in scorer.score(ids)["metrics"].items():
            applying = [value for value in values if value is not None]
            assert scorer.resolve_metric(metric) == metric
            found = scorer.aggregate(metric, values)
            assert found == pytest.approx(self.expected(metric, applying), rel=1e-9)
            assert scorer.aggregate(metric, applying[::-1]) == pytest.approx(found, rel=1e-9)
            assert scorer.aggregate(metric, [None, *values]) == found, "None does not apply"
            for nothing in ([], [None]):
                with pytest.raises(NonFinite):
                    scorer.aggregate(metric, nothing)

    def test_what_it_does_not_know(self, scorer: LiveScorer, ids: list[str]) -> None:
        with pytest.raises(InputError):
            scorer.score([ids[0], "no such item"])
        if scorer.metrics:
            with pytest.raises(InputError):
                scorer.resolve_metric("no such metric")
        with pytest.raises(RuntimeError, match="bind"):
            self.make().score(ids[:1])


def _module(engine: Engine) -> Any:
    module = engine.module()
    assert module is not None, "the contract writes into the weights of a torch module"
    return module


def _by_item(found: Responses) -> dict[str, Any]:
    """What was answered to each item, in whatever order they were asked."""
    columns = {"response": found["responses"], **found["metrics"]}
    return {
        id: {name: values[at] for name, values in columns.items()}
        for at, id in enumerate(found["items"])
    }
