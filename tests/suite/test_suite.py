from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from evomerge import config
from evomerge.errors import ConfigError, InputError
from evomerge.scorers import build_scorers
from evomerge.suite import schedule
from evomerge.suite.objectives import Floor
from evomerge.suite.spec import parse_suite
from evomerge.suite.suite import Suite

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
    samples = [suite.sample(3, batch, 0.5) for batch in range(2, 12)]
    assert samples == [again.sample(3, batch, 0.5) for batch in range(2, 12)]
    assert len({str(sample) for sample in samples}) == len(samples)
    assert suite.sample(4, 2, 0.5) != suite.sample(3, 2, 0.5)
    for sample in samples:
        for name, ids in sample.items():
            assert len(ids) == 7 and set(ids) < set(suite.splits["search"][name])


def test_samples_grow_geometrically_with_the_search(folder: Path) -> None:
    suite = suite_of(folder, items={"candidate": [2, 8], "probe": 2})
    sizes = [len(suite.sample(0, 2, part)["th.jsonl"]) for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert sizes == [2, 3, 4, 6, 8]
    assert suite.cost(0.5) == 2 * 4 + 2 and suite.cost(1.0) == 2 * 8 + 2


def test_every_stratum_gets_its_share_and_every_item_the_same_chance() -> None:
    strata = {"task": {f"{label}{n}": label for label, size in STRATA.items() for n in range(size)}}
    split = {"task": list(strata["task"])}
    draws = [schedule.sample(split, strata, 9, 0, "items", key)["task"] for key in range(600)]
    for label, size in STRATA.items():
        counts = {sum(id.startswith(label) for id in ids) for ids in draws}
        share = 9 * size / 30
        assert counts <= {int(share), int(share) + 1}, "the share, rounded up or down"
    chances = [sum(id in ids for ids in draws) / 600 for id in split["task"]]
    assert min(chances) > 0.22 and max(chances) < 0.38, "0.3, with a standard error of 0.019"
    assert all(ids == [id for id in split["task"] if id in ids] for ids in draws), "order is kept"


STRATA = {"th": 4, "id": 9, "vi": 17}


def test_rounds_grow_keep_sources_whole_and_hold_every_stratum(folder: Path) -> None:
    suite = suite_of(
        folder, items={"shares": {"probe": 0, "search": 0.2, "select": 0.6, "report": 0.2}}
    )
    rounds = suite.rounds()
    assert rounds[-1] == suite.splits["select"]
    found = [sources(suite, items) for items in rounds]
    assert all(small < large for small, large in pairwise(found))
    count = len(found[-1])
    assert [len(names) / count for names in found] == pytest.approx([0.25, 0.5, 1], abs=1 / count)
    for items in rounds:
        thai, indonesian = (sources(suite, {name: ids}) for name, ids in items.items())
        assert thai == indonesian, "translations stay together"
    strata = {name: dict.fromkeys(ids, "common") for name, ids in rounds[-1].items()}
    rare = rounds[-1]["id.jsonl"][-1]
    strata["id.jsonl"][rare] = "rare"
    assert rare in schedule.part(rounds[-1], suite.source_of, strata, 0.05)["id.jsonl"]


def test_limits_cap_a_split(folder: Path) -> None:
    capped = suite_of(folder, items={"search": 5, "report": 3})
    assert {name: len(ids) for name, ids in capped.splits["search"].items()} == {
        "th.jsonl": 5,
        "id.jsonl": 5,
    }
    assert capped.sample(0, 2, 0.0) == capped.splits["search"], "fewer than a candidate may have"
    assert set(capped.splits["report"]["th.jsonl"]) < set(
        suite_of(folder).splits["report"]["th.jsonl"]
    )


def test_values_come_from_responses(folder: Path) -> None:
    suite = suite_of(folder)
    nats = {"th.jsonl": [8.0, 2.0, 4.0], "id.jsonl": [1.0, 1.0, 1.0]}
    results: Any = {
        name: {
            "items": ["4", "9", "2"],
            "responses": column,
            "metrics": {"bits_per_byte": [[value, 2] for value in column]},
            "tokens": 9,
        }
        for name, column in nats.items()
    }
    bit = 0.6931471805599453
    assert suite.values(results) == pytest.approx({"th": 14 / 6 / bit, "id": 0.5 / bit})


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


def test_what_the_scorers_find_wrong_is_said_with_its_line(folder: Path) -> None:
    objectives = {
        "a": {"text": "no.jsonl"},
        "b": {"text": "th.jsonl", "weight": 2, "metric": "acc"},
        "c": {"text": "id.jsonl", "direction": "maximize"},
        "d": {"text": "th.jsonl"},
        "worst": {"worst_of": ["c", "d"]},
    }
    with pytest.raises(ConfigError) as caught:
        suite_of(folder, objectives=objectives)
    lines = (folder / "fitness.yaml").read_text().splitlines()
    for problem, key in zip(
        caught.value.problems, ("a", "b.metric", "worst"), strict=True
    ):  # a key that stands there is shown by its own line
        place, said, _ = problem.split(": ", 2)
        assert said == f"objectives.{key}", problem
        at = lines[int(place.rpartition(":")[2]) - 1]
        assert key.rpartition(".")[2] in at, (problem, at)


def test_a_probe_is_so_many_items_in_all(folder: Path) -> None:
    (folder / "few.txt").write_text("\n\n".join(f"few {n} " * 9 for n in range(60)))
    objectives = {name: {"text": f"{name}.jsonl"} for name in LANGUAGES}
    objectives["few"] = {"text": "few.txt"}
    shares = {"probe": 0.4, "search": 0.2, "select": 0.2, "report": 0.2}

    def sizes(total: int) -> list[int]:
        suite = suite_of(folder, objectives=objectives, items={"probe": total, "shares": shares})
        return [len(ids) for ids in suite.splits["probe"].values()]

    assert sizes(10) == [4, 3, 3]
    assert sizes(2) == [1, 1, 0]
    whole = sizes(1000)
    assert sum(sizes(sum(whole) - 1)) == sum(whole) - 1, "who has more makes up for who has few"


def test_anchors_take_the_place_of_samples_and_of_the_search_split(folder: Path) -> None:
    whole = suite_of(folder).splits["search"]
    chosen = whole["th.jsonl"][-3:]
    suite = suite_of(folder, anchors={"th.jsonl": {id: 2.0 for id in reversed(chosen)}})
    assert suite.splits["search"] == {"th.jsonl": chosen, "id.jsonl": whole["id.jsonl"]}
    sample = suite.sample(0, 2, 0.0)
    assert sample["th.jsonl"] == chosen and len(sample["id.jsonl"]) == 7
    assert suite.cost(0.0) == 3 + 7 + sum(map(len, suite.splits["probe"].values()))
    other = suite.splits["report"]["th.jsonl"][0]
    said = (
        rf"fitness.yaml:\d+: anchors.th.jsonl.{other}: .* not in the search split.*reduce it again"
    )
    with pytest.raises(InputError, match=said):
        suite_of(folder, anchors={"th.jsonl": {other: 1.0}}).cost(0.0)
