"""A first run.yaml: what is written is what `check` accepts."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from evomerge.cli import main
from evomerge.cli.parser import make_parser
from evomerge.commands.check import check
from evomerge.commands.new import card_languages
from evomerge.run.spec import load_run

DOCUMENT = Path(__file__).parents[2] / "docs" / "first-search.md"
EMBEDDED = ["--base", "embedded:base", "--source", "chat=embedded:chat", "--source", "sea=embedded:sea"]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_command_of_the_document_is_one() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").replace("\\\n", "")
    commands = re.findall(r"(?m)^    evomerge (.*)$", text) + re.findall(r"`evomerge (.*?)`", text)
    assert len(commands) >= 12
    for command in commands:
        make_parser().parse_args(shlex.split(command))


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message that a command refuses with."""
    assert main(["new", *arguments]) == 2
    return capsys.readouterr().err


def texts(name: str) -> str:
    Path(name).write_text(
        "\n\n".join(f"passage {n}: {'lorem ipsum ' * (1 + n % 3)}" for n in range(40)), "utf-8"
    )
    return name


def test_embedded_models_as_the_document_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "runs/mine", *EMBEDDED]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in lines[:-2]:
        assert f"    {line}\n" in DOCUMENT.read_text(encoding="utf-8")
    assert lines[-2].startswith("look it over (`evomerge check runs/mine`)")
    written = Path("runs/mine/run.yaml").read_text(encoding="utf-8")
    assert written.count("#") >= 5 and len(written.splitlines()) < 30
    spec = load_run("runs/mine")
    assert (spec.tokenizer, spec.evaluations) == ("chat", 200)
    assert check("runs/mine")[0].endswith(
        "mine: ok, as far as can be told without executing what it names"
    )


def test_folders_and_texts(family: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("base", "sea"):
        shutil.copytree(family[name], Path("models") / name)
    texts("law.txt")
    options = ["--base", "models/base", "--source", "sea=models/sea", "--texts", "law=law.txt"]
    assert main(["new", "runs/a: b", *options, "--evaluations", "40"]) == 0
    assert "'runs/a: b'" in capsys.readouterr().out
    written = Path("runs/a: b/run.yaml").read_text(encoding="utf-8")
    assert "base: ../../models/base" in written and "text: ../../law.txt" in written
    found = check("runs/a: b")
    assert found[0].endswith(": ok") and any("40 evaluations" in line for line in found)


def test_a_language_is_read_off_the_card(family: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    shutil.copytree(family["sea"], "model")
    card = "---\nlanguage: [en, ind, th]\nlicense: mit\n---\n# A model\n"
    Path("model/README.md").write_text(card, encoding="utf-8")
    texts("a.txt")
    base = str(family["base"])
    assert main(["new", "mine", "--base", base, "--source", "x=./model", "--texts", "a=a.txt"]) == 0
    assert "x: ./model; languages id, th" in capsys.readouterr().out


@pytest.mark.parametrize(
    "card",
    ["", "no head", "---\nlanguage: {a: b}\n---\n", "---\n a: [\n---\n", "---\nlanguage: x\n"],
)
def test_a_card_without_languages(card: str) -> None:
    Path("README.md").write_text(card, encoding="utf-8")
    assert card_languages(Path("README.md")) == ()


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    file = Path("mine/run.yaml")
    file.write_text("mine", encoding="utf-8")
    assert "--force" in told(capsys, "mine", *EMBEDDED)
    assert file.read_text(encoding="utf-8") == "mine"
    assert main(["new", "mine", *EMBEDDED, "--force"]) == 0
    Path("mine/journal.jsonl").touch()
    assert "a search was begun there" in told(capsys, "mine", *EMBEDDED, "--force")


def test_what_is_missing_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    message = told(capsys)
    assert (
        "DIR, --base MODEL, --source NAME=MODEL" in message and "evomerge new runs/mine" in message
    )
    assert "expected NAME=" in told(capsys, "mine", "--base", "embedded:base", "--source", "a")
    twice = ["--source", "chat=embedded:sea"]
    assert "chat is named twice" in told(capsys, "mine", *EMBEDDED, *twice)
    assert "at least 1" in told(capsys, "mine", *EMBEDDED, "--evaluations", "0")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fitness", "instruckt"], "did you mean 'instruct'?"),
        (["--space", "sou"], "did you mean 'soup'?"),
        (["--evaluations", "3"], "budget.evaluations is 3"),
        (["--texts", "a=gone.txt"], "gone.txt"),
        (["--source", "th=./gone"], "no such folder"),
        (["--source", "base=embedded:sea"], "'base' is the base's own name"),
    ],
)
def test_what_check_would_refuse_is_not_written(
    more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in told(capsys, "mine", *EMBEDDED, *more)
    assert not Path("mine").exists()


def test_files_are_found_from_a_folder_that_is_not_there_yet() -> None:
    Path("there").mkdir()
    Path("there/law.txt").write_text("\n\n".join(f"passage {n}" for n in range(200)))
    Path("there/fit.yaml").write_text("objectives: {law: {text: law.txt}}\n")
    for folder, more in (
        ("one/deep", ["--fitness", "there/fit.yaml"]),
        ("two", ["--texts", "law=there/law.txt"]),
    ):
        assert main(["new", folder, *EMBEDDED, *more]) == 0
        assert main(["check", folder]) == 0
    assert "fitness: ../../there/fit.yaml" in Path("one/deep/run.yaml").read_text(encoding="utf-8")


def test_data_sets_that_are_not_here_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", *EMBEDDED, "--fitness", "sea-plus-instruct"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if line.startswith("downloads first, as they are not in the")]
    assert "cambridgeltl/xcopa" in line and "google/IFEval" in line
    written = Path("mine/run.yaml").read_text(encoding="utf-8")
    assert "# Downloads first" in written and "fitness: sea-plus-instruct" in written
