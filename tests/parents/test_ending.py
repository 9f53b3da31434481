"""What a merge never stops at: end tokens that four files say, or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from evomerge import config
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.cli import main
from evomerge.parents import ending_notes
from evomerge.parents.ending import end_of_turn

END, TURN = "<|text-end|>", "<|turn-end|>"
CHATML = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|turn-end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[I] {{ m.content }} [/I]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
REFUSING = "{{ raise_exception('no talk') }}"


@pytest.fixture
def model(family: dict[str, Path], tmp_path: Path) -> Any:
    """Makes a model with two end tokens, rows 1 (of texts) and 2 (of turns), and files that say so."""

    def make(name: str, template: str = CHATML, eos: str = END, **files: Any) -> Checkpoint:
        folder = Path(shutil.copytree(family["base"], tmp_path / name))
        content = json.loads((folder / "tokenizer.json").read_text())
        vocab = content["model"]["vocab"]
        rows = {row: token for token, row in vocab.items()}
        for row, token in ((1, END), (2, TURN)):
            del vocab[rows[row]]
            vocab[token] = row
        content["added_tokens"] = [
            {**content["added_tokens"][0], "id": vocab[token], "content": token} for token in (END, TURN)
        ]  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(content))
        (folder / "chat_template.jinja").write_text(template)
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
        said = {"config": {"eos_token_id": 1}, "generation_config": {"eos_token_id": 1}, **files}
        for file, keys in said.items():
            path = folder / f"{file}.json"
            if keys is None:
                path.unlink()
            else:
                before = json.loads(path.read_text()) if file == "config" else {}
                path.write_text(json.dumps({**before, **keys}))
        return Checkpoint.open(ModelRef(str(folder)))

    return make


def both(rows: Any) -> dict[str, Any]:
    return {"config": {"eos_token_id": rows}, "generation_config": {"eos_token_id": rows}}


@pytest.mark.parametrize(
    ("template", "end"), [(CHATML, TURN), (TRIMMED, END), (PLAIN, None), (REFUSING, None), ("{", None)]
)  # fmt: skip
def test_the_template_says_what_ends_a_turn(model: Any, template: str, end: str | None) -> None:
    assert end_of_turn(model("a", template)) == end


@pytest.mark.parametrize(
    ("template", "eos", "files"),
    [
        (CHATML, END, both([1, 2])),
        (CHATML, TURN, both(2)),
        (TRIMMED, END, both(1)),
        (PLAIN, END, both(1)),
        (CHATML, TURN, {"config": {"eos_token_id": 2}, "generation_config": None}),
        (CHATML, TURN, {"config": {"eos_token_id": 2}, "generation_config": {}}),
        (CHATML, END, {"config": {"eos_token_id": 1}, "generation_config": {"eos_token_id": [2, 1]}}),
    ],
)  # fmt: skip
def test_files_that_agree_say_nothing(
    model: Any, template: str, eos: str, files: dict[str, Any]
) -> None:
    assert ending_notes({"chat": model("a", template, eos, **files)}, "chat") == []


@pytest.mark.parametrize(
    ("template", "eos", "files", "says"),
    [
        (CHATML, END, both(1), (f"generation_config.json of chat stops at '{END}' (1)", f"an answer with '{TURN}'")),
        (CHATML, TURN, both(1), (f"its tokenizer is '{TURN}' (2): texts never stop",)),
        (CHATML, END, both(2), (f"its tokenizer is '{END}' (1): texts never stop",)),
        (PLAIN, END, both(None), ("names an end token (eos_token_id)", "never stops")),
        (PLAIN, END, both(9000), ("stops at 9000, which its tokenizer does not have",)),
        (
            CHATML,
            TURN,
            {"config": {"eos_token_id": 1}, "generation_config": {"eos_token_id": 2}},
            (f"but its config.json at '{END}' (1)",),
        ),
    ],
)  # fmt: skip
def test_what_never_stops_is_said(
    model: Any, template: str, eos: str, files: dict[str, Any], says: tuple[str, ...]
) -> None:
    notes = " / ".join(ending_notes({"chat": model("a", template, eos, **files)}, "chat"))
    for part in says:
        assert part in notes


def test_answers_that_a_source_ends_otherwise_are_said(model: Any, tmp_path: Path) -> None:
    models = {
        "base": model("base", CHATML),  # a template that it need not have learnt
        "plain": model("plain", PLAIN),
        "chat": model("chat", CHATML, TURN, **both(2)),
    }
    assert ending_notes({**models, "chat": models["plain"]}, "plain") == []
    (note,) = ending_notes(models, "plain")
    assert "generation_config.json of plain stops at" in note
    assert f"the chat template of chat ends an answer with '{TURN}'" in note


def test_check_says_it(model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("base", "chat")
    for name in names:
        model(name)
    path = tmp_path / "recipe.yaml"
    groups = [{"method": "task_arithmetic"}]
    path.write_text(config.dump({"base": "base", "models": {"chat": "chat"}, "groups": groups}))
    assert main(["check", str(path)]) == 0
    assert (
        f"note: generation_config.json of base stops at '{END}' (1), but" in capsys.readouterr().out
    )
