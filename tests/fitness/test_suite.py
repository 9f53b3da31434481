from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evomerge import config
from evomerge.errors import ConfigError
from evomerge.fitness.objectives import Floor
from evomerge.fitness.suite import Suite, build_scorers, parse_suite

LANGUAGES = ("th", "id")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two text files, the one a translation of the other, in another order."""
    for language in LANGUAGES:
        rows = [
            {"text": f"{language} {n} " * (1 + n % 4), "source_id": f"passage {n}"}
            for n in range(60)
        ]
        lines = [json.dumps(row) for row in (rows if language == "th" else rows[::-1])]
        (tmp_path / f"{language}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def suite_of(folder: Path, **content: Any) -> Suite:
    content.setdefault("objectives", {name: {"text": f"{name}.jsonl"} for name in LANGUAGES})
    content.setdefault("items", {"candidate": 7})
    (folder / "fitness.yaml").write_text(config.dump(content), encoding="utf-8")
    problems = config.Problems()
    spec = parse_suite(config.read(folder / "fitness.yaml"), ("chat", "sea"), problems)
    problems.check()
    assert spec is not None
    return Suite(spec)


def sources(suite: Suite, items: Mapping[str, list[str]]) -> set[str]:
    return {suite.source_of[name][item] for name, ids in items.items() for item in ids}


def test_splits_share_no_source_over_all_tasks(folder: Path) -> None:
    suite = suite_of(folder)
    found = [sources(suite, items) for items in suite.splits.values()]
    assert all(found)
    assert sum(map(len, found)) == len(set.union(*found)) == 60
    for items in suite.splits.values():
        thai, indonesian = (sources(suite, {name: ids}) for name, ids in items.items())
        assert thai == indonesian, "translations stay together"


def test_a_sample_is_shared_within_a_generation_and_differs_between(folder: Path) -> None:
    suite, again = suite_of(folder), suite_of(folder)
    samples = [suite.sample(3, batch) for batch in range(2, 12)]
    assert samples == [again.sample(3, batch) for batch in range(2, 12)]
    assert len({str(sample) for sample in samples}) == len(samples)
    assert suite.sample(4, 2) != suite.sample(3, 2)
    for sample in samples:
        for name, ids in sample.items():
            assert len(ids) == 7 and set(ids) < set(suite.splits["search"][name])


def test_limits_cap_a_split(folder: Path) -> None:
    capped = suite_of(folder, items={"search": 5, "report": 3})
    assert {name: len(ids) for name, ids in capped.splits["search"].items()} == {
        "th.jsonl": 5,
        "id.jsonl": 5,
    }
    assert capped.sample(0, 2) == capped.splits["search"], "fewer than a candidate may have"
    assert set(capped.splits["report"]["th.jsonl"]) < set(
        suite_of(folder).splits["report"]["th.jsonl"]
    )


def test_values_come_from_responses_over_all_items_or_some(folder: Path) -> None:
    suite = suite_of(folder)
    nats = {"th.jsonl": [8.0, 2.0, 4.0], "id.jsonl": [1.0, 1.0, 1.0]}
    results: Any = {
        name: {
            "items": ["4", "9", "2"],
            "responses": column,
            "metrics": {"bits_per_byte": [[value, 2] for value in column]},
        }
        for name, column in nats.items()
    }
    bit = 0.6931471805599453
    assert suite.values(results) == pytest.approx({"th": 14 / 6 / bit, "id": 0.5 / bit})
    some = {"th.jsonl": ["2", "9"], "id.jsonl": ["9"]}
    assert suite.values(results, some) == pytest.approx({"th": 1.5 / bit, "id": 0.5 / bit})


def test_directions_come_from_the_metric_unless_said(folder: Path) -> None:
    (auto, turned) = suite_of(
        folder,
        objectives={
            "auto": {"text": "th.jsonl"},
            "turned": {"text": "id.jsonl", "direction": "maximize"},
        },
    ).objectives
    assert (auto.metric, auto.maximize) == ("bits_per_byte", False)
    assert turned.maximize


def test_two_objectives_may_share_a_scorer(folder: Path) -> None:
    suite = suite_of(
        folder,
        objectives={"a": {"text": "th.jsonl"}, "b": {"text": "th.jsonl", "floor": "98% of chat"}},
    )
    assert list(suite.scorers) == ["th.jsonl"]
    assert suite.objectives[1].floor == Floor(share=0.98, of="chat")


def test_plain_data_rebuilds_the_scorers_elsewhere(folder: Path) -> None:
    suite = suite_of(folder)
    plain = json.loads(json.dumps(suite.spec.plain))
    rebuilt = build_scorers(plain)
    assert list(rebuilt) == list(suite.scorers)
    for name, scorer in rebuilt.items():
        assert scorer.items() == suite.scorers[name].items()


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ({"objectives": {}}, ["expected at least one objective"]),
        ({"combine": "pareto"}, ["combine: ", "retention"]),
        ({"objectives": {"a": {"text": "th.jsonl", "weight": 0}}}, ["every weight is 0"]),
        ({"objectives": {"a": {"text": "th.jsonl", "floor": "0% of chat"}}}, ["a.floor"]),
        (
            {"objectives": {"a": {"text": "th.jsonl", "floor": "98% of chatt"}}},
            ["a.floor", "did you mean 'chat'?"],
        ),
        ({"objectives": {"a": {"text": "th.jsonl", "task": "b"}}}, ["exactly one of task, text"]),
        (
            {"objectives": {"a": {"text": "no.jsonl"}, "b": {"text": "th.jsonl", "metric": "acc"}}},
            ["no.jsonl: no such file", "objectives.b.metric: ", "bits_per_byte"],
        ),
        ({"items": {"shares": {"search": 0.9}}}, ["shares: must add up to 1"]),
        ({"include": ["nowhere"]}, ["no such folder", "nowhere"]),
    ],
)
def test_what_is_wrong_is_said(folder: Path, content: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        suite_of(folder, **content)
    for message in messages:
        assert message in str(caught.value)
