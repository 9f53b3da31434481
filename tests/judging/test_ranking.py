"""Which objectives can rank models, from planted answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evomerge.commands.check import check
from evomerge.commands.search import search
from evomerge.evolution.history import History, Settled
from evomerge.judging.ranking import settle
from evomerge.record.events import SettledLine, read_lines
from evomerge.record.record import Record
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import Results
from evomerge.suite.suite import Suite

N = 60
IDS = [str(n) for n in range(N)]
KNOWN, NOISE = Objective("known", "a", "acc"), Objective("noise", "b", "acc")
COST = Objective("cost", "b", "acc", maximize=False)


class Accuracy:
    def aggregate(self, metric: str, values: Sequence[float]) -> float:
        return sum(values) / len(values)


class Planted(Suite):
    def __init__(self, *objectives: Objective, combination: str = "retention") -> None:
        self.spec: Any = SimpleNamespace(combination=combination, anchors={})
        self.objectives = objectives
        self.scorers: Any = {name: Accuracy() for name in "ab"}
        self.__dict__["source_of"] = {name: {id: id for id in IDS} for name in "ab"}
        self.__dict__["splits"] = {"search": {name: IDS for name in "ab"}}


def right(known: int, noise: int, shift: int = 0) -> Results:
    """Of a model: so many right of each task; ``shift`` moves those of the second."""
    columns = {
        "a": [float(n < known) for n in range(N)],
        "b": [float((n + shift) % N < noise) for n in range(N)],
    }
    return {
        name: {"items": IDS, "responses": [""] * N, "metrics": {"acc": column}, "tokens": 0}
        for name, column in columns.items()
    }


ANSWERS = {"base": right(20, 30), "chat": right(45, 32, 11), "sea": right(22, 28, 40)}


def settled(*objectives: Objective, combination: str = "retention", **answers: Results) -> Settled:
    suite = Planted(*objectives, combination=combination)
    found = {**ANSWERS, **answers}
    return settle(suite, found, {name: suite.values(each) for name, each in found.items()}, 0)


def test_a_gain_that_is_noise_is_no_yardstick() -> None:
    found = settled(KNOWN, NOISE)
    assert found.gains == {"known": pytest.approx(25 / N)}
    [(name, why)] = found.unable.items()
    assert name == "noise"
    assert (
        "no parent beats the base on it by more than its error (chat, the best of them: +0.033 ["
        in why
    )
    assert "it counts nothing in the score" in why


def test_a_clear_gain_stays_in_either_direction() -> None:
    assert not settled(KNOWN, NOISE, sea=right(22, 50)).unable
    assert not settled(KNOWN, COST, sea=right(22, 10)).unable
    assert settled(KNOWN, COST, sea=right(22, 50)).unable.keys() == {"cost"}


def test_what_all_have_wrong_or_right_ranks_nobody() -> None:
    for count in (0, N):
        alike = {name: right(n, count) for name, n in (("base", 20), ("chat", 45), ("sea", 22))}
        assert settled(KNOWN, NOISE, **alike).unable.keys() == {"noise"}


def test_a_scale_or_no_weight_asks_nothing_of_the_parents() -> None:
    for left in (
        Objective("noise", "b", "acc", scale=0.1),
        Objective("noise", "b", "acc", weight=0.0),
    ):
        found = settled(KNOWN, left)
        assert not found.unable and found.gains.keys() == {"known", "noise"}


def test_where_nothing_is_left_all_count_and_a_plain_mean_is_as_it_was() -> None:
    alone = settled(NOISE)
    assert alone.gains.keys() == {"noise"} and "all of them count" in alone.unable["noise"]
    plain = settled(KNOWN, NOISE, combination="mean")
    assert plain.gains.keys() == {"known", "noise"}
    assert "its plain value counts all the same" in plain.unable["noise"]


def test_it_counts_nothing_in_the_score() -> None:
    suite = Planted(KNOWN, NOISE)
    references = {name: suite.values(each) for name, each in ANSWERS.items()}
    gains = settled(KNOWN, NOISE).gains
    low, high = ({"known": 0.5, "noise": noise} for noise in (0.1, 0.9))
    assert suite.combine(low, references, gains) == suite.combine(high, references, gains)
    assert suite.combine(references["chat"], references, gains).value == pytest.approx(1.0)
    worst = Planted(KNOWN, NOISE, combination="worst")
    assert worst.combine(low, references, gains).value == pytest.approx(0.4)


def test_a_search_says_so_and_goes_on_the_same_after_a_resume(run_folder: Any) -> None:
    """The untrained family: one task is a coin toss, the texts' yardstick is stated."""
    objectives = {"sums": {"task": "sums"}, "text": {"text": "texts.jsonl", "scale": 0.1}}
    items = {"search": 12, "select": 6, "report": 12, "candidate": 6}
    folder: Path = run_folder(
        fitness={"include": ["."], "objectives": objectives, "items": items},
        space={"methods": ["linear"], "start": ["uniform"]},
        optimizer={"name": "random", "population": 3},
        budget={"evaluations": 8},
    )
    assert not any("cannot rank" in line for line in check(folder))
    said = "sums cannot rank these models: no parent beats the base on it by more than its error"
    result = search(folder)
    assert [remark for remark in result.remarks if remark.startswith(said)]
    assert [line for line in check(folder) if line.startswith(said)]
    assert result.table.yardsticks == {"text": 0.1}
    assert said in (folder / "report.md").read_text()
    record = Record(folder)
    assert record.history.idle == {"sums"}
    kinds = [type(line) for line in read_lines(record.path)]
    assert kinds.count(SettledLine) == 1 and kinds[6] is SettledLine
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:6]))  # base and parents are scored, nothing follows yet
    again = search(folder)
    assert again.table.rows == result.table.rows


def test_it_is_settled_once_and_not_before_base_and_parents_are_scored() -> None:
    suite = Planted(KNOWN, NOISE)
    history = History(suite.combine, suite.yardsticks)
    with pytest.raises(ValueError, match="settled once"):
        history.settle(Settled({}))
