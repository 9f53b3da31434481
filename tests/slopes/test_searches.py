"""Whole searches by slopes: what a suite says of them reaches the workers, and stands under the run's digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from evomerge.commands.search import search
from evomerge.pool import PlainJob
from evomerge.pool.serial import SerialPool
from evomerge.record.events import JOURNAL
from evomerge.run.preflight import prepare
from evomerge.run.spec import load_run
from evomerge.suite.slopes import TAU

PAIRS = {
    "frank_wolfe": {"loss": "kl", "checkpoint": True},
    "supermerge": {"loss": "entropy"},
    "self_positioning": {"tau": 3},
}


class Watched(SerialPool):
    """Keeps the jobs that it was given."""

    jobs: ClassVar[list[PlainJob]] = []

    def submit(self, job: PlainJob) -> None:
        self.jobs.append(job)
        super().submit(job)


@pytest.fixture
def walking(run_folder: Callable[..., Path], small: dict[str, Any]) -> Callable[..., Path]:
    def make(name: str, optimizer: str, slopes: dict[str, Any]) -> Path:
        objectives = {"sums": {"task": "sums"}, "text": {"text": "texts.jsonl"}}
        fitness = {**small["fitness"], "objectives": objectives, "slopes": slopes}
        changes = {
            **{"lag": 1, "budget": {"evaluations": 7}},
            **{"fitness": fitness, "optimizer": {"name": optimizer}},
        }
        return run_folder(name, **{**small, **changes})

    return make


@pytest.mark.parametrize("name", PAIRS)
def test_a_search_takes_the_slopes_that_its_suite_asks_for(
    walking: Callable[..., Path], name: str
) -> None:
    folder = walking(name, name, PAIRS[name])
    Watched.jobs.clear()
    search(folder, Watched)
    asking = [job for job in Watched.jobs if job["slope"]]
    assert len(asking) == 3
    for job in asking:
        wanted = {"loss": "lead", "tau": TAU, "checkpoint": False} | PAIRS[name]
        assert {key: job[key] for key in wanted} == wanted
        assert set(job["slope"]) == {"sums", "texts.jsonl"}
        followed = [job["teachers"][scorer]["groups"] for scorer in job["teachers"]]
        assert len(followed) == (2 if wanted["loss"] == "kl" else 0)
        assert all(groups[0]["method"] == "passthrough" for groups in followed)
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text("utf-8").splitlines()]
    found = [line for line in lines if line.get("slopes")]
    assert len(found) == 3
    for line in found:
        assert all(any(abs(v) > 1e-9 for v in each) for each in line["slopes"].values())
    assert len({json.dumps(line["slopes"]) for line in found}) == 3, "it moved"


def test_the_cost_of_a_slope_counts_what_it_takes(walking: Callable[..., Path]) -> None:
    costs = {}
    for number, slopes in enumerate([{}, {"checkpoint": True}, {"loss": "kl", "checkpoint": True}]):
        run = prepare(load_run(walking(str(number), "slope", slopes)))
        costs[number] = run.slope_cost, run.spec.digest
    assert [cost for cost, _ in costs.values()] == [3, 4, 5]
    assert len({digest for _, digest in costs.values()}) == 3
