"""Several GPUs for one model: what is asked of a worker, and what is refused before a search starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import main
from evomerge.cli.parser import make_parser
from evomerge.cli.placement import gpus_of
from evomerge.commands.check import check
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import InputError
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
    ],
)
def test_what_makes_no_sense_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "a-run", *options]) == 2
    assert message in capsys.readouterr().err


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
