"""The checkpoints of a training as sources of a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.commands.check import check
from evomerge.errors import ConfigError
from evomerge.run.spec import load_run

Make = Callable[..., Path]


@pytest.fixture
def trained(tmp_path: Path, family: dict[str, Path]) -> Path:
    """What a training left: three models, one that is being written, and other files."""
    folder = tmp_path / "out"
    for step in (500, 1000, 90):
        shutil.copytree(family["chat" if step == 500 else "sea"], folder / f"checkpoint-{step}")
    (folder / "checkpoint-1500").mkdir()
    (folder / "runs").mkdir()
    (folder / "trainer_state.json").write_text("{}")
    return folder


def models(family: dict[str, Path], **sources: Any) -> dict[str, Any]:
    return {"base": str(family["base"]), "sources": sources}


def test_the_last_checkpoints_are_sources(
    trained: Path, family: dict[str, Path], run_folder: Make
) -> None:
    """By step, not by name; what is unfinished is none."""
    given = models(family, sft={"checkpoints": "../out", "last": 2}, chat=str(family["chat"]))
    folder = run_folder(models=given, space={"methods": ["linear"], "weights": "simplex"})
    spec = load_run(folder)
    assert list(spec.sources) == ["sft-500", "sft-1000", "chat"]
    assert spec.sources["sft-500"].portable == str(trained / "checkpoint-500")
    assert any("sft-1000 = " in line for line in check(folder))
    shutil.copytree(family["sea"], trained / "checkpoint-2000")
    later = load_run(folder)
    assert list(later.sources) == ["sft-1000", "sft-2000", "chat"]
    assert later.digest != spec.digest, "another job: it does not go on with the search of this one"
    assert later.content["models"]["sources"]["sft-2000"] == "../out/checkpoint-2000"


def test_all_checkpoints(trained: Path, family: dict[str, Path], run_folder: Make) -> None:
    spec = load_run(run_folder(models=models(family, sft={"checkpoints": str(trained)})))
    assert list(spec.sources) == ["sft-90", "sft-500", "sft-1000"]


def test_adapters_are_those_of_the_base(
    trained: Path, family: dict[str, Path], run_folder: Make
) -> None:
    adapter = trained / "checkpoint-1500" / "adapter_config.json"
    adapter.write_text("{}")
    given = models(family, sft={"checkpoints": "../out", "last": 1})
    [ref] = load_run(run_folder(models=given)).sources.values()
    assert (ref.model, ref.adapter) == (str(family["base"]), "../out/checkpoint-1500")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"checkpoints": "../nowhere"}, "models.sources.sft.checkpoints: no such folder: "),
        ({"checkpoints": "../out/runs"}, "runs holds no checkpoint: expected folders named by their step, as checkpoint-500"),
        ({"checkpoints": "../out", "last": 4}, "models.sources.sft.last: there are 3 checkpoints in "),
        ({"checkpoints": "../out", "latest": 1}, "models.sources.sft.latest: unknown key (did you mean 'last'?)"),
        ({"last": 1}, "models.sources.sft.checkpoints: missing; expected text"),
        (["../out"], "models.sources.sft: expected a folder or hub id, or {checkpoints: FOLDER, last: N}"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    trained: Path, family: dict[str, Path], run_folder: Make, given: Any, message: str
) -> None:
    folder = run_folder(models=models(family, sft=given))
    with pytest.raises(ConfigError) as caught:
        load_run(folder)
    assert message in str(caught.value)


def test_a_step_twice(trained: Path, family: dict[str, Path], run_folder: Make) -> None:
    (trained / "checkpoint-90").rename(trained / "step_0500")
    folder = run_folder(models=models(family, sft={"checkpoints": "../out"}))
    with pytest.raises(ConfigError, match="checkpoint-500 and step_0500 are both step 500"):
        load_run(folder)


def test_a_name_twice(trained: Path, family: dict[str, Path], run_folder: Make) -> None:
    given = models(family, **{"sft-90": "x", "sft": {"checkpoints": "../out"}})
    with pytest.raises(ConfigError, match="'sft-90' is a source already"):
        load_run(run_folder(models=given))
