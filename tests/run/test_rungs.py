"""What is asked of a candidate, step by step: the probe first, the report in the export dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge import config
from evomerge.commands.search import search
from evomerge.record.events import EvaluationLine
from evomerge.record.record import Record
from evomerge.run.precision import scoring_dtype
from evomerge.testing.trajectory import trajectory

RunFolder = Callable[..., Path]


def test_a_collapsed_merge_costs_its_probe_and_nothing_more(
    run_folder: RunFolder, small: dict[str, Any]
) -> None:
    space = {**small["space"], "start": ["uniform", "broken.yaml"]}
    folder = run_folder(**{**small, "space": space})
    broken = [{"method": "linear", "weight": {"chat": 300.0, "sea": -299.0}, "normalize": False}]
    models = {"chat": "chat", "sea": "sea"}
    (folder / "broken.yaml").write_text(config.dump({"models": models, "groups": broken}))
    assert search(folder).winner is not None
    record = Record(folder)
    (failed,) = (e for e in record.lines if isinstance(e, EvaluationLine) and e.error)
    assert failed.candidate == 4
    assert failed.error.startswith("collapsed on the probe: ")
    probe = record.head.splits.items["probe"]
    assert failed.items == sum(map(len, probe.values())) > 0
    with record.open_responses() as store:
        answers = store.read(store.blocks[4])
    assert {name: responses["items"] for name, responses in answers.items()} == probe


def test_the_report_is_scored_in_the_dtype_that_is_exported(
    run_folder: RunFolder, small: dict[str, Any]
) -> None:
    """Search and select in float32, as where bfloat16 is slow; then the model as it is written."""
    found = {}
    for scoring in ("float32", "bfloat16"):
        fitness = {**small["fitness"], "dtype": scoring}
        folder = run_folder(scoring, **{**small, "dtype": "bfloat16", "fitness": fitness})
        search(folder)
        assert Record(folder).head.scoring == scoring
        events = trajectory(folder)[1]
        last = max(event["batch"] for event in events)
        found[scoring] = [
            [e["block"] for e in events if (e["batch"], e["candidate"]) == (batch, 1)]
            for batch in (0, last)
        ]
    (search_32, report_32), (search_16, report_16) = found.values()
    assert search_32 != search_16
    assert report_32 == report_16 and report_16 != [None]


@pytest.mark.parametrize(
    ("asked", "dtype", "device", "expected"),
    [
        ("auto", "float32", "cpu", "float32"),
        ("auto", "bfloat16", "cuda", "bfloat16"),
        ("float16", "bfloat16", "cpu", "float16"),
    ],
)
def test_what_auto_means_depends_on_the_cpu_alone_where_it_is_slow(
    asked: str, dtype: str, device: str, expected: str
) -> None:
    assert scoring_dtype(asked, dtype, device) == expected
    assert scoring_dtype("auto", "bfloat16", "cpu") in ("bfloat16", "float32")
