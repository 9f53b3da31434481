"""The ledger of answers: which items each model was asked, and which blocks hold its answers. None is asked twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.record.responses import Block, Store
from evomerge.suite.scorer import Items, Results

At = tuple[int, int]  # an evaluation: its batch and its candidate


@dataclass(slots=True)
class _Model:
    """What a recipe, merged and scored in one dtype, was asked: evaluation by evaluation."""

    asked: dict[At, Items] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    error: str | None = None


class Answers:
    """A ledger over the response store. ``key`` names a model: a recipe and a dtype."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._models: dict[str, _Model] = {}
        self._newest: Items = {}

    def add(self, key: str, at: At, items: Items, block: Block | None) -> None:
        """Evaluation ``at`` asked ``items``; the answers are ``block``."""
        model = self._models.setdefault(key, _Model())
        if items:
            if items == self._newest:  # candidates of a batch are mostly asked the same
                items = self._newest
            self._newest = model.asked[at] = items
        if block:
            model.blocks.append(block)

    def fail(self, key: str, error: str) -> None:
        """The model cannot be scored, now or later."""
        self._models.setdefault(key, _Model()).error = error

    def error(self, key: str) -> str | None:
        """Why the model failed, if it did."""
        return self._models[key].error if key in self._models else None

    def missing(self, key: str, items: Items) -> Items:
        """What of ``items`` the model was not asked yet; scorers that lack none are left out."""
        if key not in self._models:
            return items
        known = self._known(key)
        left = {name: [id for id in ids if id not in known[name]] for name, ids in items.items()}
        return {name: ids for name, ids in left.items() if ids}

    def known(self, key: str, items: Items, until: int | None = None) -> Items:
        """What of ``items`` the model was asked, in that order; in batches up to ``until``, if given."""
        known = self._known(key, until)
        return {name: [id for id in ids if id in known[name]] for name, ids in items.items()}

    def sources(self, key: str, items: Items) -> list[At]:
        """The evaluations that asked some of ``items``."""
        wanted = {name: set(ids) for name, ids in items.items()}
        return [
            at
            for at, asked in self._models.get(key, _Model()).asked.items()
            if any(
                not wanted[name].isdisjoint(ids) for name, ids in asked.items() if name in wanted
            )
        ]

    def results(self, key: str, items: Items) -> Results:
        """The answers to ``items``, all of which were asked, in that order."""
        return restrict(
            join([self._store.read(block) for block in self._models[key].blocks]), items
        )

    def _known(self, key: str, until: int | None = None) -> Mapping[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for (batch, _), asked in self._models[key].asked.items():
            if until is None or batch <= until:
                for name, ids in asked.items():
                    found[name].update(ids)
        return found


def restrict(results: Results, items: Mapping[str, Sequence[str]]) -> Results:
    """The answers to ``items``, in that order."""
    found: Results = {}
    for name, ids in items.items():
        responses = results[name]
        at = {item: position for position, item in enumerate(responses["items"])}
        rows = [at[id] for id in ids]
        found[name] = {
            "items": list(ids),
            "responses": [responses["responses"][row] for row in rows],
            "metrics": {
                metric: [values[row] for row in rows]
                for metric, values in responses["metrics"].items()
            },
            "tokens": responses["tokens"],
        }
    return found


def join(parts: Sequence[Results]) -> Results:
    """The answers of several evaluations of one model, which share no item."""
    found: Results = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        pieces = [part[name] for part in parts if name in part]
        metrics = dict.fromkeys(metric for piece in pieces for metric in piece["metrics"])
        found[name] = {
            "items": [id for piece in pieces for id in piece["items"]],
            "responses": [answer for piece in pieces for answer in piece["responses"]],
            "metrics": {
                metric: [
                    value
                    for piece in pieces
                    for value in piece["metrics"].get(metric, [None] * len(piece["items"]))
                ]
                for metric in metrics
            },
            "tokens": sum(piece["tokens"] for piece in pieces),
        }
    return found
