"""Presets by name: in a run.yaml, on the command line, in a list."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evomerge import config, presets
from evomerge.cli import main
from evomerge.commands.check import check
from evomerge.errors import InputError
from evomerge.run.spec import load_run, run_of

ROOT = Path(__file__).parents[1]


def job(**parts: str) -> config.Node:
    models = {"base": "embedded:base", "sources": {"chat": "embedded:chat", "sea": "embedded:sea"}}
    return config.from_plain({"models": models, **parts}, "/nowhere/run.yaml")


def test_a_name_is_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = run_of(job(space="demo", fitness="demo"))
    files = run_of(
        job(
            space=str(ROOT / "search_spaces" / "demo.yaml"),
            fitness=str(ROOT / "fitness" / "demo.yaml"),
        )
    )
    assert (named.digest, named.space, named.suite) == (files.digest, files.space, files.suite)
    assert named.suite.include == (str(ROOT / "fitness" / "demo_tasks"),)


def test_a_name_never_is_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("methods: [linear]\n", encoding="utf-8")
    node = config.from_plain(job(space="demo", fitness="demo").plain, str(tmp_path / "run.yaml"))
    assert run_of(node).space.methods == ("task_arithmetic",)
    plain = {**node.plain, "space": "./demo"}
    assert run_of(config.from_plain(plain, node.file)).space.methods == ("linear",)


def test_an_unknown_name_is_told_with_the_closest(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    plain = job(space="multilingual-instrukt", fitness="sea").plain
    file.write_text(config.dump(plain), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        load_run(file)
    first, second = str(refused.value).splitlines()
    assert "run.yaml:" in first and ": space: no search space" in first
    assert "did you mean 'multilingual-instruct'?" in first and "`evomerge new --list`" in first
    assert "fitness: no fitness file that comes with evomerge is called 'sea'" in second


@pytest.mark.parametrize(
    ("text", "named"),
    [("demo", True), ("demo.yaml", False), ("./demo", False), ("a/demo", False), ("..", False),
     ("~", False), ("", False), ("demo.yml", False), ("v1.5", True)],
)  # fmt: skip
def test_what_is_a_name(text: str, named: bool) -> None:
    assert presets.is_name(text) is named


def test_every_shipped_file_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for kind, pattern in presets.PLACES.items():
        assert len(presets.shipped(kind)) == len(list(ROOT.glob(pattern))) > 0
        for preset in presets.shipped(kind):
            assert preset.about, f"{preset.file} begins with a sentence that says what it is"
            told = " ".join(" ".join(lines).split())  # long ones go over several lines
            assert f"{preset.name} {preset.about}" in told and max(map(len, lines)) <= 80


def test_the_list_is_there_at_once() -> None:
    code = "import sys; from evomerge.cli import main; main(['new', '--list']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    assert not {"torch", "numpy", "transformers"} & set(done.stderr.split())


def test_a_fitness_file_is_checked_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check("sea-plus-instruct")[0].endswith("fitness/sea-plus-instruct.yaml: ok")
    assert main(["check", "sea-plus-instuct"]) == 2
    told = capsys.readouterr().err
    assert "no such file or folder" in told and "did you mean 'sea-plus-instruct'?" in told
    assert main(["score", "embedded:base", "--fitness", "dem"]) == 2
    assert "did you mean 'demo'?" in capsys.readouterr().err
