from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import InputError
from evomerge.suite.scorer import Item
from evomerge.suite.splits import SHARES, SPLITS, assign, digest, split_of, subset

# Enough sources that no split is empty: the chance is under 1e-8.
SOURCES = [f"s{number}" for number in range(400)]


@st.composite
def inventories(draw: st.DrawFn) -> dict[str, list[Item]]:
    """Tasks over shared sources; some sources have several items within a task."""
    names = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True))
    tasks = {}
    for name in names:
        start, siblings = draw(st.integers(0, 100)), draw(st.integers(1, 3))
        tasks[name] = [
            Item(f"{source}/{n}", source) for source in SOURCES[start:] for n in range(siblings)
        ]
    return tasks


def sources(items: Mapping[str, Sequence[Item]], split: Mapping[str, list[str]]) -> set[str]:
    return {
        item.source for name, ids in split.items() for item in items[name] if item.id in set(ids)
    }


@settings(max_examples=20, deadline=None)
@given(inventories())
def test_splits_are_disjoint_by_source_and_complete(items: dict[str, list[Item]]) -> None:
    assignment = assign(items)
    found = {split: sources(items, assignment[split]) for split in SPLITS}
    assert all(not found[a] & found[b] for a, b in combinations(SPLITS, 2))
    for name, listed in items.items():
        ids = [id for split in SPLITS for id in assignment[split][name]]
        assert sorted(ids) == sorted(item.id for item in listed)


@settings(max_examples=20, deadline=None)
@given(inventories())
def test_an_added_task_moves_nothing(items: dict[str, list[Item]]) -> None:
    more = {**items, "added": [Item(str(n), f"t{n}") for n in range(400)]}
    before, after = assign(items), assign(more)
    assert all(after[split][name] == before[split][name] for split in SPLITS for name in items)


@settings(max_examples=20, deadline=None)
@given(inventories(), st.randoms(use_true_random=False))
def test_order_does_not_matter(items: dict[str, list[Item]], shuffle: st.DataObject) -> None:
    shuffled = {name: list(items[name]) for name in reversed(items)}
    for listed in shuffled.values():
        shuffle.shuffle(listed)  # type: ignore[attr-defined]
    assert digest(assign(shuffled)) == digest(assign(items))


@given(st.text())
def test_a_source_has_one_split(source: str) -> None:
    assert split_of(source) == split_of(source) in SPLITS


def test_where_sources_fall_never_changes() -> None:
    fixed = {"0": "report", "1": "search", "2": "report", "tydiqa-id-543": "search"}
    assert {source: split_of(source) for source in fixed} == fixed


def test_shares_are_met() -> None:
    counts = {split: 0 for split in SPLITS}
    for number in range(20_000):
        counts[split_of(f"item {number}")] += 1
    for split, share in SHARES.items():
        assert counts[split] / 20_000 == pytest.approx(share, abs=0.015)


def test_a_smaller_report_share_stays_within_the_larger() -> None:
    fewer = {"probe": 0.1, "search": 0.6, "select": 0.1, "report": 0.2}
    report = {source for source in SOURCES if split_of(source) == "report"}
    assert {source for source in SOURCES if split_of(source, fewer) == "report"} < report


def test_an_empty_share_gets_nothing() -> None:
    shares = {"search": 0.7, "select": 0.1, "probe": 0.2, "report": 0.0}
    assert all(split_of(source, shares) != "report" for source in SOURCES)
    assert assign({"a": [Item(s, s) for s in SOURCES]}, shares)["report"]["a"] == []


@settings(max_examples=20, deadline=None)
@given(inventories(), st.integers(1, 40), st.integers(1, 40))
def test_a_lower_limit_keeps_a_subset(items: dict[str, list[Item]], a: int, b: int) -> None:
    low, high = sorted((a, b))
    small = assign(items, limits={"search": low})
    large = assign(items, limits={"search": high})
    for name in items:
        assert len(small["search"][name]) == low
        assert small["search"][name] == large["search"][name][:low]
        assert small["report"][name] == large["report"][name]


def test_limits_cut_by_hash_and_keep_parallel_tasks_aligned() -> None:
    items = {lang: [Item(f"{lang}{n}", str(n)) for n in range(400)] for lang in ("id", "th")}
    search = assign(items, limits={"search": 20})["search"]
    rows = [int(id.removeprefix("id")) for id in search["id"]]
    assert [int(id.removeprefix("th")) for id in search["th"]] == rows
    assert max(rows) > 200  # never a prefix of the file


def test_a_scorer_may_fix_the_split() -> None:
    items = [Item(split, split, split=split) for split in SPLITS]
    assert assign({"f": items}) == {split: {"f": [split]} for split in SPLITS}


def test_too_few_sources() -> None:
    few = [Item(f"{n}", "only") for n in range(9)]
    with pytest.raises(InputError, match=r"few: 1 different sources are too few: none falls into"):
        assign({"few": few})


@pytest.mark.parametrize(
    "shares", [{"search": 0.5}, {"search": 1.2, "report": -0.2}, {"serach": 0.5, "report": 0.5}]
)
def test_wrong_shares(shares: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"did you mean 'search'|sum to 1"):
        split_of("a", shares)


def test_unknown_limit() -> None:
    with pytest.raises(InputError, match=r"limits: unknown split 'reprot'.*'report'"):
        assign({}, limits={"reprot": 3})


@given(st.integers(0, 50), st.integers(0, 5))
def test_subset_draws_without_replacement(count: int, batch: int) -> None:
    split = {"a": SOURCES[:30], "b": SOURCES[100:120]}
    drawn = subset(split, count, 7, "items", batch)
    for name, ids in split.items():
        assert len(drawn[name]) == len(set(drawn[name])) == min(count, len(ids))
        assert drawn[name] == [id for id in ids if id in drawn[name]]
        assert subset({name: ids}, count, 7, "items", batch) == {name: drawn[name]}


def test_subsets_differ_by_key_and_cover_the_split() -> None:
    split = {"a": SOURCES[:30], "b": SOURCES[:30]}
    drawn = [subset(split, 10, 7, "items", batch) for batch in range(12)]
    assert len({tuple(each["a"]) for each in drawn}) == 12
    assert drawn[0]["a"] != drawn[0]["b"]
    assert {id for each in drawn for id in each["a"]} == set(SOURCES[:30])


def test_digest_tells_assignments_apart() -> None:
    items = {"a": [Item(s, s) for s in SOURCES]}
    assert digest(assign(items)) != digest(assign(items, limits={"report": 5}))
    assert len(digest(assign(items))) == 32


def test_another_partition_is_another_draw() -> None:
    items = {"task": [Item(str(n), f"source {n}") for n in range(400)]}
    zero, one = (set(assign(items, partition=n)["report"]["task"]) for n in (0, 1))
    assert zero == set(assign(items)["report"]["task"])
    assert 0.3 < len(zero & one) / len(one) < 0.5  # as independent draws of 40 percent
