"""What is asked of workers, what of it is refused before a search starts, and what one is given up for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import main
from evomerge.cli.parser import make_parser
from evomerge.cli.placement import gpus_of, placed
from evomerge.commands.check import check
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import InputError
from evomerge.pool import PlainJob, PlainOutcome, given_up
from evomerge.pool.serial import SerialPool
from evomerge.record.record import Record
from evomerge.run.loop import search
from evomerge.run.preflight import prepare
from evomerge.run.spec import load_run
from evomerge.worker import Setup


@pytest.mark.parametrize(
    ("asked", "gpus"), [([], 1), (["0.5"], 1), (["1"], 1), (["2"], 2), (["4.0"], 4)]
)
def test_whole_numbers_spread_a_model(asked: list[str], gpus: int) -> None:
    options = [f"--num-gpus={each}" for each in asked]
    arguments = make_parser().parse_args(["search", "a-run", *options])
    assert gpus_of(arguments) == gpus


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-gpus", "1.5"], "--num-gpus 1.5: expected a fraction below 1"),
        (["--num-gpus", "2", "--device", "cpu"], "but --device is cpu"),
        (["--num-gpus", "2", "--device", "cuda:1"], "but --device is cuda:1"),
        (["--resources", "spare"], "--resources spare: expected NAME=VALUE"),
        (["--resources", "spare=many"], "--resources spare=many: expected a number above 0"),
        (["--resources", "GPU=2"], "--resources GPU=2: say it with --num-gpus 2"),
        (["--labels", "kind="], "--labels kind=: expected NAME=VALUE"),
        (["--runtime-env", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--job-limit", "soon"], "--job-limit soon: expected a number above 0"),
        (["--ray", "off", "--job-limit", "60"], "--job-limit: are of Ray's workers"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "a-run", *options]) == 2
    assert message in capsys.readouterr().err


def test_what_was_asked_of_ray_is_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "environment.yaml"
    file.write_text("env_vars: {HF_HUB_OFFLINE: '1'}\n")
    asked = ["--resources", "spare=1.5", "--resources", "memory=8e9", "--labels", "kind=in(a,b)"]
    more = ["--runtime-env", str(file), "--job-limit", "off"]
    assert placed(make_parser().parse_args(["search", "a-run", *asked, *more])) == {
        "resources": {"spare": 1.5, "memory": 8e9},
        "labels": {"kind": "in(a,b)"},
        "runtime_env": {"env_vars": {"HF_HUB_OFFLINE": "1"}},
        "job_limit": math.inf,
    }
    assert set(placed(make_parser().parse_args(["search", "a-run"])).values()) == {None}


@pytest.mark.parametrize("command", ["search", "resume", "status", "report"])
def test_a_run_in_an_object_store_is_refused_with_the_reason(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "s3://bucket/run"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "s3://bucket/run: is in an object store" in said and "appended to" in said


class GivingUp(SerialPool):
    """Answers one job of a candidate as a pool does whose workers all hung at it."""

    gave_up = 0

    def next(self, timeout: float | None = None) -> tuple[PlainJob, PlainOutcome] | None:
        answer = super().next(timeout)
        GivingUp.gave_up += 1
        if answer is not None and GivingUp.gave_up == 6:
            return answer[0], given_up("hung 3 workers")
        return answer


def test_a_job_that_is_given_up_fails_its_candidate_and_no_more(
    run_folder: Callable[..., Path], small: dict[str, Any]
) -> None:
    record = Record(search(run_folder(**small), GivingUp))
    failed = [
        evaluation.error
        for batch in record.history.batches
        for evaluation in record.history.evaluations(batch.number).values()
        if evaluation.error
    ]
    assert failed == ["hung 3 workers"]
    assert record.table is not None


def test_a_worker_is_told(run_folder: Callable[..., Path]) -> None:
    run = prepare(load_run(run_folder()), gpus=2)
    assert Setup.from_plain(run.worker(None, 2).argument).gpus == 2
    assert Setup.from_plain(run.worker().argument).gpus == 1


def test_an_engine_of_one_device_is_refused(
    run_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder()
    assert any(line.endswith("--num-gpus N spreads it over N") for line in check(folder))
    monkeypatch.setattr(HuggingFaceEngine, "SPREADS", "")
    why = "engine 'huggingface' runs a model on one device"
    assert any(f"of no use to it: {why}" in line for line in check(folder))
    with pytest.raises(InputError, match=f"--num-gpus 2: {why}; leave it out"):
        prepare(load_run(folder), gpus=2)


@pytest.mark.parametrize("command", ["search", "score"])
def test_a_machine_with_fewer_says_so_before_all_else(
    command: str, tmp_path: Path, capsys: Any
) -> None:
    """Nothing that is named is there, and nobody looks."""
    nothing = str(tmp_path / "nothing")
    more = ["--ray", "off"] if command == "search" else ["--fitness", nothing]
    assert main([command, nothing, "--num-gpus", "64", *more]) == 2
    assert "--num-gpus 64: a worker cannot have so many GPUs" in capsys.readouterr().err
