"""Why a winner won: measured by a real worker, kept beside the journal, and shown by every report of the run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.cli import main
from evomerge.inference.intervals import Interval
from evomerge.record.ablation import FILE, Ablation, Loss, ablation_of
from evomerge.record.holder import NAME, holder_of
from evomerge.record.record import Record
from evomerge.report.page import page
from evomerge.report.why import ablation_for, columns, why_markdown


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """The finished run, to be written into."""
    return Path(shutil.copytree(done, tmp_path / "copy"))


@pytest.fixture
def measured(copy: Path) -> Ablation:
    """Of ``copy``, as if it had been measured."""
    record = Record(copy)
    winner = record.history.winner
    assert winner is not None
    lost = Interval(0.25, 0.125, 0.375)
    losses = [
        Loss("parent", "sea", lost, {"sums": lost, "text": Interval(-0.5, -0.75, -0.25)}),
        Loss("part", "attn, layer 0", None, {"sums": Interval(0.0, 0.0, 0.0), "text": None}),
        Loss("part", "norm", failed="not a number | in <b>layer 0</b>"),
    ]
    digest = record.history.candidates[winner].recipe.digest
    made = Ablation(winner, digest, 4, {"sums": 8, "text": 6}, losses)
    (copy / FILE).write_text(json.dumps(made.plain))
    return made


def test_it_is_measured_kept_and_in_every_report(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.html"
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert main(["report", str(copy), "--ablate", "4", "-o", str(file), "--device", "cpu"]) == 0
    said, record = capsys.readouterr().err, Record(copy)
    count = sum(map(len, record.head.splits.items["select"].values()))
    announced = f"4 evaluations of {count} select items each: the winner, and 3 variants of it"
    assert said.index(announced) < said.index(f"wrote {copy / FILE}") < said.index(f"wrote {file}")
    found = ablation_of(record)
    assert found is not None and (found.winner, found.evaluations) == (record.history.winner, 4)
    assert [(each.kind, each.without) for each in found.losses][:2] == [
        ("parent", "chat"),
        ("parent", "sea"),
    ]
    assert [each.kind for each in found.losses][2:] == ["part"] and found.asked == count
    gain = record.history.gains["sums"]  # of all that counts, this is what the score is made of
    for each in found.losses:
        assert not each.failed and each.score is not None
        sums, score = each.objectives["sums"], each.score
        assert sums is not None and score.value == pytest.approx(sums.value / gain)
    made = file.read_text(encoding="utf-8")
    assert made == page(record) and "attn, layers" in made and "Not measured" not in made
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    assert changed == {copy / "report.md"}
    assert main(["report", str(copy)]) == 0
    text = capsys.readouterr().out
    assert text == (copy / "report.md").read_text(encoding="utf-8")
    assert all(f"\n| {each.without} |" in text for each in found.losses)
    kept = (copy / FILE).read_bytes()
    assert main(["report", str(copy), "--ablate", "2"]) == 2
    assert "--force" in capsys.readouterr().err and (copy / FILE).read_bytes() == kept


def test_losses_are_turned_where_less_is_better(copy: Path, measured: Ablation) -> None:
    record = Record(copy)
    assert ablation_of(record) == measured
    directions = {objective.name: objective.maximize for objective in record.objectives}
    assert directions == {"sums": True, "text": False}
    found = dict(columns(record, measured))
    assert found["text"] == {"sea": Interval(0.5, 0.25, 0.75)}, "bits saved are a gain"
    assert set(found["score"]) == {"sea"} and set(found["sums"]) == {"sea", "attn, layer 0"}
    text = why_markdown(record)
    assert "| sea | +0.250 [+0.125, +0.375] | +0.250 [+0.125, +0.375] | +0.500 " in text
    assert "| attn, layer 0 | unknown | +0.000 (alike) | unknown |" in text
    assert "Without norm there is no score: not a number \\| in &lt;b>" in text
    assert "4 evaluations of 14 items each" in text and "+0.500 [+0.250, +0.750]" in page(record)


def test_before_it_is_measured_reports_say_how(done: Path) -> None:
    record = Record(done)
    assert f"evomerge report {done} --ablate 8" in page(record)
    assert "Not measured yet. `evomerge report RUN_DIR --ablate 8`" in why_markdown(record)


def test_that_of_an_earlier_winner_is_left_out(copy: Path, measured: Ablation) -> None:
    (copy / FILE).write_text(json.dumps(replace(measured, winner=3, digest="0" * 64).plain))
    record = Record(copy)
    assert ablation_for(record)[0] is None
    for text in (page(record), why_markdown(record)):
        assert "of an earlier winner, #3" in text and "--ablate 8" in text and "attn" not in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda plain: "[" * 50_000, "ablation.json: not as"),
        (lambda plain: "x" * (5 << 20), "more than 4 MB"),
        (lambda plain: json.dumps(plain)[:-9], "truncated"),
        (lambda plain: json.dumps({**plain, "winner": "one"}), "$.winner"),
        (lambda plain: json.dumps({**plain, "evaluations": 10**30}), "a count"),
        (lambda plain: json.dumps({**plain, "items": {"sums": -1}}), "a count"),
        (lambda plain: json.dumps(plain).replace('"parent"', '"\\u001b[31m"'), "x1b[31m"),
        (lambda plain: json.dumps(plain).replace("0.125", "0.9"), "does not hold its value"),
        (lambda plain: json.dumps(plain).replace("0.125", "NaN"), "ablation.json: not as"),
        (lambda plain: json.dumps(plain).replace('"low"', '"lou"'), "low"),
    ],
)
def test_what_is_no_such_file_is_told_and_left_out(
    copy: Path,
    measured: Ablation,
    change: Callable[[dict[str, object]], str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (copy / FILE).write_text(change(measured.plain))
    assert main(["report", str(copy)]) == 0
    text = capsys.readouterr().out
    assert "| sea |" not in text.partition("## Why")[2] and "\x1b" not in text
    assert says in text and f"{FILE}: not as `evomerge" in text.replace("\\`", "`")


def test_a_pipe_in_its_place_is_not_waited_for(copy: Path) -> None:
    for name in (FILE, NAME):
        os.mkfifo(copy / name)
    assert ablation_for(Record(copy)) == (
        None,
        f"{copy / FILE}: cannot be read: it is no plain file.",
    )
    assert holder_of(copy) is None


def test_what_it_refuses(
    copy: Path, cut: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, says in (
        ([str(copy), "--ablate", "1"], "expected at least 2 evaluations, found 1"),
        ([str(copy), "--device", "cpu"], "what --ablate N asks for"),
        ([str(cut(12)), "--ablate", "4"], "no winner yet"),
    ):
        assert main(["report", *arguments]) == 2
        assert says in capsys.readouterr().err
    job = copy / "run.yaml"
    job.write_text(job.read_text().replace("evaluations: 16", "evaluations: 17"))
    assert main(["report", str(copy), "--ablate", "4"]) == 2
    assert "not what this search was started with" in capsys.readouterr().err
    assert not (copy / FILE).exists()
