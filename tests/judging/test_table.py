"""The table at the end, made again from a finished run's own responses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from evomerge import config
from evomerge.commands.search import search
from evomerge.evolution.history import History, Phase
from evomerge.inference.intervals import Interval
from evomerge.judging.beside import together
from evomerge.judging.final import final_table
from evomerge.judging.table import Count, Gain, Row, Table
from evomerge.record import events
from evomerge.record.provenance import of_winner
from evomerge.record.record import Record
from evomerge.record.responses import Store
from evomerge.report.text import (
    beside_rows,
    table_markdown,
    table_notes,
    table_rows,
    table_title,
)
from evomerge.run.preflight import prepare
from evomerge.run.scoring import Scoring
from evomerge.run.spec import load_run
from evomerge.suite.objectives import Floor
from evomerge.suite.suite import Results, Suite

SEED = 0
FITNESS = {  # five sources or more in each split
    "include": ["."],
    # untrained parents gain nothing: with scales both count all the same
    "objectives": {
        "sums": {"task": "sums", "scale": 0.1},
        "text": {"text": "texts.jsonl", "scale": 0.1},
    },
    "items": {
        **{"search": 12, "select": 6, "report": 12, "candidate": 6},
        "shares": {"probe": 0.05, "search": 0.3, "select": 0.25, "report": 0.4},
    },
}


@dataclass(frozen=True)
class Finished:
    """A finished search, folded again, with its responses to the report and the select items."""

    search: History
    suite: Suite
    results: dict[int, Results | None]
    selected: dict[int, Results]
    interval: Callable[[int, int], Interval]
    table: Table  # as the run left it

    def again(self, seed: int = SEED, **changes: Any) -> Table:
        """The table from these parts, some of them changed."""
        parts = replace(self, **changes)
        kept = {
            "selected": parts.selected,
            "interval": parts.interval,
            "rounding": self.table.rounding,
        }
        return final_table(parts.search, parts.suite, parts.results, seed, **kept)

    @property
    def winner(self) -> int:
        assert self.search.winner is not None
        return self.search.winner


_kept: dict[str, Finished] = {}


@pytest.fixture
def finished(run_folder: Callable[..., Path]) -> Finished:
    if not _kept:
        folder = run_folder(optimizer={"name": "random", "population": 4}, fitness=FITNESS)
        search(folder)
        _kept["run"] = fold(folder)
    return deepcopy(_kept["run"])


def fold(folder: Path) -> Finished:
    record, run = Record(folder), prepare(load_run(folder))
    assert record.table is not None
    search = run.search()
    history = search.history
    with Store.open(
        folder / events.RESPONSES,
        record.head.inventory,
        events.Survey.of(events.read_lines(record.path)).blocks,
        writable=False,
    ) as store:
        scoring = Scoring(run, search, store)
        path = folder / events.JOURNAL
        for number, line in enumerate(events.read_lines(record.path), start=1):
            if not isinstance(line, events.EndLine):
                events.fold(history, line, record.template, path, number)
            if isinstance(line, events.BatchLine):
                scoring.open(history.batches[-1])
            elif isinstance(line, events.EvaluationLine):
                scoring.add((line.batch, line.candidate), line.block_at())
        select, report = (
            {c.id: scoring.results((batch.number, c.id)) for c in batch.candidates}
            for batch in history.batches[-2:]
        )
        interval = {
            (e.batch, e.candidate): scoring.interval(e.batch, e.candidate) for e in history.merges()
        }
    chosen = {c: r for c, r in select.items() if c < 3 or c == history.winner}
    return Finished(
        history,
        run.suite,
        dict(report),
        chosen,
        lambda batch, candidate: interval[batch, candidate],
        record.table,
    )


def row_of(table: Table, candidate: int) -> Row:
    (row,) = (row for row in table.rows if row.candidate == candidate)
    return row


@pytest.mark.parametrize("wrong", [{}, 0, "", False, []])
def test_nothing_is_not_taken_for_unknown(finished: Finished, wrong: Any) -> None:
    plain = finished.table.plain
    for name in ("search", "select", "report", "gap"):
        damaged = deepcopy(plain)
        damaged["trust"][name] = wrong
        with pytest.raises((ValueError, TypeError, KeyError)):
            Table.from_plain(damaged)
    if wrong not in (0,) or wrong is False:
        damaged = deepcopy(plain)
        damaged["rows"][-1]["front"] = wrong
        with pytest.raises((ValueError, TypeError)):
            Table.from_plain(damaged)


def test_the_same_responses_give_the_same_table(finished: Finished) -> None:
    assert finished.again() == finished.table
    other = finished.again(seed=1)
    assert other != finished.table, "other resamples"
    for row in finished.table.rows:
        mine, theirs = row.objectives, row_of(other, row.candidate).objectives
        assert {k: v.value for k, v in mine.items()} == {k: v.value for k, v in theirs.items()}


def test_rows_are_the_references_the_baselines_and_the_winner_last(finished: Finished) -> None:
    labels = [row.label for row in finished.table.rows]
    assert labels[:4] == ["base", "chat", "sea", "uniform"]
    assert labels[4].startswith("task_arithmetic")
    assert finished.table.rows[-1].candidate == finished.winner
    assert labels[-1].startswith("winner: ")
    assert finished.table.items == {name: Count(12, 12) for name in ("sums", "text")}
    assert table_title(finished.table) == (
        "report split (sums 12 items, text 12 items; 95% intervals)"
    )


def test_sources_are_told_where_items_share_them(finished: Finished) -> None:
    of = finished.suite.source_of["sums"]
    of.update({item: source[:5] for item, source in of.items()})  # sum-0-7 -> sum-0
    table = finished.again()
    sources = len({of[item] for item in finished.suite.splits["report"]["sums"]})
    assert f"(sums 12 items of {sources} sources, text 12 items;" in table_title(table)
    of.update(dict.fromkeys(of, "sum"))
    assert "(sums 12 items of 1 source, text 12 items;" in table_title(finished.again())


def test_intervals_hold_their_values(finished: Finished) -> None:
    for row in finished.table.rows:
        gain = row.gain and row.gain.difference
        for found in (row.score, gain, *row.objectives.values()):
            if found is not None:
                assert found.low <= found.value <= found.high
    widths = [row.score.high - row.score.low for row in finished.table.rows]
    assert widths[0] == 0, "the base is its own yardstick, draw by draw"
    assert all(width > 0 for width in widths[1:])


def test_values_are_those_of_the_journal(finished: Finished) -> None:
    report = finished.search.evaluations(len(finished.search.batches) - 1)
    for row in finished.table.rows:
        values = report[row.candidate].values
        assert {n: o.value for n, o in row.objectives.items()} == pytest.approx(values)
    scores = {e.candidate: e.score.value for e in finished.search.elites(Phase.REPORT)}
    assert {row.candidate: row.score.value for row in finished.table.rows} == (
        pytest.approx(scores)
    )


def test_gains_are_paired(finished: Finished) -> None:
    """Resamples serve both models: what is equal item by item has no gain."""
    other = next(c for c in finished.results if c > 2 and c != finished.winner)
    twins = finished.again(results={**finished.results, other: finished.results[finished.winner]})
    assert row_of(twins, other).gain == Gain(Interval.unknown(0, "no spread"), 1, "sign flips")
    assert row_of(twins, other).score == row_of(twins, finished.winner).score
    base, own = finished.table.rows[0], row_of(finished.table, finished.winner)
    assert base.gain is not None and own.score is not None
    bounds = base.gain.difference.plain
    assert bounds == pytest.approx(own.score.plain), "the base's own score is 0 in every draw"
    assert own.gain is None


def test_who_failed_has_no_score_and_the_others_keep_theirs(finished: Finished) -> None:
    table = finished.again(results={**finished.results, 3: None})
    failed = row_of(table, 3)
    assert (failed.score, failed.gain, failed.objectives) == (None, None, {})
    assert [r for r in table.rows if r.candidate != 3] == [
        r for r in finished.table.rows if r.candidate != 3
    ]


def test_a_winner_that_fails_the_report_leaves_a_table_without_gains(finished: Finished) -> None:
    table = finished.again(results={**finished.results, finished.winner: None})
    assert table.winner == finished.winner
    assert all(row.gain is None for row in table.rows)


def test_what_is_said_of_the_winners_luck(finished: Finished) -> None:
    trust, effort = finished.table.trust, finished.table.effort
    own = row_of(finished.table, finished.winner)
    assert trust.report == own.score
    select = finished.search.ranked(finished.search.verdicts[-1].batch)
    assert trust.select.value == pytest.approx(
        next(e.score.value for e in select if e.candidate == finished.winner)
    )
    assert trust.select.low < trust.select.value < trust.select.high
    assert effort.candidates == len(finished.search.candidates) - 3
    lines = "\n".join(table_notes(finished.table))
    gap = trust.search.value - own.score.value
    assert trust.gap.value == pytest.approx(gap)
    below, above = (abs(getattr(own.score, end) - own.score.value) for end in ("low", "high"))
    reach = trust.search.high - trust.search.value
    report, search = 24, trust.search_items.sources
    scale = math.sqrt(report / search)
    assert trust.gap.high - gap == pytest.approx(math.hypot(reach, below, scale * above))
    assert gap - trust.gap.low == pytest.approx(math.hypot(reach, above, scale * below))
    assert f"samples: {gap:.3f} [{trust.gap.low:.3f}," in lines
    assert f"{effort.candidates} candidates tried" in lines
    found = of_winner(finished.table)
    assert found["search_less_report"] == trust.gap.plain
    assert found["select_score"] == {
        **trust.select.plain,
        "items": trust.select_items.items,
        "sources": trust.select_items.sources,
    }
    assert {"base", "chat", "sea", "uniform"} <= set(found["beside"])
    assert all(0 < beside["p"] <= 1 for beside in found["beside"].values())


def test_of_weighted_anchors_nothing_is_called_exact(finished: Finished) -> None:
    """Nor is the gap to them known."""
    unknown = Interval.unknown(0.5, "error unknown")
    spec = finished.suite.spec
    finished.suite.spec = replace(spec, combination="retention", anchors={"sums": {"sum-0-0": 1.0}})
    lines = "\n".join(table_notes(finished.again(interval=lambda batch, candidate: unknown)))
    assert "search 0.500 (weighted anchors; error unknown)" in lines
    assert "gains that count 1 in the score (weighted anchors; error unknown)" in lines
    assert re.search(r"gap, .*: -?\d\.\d+ \[error unknown\]", lines)
    assert "exact" not in lines


def test_p_values_agree_with_intervals(finished: Finished) -> None:
    for row in finished.table.rows:
        if row.gain:
            assert row.gain.test == "sign flips"
            clear = row.gain.difference.low > 0 or row.gain.difference.high < 0
            assert row.gain.p < 0.2 if clear else row.gain.p > 0.005


def test_an_invalid_winner_is_marked_wherever_it_is_shown(finished: Finished) -> None:
    reason = "sums: all of it is an artefact"
    verdict = finished.search.verdicts[-1]
    merges = {e.candidate: [reason] for e in finished.search.ranked(verdict.batch)}
    finished.search.verdicts[-1] = replace(verdict, invalid=merges)
    table = finished.again()
    assert table.winner == finished.winner, "no valid merge is left"
    assert table_rows(table)[-1][-1] == "INVALID"
    label = table.rows[-1].label
    assert f"INVALID: {label}: {reason}." in table_notes(table)
    assert f"INVALID: {label}: {reason}." in table_markdown(table)
    assert of_winner(table)["invalid"] == [reason]


PARENTS_ONLY = """
from safetensors.torch import load_file

known = [load_file(file)["model.norm.weight"] for file in {files!r}]

def score(model, tokenizer, *, split):
    numbers = [n for n, norm in enumerate(known) if norm.equal(model.model.norm.weight)]
    if not numbers:
        raise ArithmeticError("a merge")
    return numbers[0]
"""


def test_what_rounding_takes_of_the_winner_is_said(finished: Finished) -> None:
    found = finished.table.rounding
    assert found is not None and found.origin == "base"
    assert set(found.shares) <= set(range(found.groups)) and found.shares
    lossy = replace(
        found, groups=1, shares={0: {"bfloat16": 0.28, "float16": 0.04, "float32": 0.0}}
    )
    table = replace(finished.table, rounding=replace(lossy, dtype="bfloat16"))
    line = "of what the merge changes in the base; float16 4%, float32 0%."
    assert any(line in each for each in table_notes(table)) and line in table_markdown(table)
    assert Table.from_plain(table.plain) == table
    exact = replace(finished.table, rounding=replace(lossy, dtype="float32"))
    assert not any("rounding" in each for each in table_notes(exact))
    # tables of runs that ended before there were any are read
    without = {key: value for key, value in table.plain.items() if key != "rounding"}
    assert Table.from_plain(without) == replace(table, rounding=None)


def test_a_missed_floor_is_said(finished: Finished) -> None:
    suite = finished.suite
    assert not any(row.floors for row in finished.again().rows)
    suite.objectives = tuple(
        replace(o, floor=Floor(value=2.0)) if o.name == "sums" else o for o in suite.objectives
    )
    table = finished.again(suite=suite)
    assert not any(each.held for row in table.rows for each in row.floors)
    assert all(len(row.floors) == 1 for row in table.rows)
    winner = next(row for row in table.rows if row.candidate == finished.winner)
    value = winner.objectives["sums"].value
    [line] = [line for line in table_notes(table) if f"FLOOR MISSED: {winner.label}" in line]
    [floor] = winner.floors
    assert floor.margin.value == pytest.approx(value - 2.0) and floor.margin.high < 0
    assert f"sums {value:.3f} [" in line and f", at least 2: by {value - 2:+.3f} [" in line
    assert sum("FLOOR MISSED: " in line for line in table_notes(table)) == len(table.rows)
    ceiling = Floor(share=0.5, of="base")
    assert not finished.suite.objectives[1].maximize
    suite.objectives = (suite.objectives[0], replace(suite.objectives[1], floor=ceiling))
    again = finished.again(suite=suite)
    [_, missed] = row_of(again, 0).floors
    bound = row_of(table, 0).objectives["text"].value / 2
    assert missed.ceiling and not missed.held and missed.bound == pytest.approx(bound)
    assert missed.margin.value == pytest.approx(-bound)
    [line] = [line for line in table_notes(again) if "FLOOR MISSED: base: text" in line]
    assert f", at most {bound:.3f} (50% of base): by {-bound:+.3f} [" in line
    assert Table.from_plain(again.plain) == again


def test_if_every_merge_fails_the_references_are_still_reported(
    run_folder: Callable[..., Path],
    family: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [str(folder / "model.safetensors") for folder in family.values()]
    (tmp_path / "parents_only.py").write_text(PARENTS_ONLY.format(files=files))
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = run_folder(fitness={"objectives": {"known": {"function": "parents_only:score"}}})
    result = search(folder)
    assert result.winner is None
    assert [(row.label, row.score.value) for row in result.table.rows] == [
        ("base", 0.0),
        ("chat", 0.5),
        ("sea", 1.0),
    ]
    assert all(row.gain is None for row in result.table.rows)
    errors = {e.error for e in Record(folder).lines if isinstance(e, events.EvaluationLine)}
    assert errors == {None, "parents_only:score: ArithmeticError: a merge"}


def test_a_recipe_that_cannot_be_merged_fails_alone(run_folder: Callable[..., Path]) -> None:
    folder = run_folder(
        space={"methods": ["linear"], "start": ["uniform", "nothing.yaml"]},
        optimizer={"name": "random", "population": 4},
        budget={"evaluations": 8},
    )
    models = {"models": {"chat": "chat", "sea": "sea"}}
    nothing = {**models, "groups": [{"method": "linear", "weight": 0.0}]}
    (folder / "nothing.yaml").write_text(config.dump(nothing))
    assert search(folder).winner is not None
    errors = {
        event.candidate: event.error
        for event in Record(folder).lines
        if isinstance(event, events.EvaluationLine) and event.error
    }
    assert list(errors) == [4] and "sum to 0" in errors[4]


def test_out_of_hours_a_search_still_ends_with_a_table(run_folder: Callable[..., Path]) -> None:
    """Base, parents and known recipes are always scored: there is something to report."""
    folder = run_folder(budget={"evaluations": 22, "hours": 0})
    assert search(folder).winner is not None
    record = Record(folder)
    assert record.history.closed == "out of hours"
    assert [b.phase for b in record.history.batches] == ["references", "start", "select", "report"]


def test_hours_that_run_out_after_the_search_did_not_end_it(
    run_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def elapsed(self: Any) -> float:
        batches = self.history.batches
        return 0.0 if not batches or batches[-1].phase.searched else 1e9

    monkeypatch.setattr("evomerge.run.loop._Loop._elapsed", elapsed)
    folder = run_folder(budget={"evaluations": 16, "hours": 1})
    search(folder)
    record = Record(folder)
    assert record.history.done and record.history.closed is None


def test_what_the_sources_do_together_stands_beside(finished: Finished) -> None:
    """Answer by answer: of each original one source's, and choices by the mean of the probabilities."""
    table, suite = finished.table, finished.suite
    assert [each.label for each in table.beside] == ["blend", "mixture"]
    sources = {name: finished.results[number] for number, name in ((1, "chat"), (2, "sea"))}
    found = together(suite, sources, SEED)
    assert found == together(suite, sources, SEED) != together(suite, sources, SEED + 1)
    rows = {name: each["sums"]["responses"] for name, each in sources.items()}
    for chat, sea, blend, mixed in zip(
        rows["chat"],
        rows["sea"],
        found["blend"]["sums"]["responses"],
        found["mixture"]["sums"]["responses"],
        strict=True,
    ):
        assert blend in (chat, sea)
        for one, other, both in zip(chat, sea, mixed, strict=True):
            mean = (math.exp(one[0][0]) + math.exp(other[0][0])) / 2
            assert math.exp(both[0][0]) == pytest.approx(mean)
    picked = [
        blend == chat
        for blend, chat in zip(found["blend"]["sums"]["responses"], rows["chat"], strict=True)
    ]
    assert 0 < sum(picked) < len(picked)
    right = found["mixture"]["sums"]["metrics"]
    assert right["acc,none"] == [float(margin > 0) for margin in right["margin"]]
    [text] = set(found["blend"]) - {"sums"}
    assert found["mixture"][text] == found["blend"][text]
    for each in table.beside:
        values = suite.values(found[each.label])
        assert {n: o.value for n, o in each.objectives.items()} == pytest.approx(values)
        gain = row_of(table, finished.winner).score.value - each.score.value
        assert each.gain is not None and each.gain.difference.value == pytest.approx(gain)


def test_it_is_shown_below_and_is_no_row_of_the_table(finished: Finished) -> None:
    table = finished.table
    assert not {"blend", "mixture"} & {row.label for row in table.rows}
    [head, blend, mixture] = beside_rows(table)
    assert head[0] == "no merge" and (blend[0], mixture[0]) == ("blend", "mixture")
    page = table_markdown(table)
    assert (
        page.index("| winner: ")
        < page.index("no merges, and no candidates")
        < page.index("| blend |")
    )
    assert Table.from_plain(table.plain) == table
    without = {key: value for key, value in table.plain.items() if key != "beside"}
    old = Table.from_plain(without)
    assert old.beside == () and "no merges" not in table_markdown(old) and not beside_rows(old)


def test_a_source_that_failed_or_is_alone_has_nothing_beside(finished: Finished) -> None:
    assert finished.again(results={**finished.results, 2: None}).beside == ()
    assert together(finished.suite, {"chat": finished.results[1]}, SEED) == {}
