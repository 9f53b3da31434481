"""Files from strangers: nothing in them is executed, obeyed by a terminal or passed over on resume."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import datasets
import lm_eval
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.live import Live
from rich.text import Text
from safetensors.torch import load_file, save_file

from evomerge import config
from evomerge.checkpoint import ModelRef
from evomerge.cli import main
from evomerge.commands.search import search
from evomerge.errors import ConfigError, InputError, RunError
from evomerge.recipe import Recipe
from evomerge.record.record import Record
from evomerge.report.terminal import Screen, show_lines, show_scores, show_table
from evomerge.report.text import markdown_text, table_markdown
from evomerge.visible import Formatter, one_line, visible

Make = Callable[..., Path]
EVIL = "\x1b]0;x\x07[red]<script>|\x9b2J"
ROWS = "data_files: {test: {folder}/rows.jsonl}"
CODES = ("\x1b", "\x07", "\x9b")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, (old, text)
    path.write_text(text.replace(old, new), encoding="utf-8")


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: \x1b\n", ":1: holds the control character '\\x1b'"),
        ('a: 1\nb: {c: "\\e[2J"}\n', ":2: b.c: holds the control character '\\x1b'"),
        (f"a: 1\nb:\n  - {'9' * 5000}\n", ":3: b[0]: expected at most 300 digits, found a number of 5000"),
        ("a:\n  b: !!python/name:os.system\n", ":2: a.b: expected plain data, found the tag"),
        ("a: {b: !x [1]}\n", ":1: a.b: expected plain data, found the tag '!x'"),
        ("a: !!int x\n", ":1: a: expected what its tag !!int says, found 'x'"),
        ("a: &a [*a]\n", ":1: a[0]: *a stands for nothing above it"),
        ("a: " + "[" * 60 + "]" * 60, "is nested more than 50 levels deep"),
        ("a: 1\na: 2\n", ":2: a: this key stands twice"),
        ("a: 1\n---\nb: 1\n", ":2: a second document begins; expected one"),
        ("a: b\n" * 600_000, "is larger than 2,097,152 bytes"),
        ('a: "\\UFFFFFFFF"', ":1: not valid YAML"),
    ],
)  # fmt: skip
def test_a_file_is_refused_with_its_line_and_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        config.read(path)
    assert len(caught.value.problems) == 1
    assert str(path) in str(caught.value) and says in str(caught.value)


def test_aliases_are_bounded_by_what_they_stand_for() -> None:
    few = "a: &a [1, 2]\nb: [*a, *a]\n"
    assert config.parse(few).plain == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    many = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
    )
    with pytest.raises(ConfigError, match="aliases written out"):
        config.parse(many)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"space": {"methods": ["ties"], "parameters": {"density": {"chat": 0.5, "sea": {}}}}},
         "space.parameters.density.sea: expected a value, range or choices, found {}"),
        ({"fitness": {"objectives": {"t": {"text": "t"}}, "items": "many"}}, "fitness.items: expected a mapping"),
        ({"models": {"base": "", "sources": {"a": "b"}}}, "models.base: expected text, found ''"),
        ({"models": {"base": "b", "sources": {}}}, "models.sources: expected at least one source model"),
        ({"budget": {"hours": float("inf")}}, "budget.hours: expected a number of at least 0, found inf"),
        ({"seed": 2**63}, "seed: expected a whole number of at least 0 and below 2**63"),
    ],
)  # fmt: skip
def test_a_run_is_refused_with_its_key(
    run_folder: Make, capsys: pytest.CaptureFixture[str], content: dict[str, Any], says: str
) -> None:
    folder = run_folder(**content)
    assert main(["check", str(folder)]) == 2
    found = capsys.readouterr().err
    assert f"{folder / 'run.yaml'}:" in found and says in found


def test_a_mergekit_file_without_a_method_is_refused(tmp_path: Path) -> None:
    from evomerge.interop import from_mergekit

    path = tmp_path / "m.yaml"
    path.write_text('merge_method: ""\nmodels: [{model: embedded:chat}]\n')
    with pytest.raises(ConfigError, match=r"m\.yaml:1: merge_method: expected text, found ''"):
        from_mergekit(path)


# -- code ----------------------------------------------------------------------------------------

TOUCH = """\
import pathlib
pathlib.Path({canary!r}).touch()

def docs(rows):
    return rows

def score(model, tokenizer, *, split):
    return 1.0
"""


@pytest.fixture
def hostile(run_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose task, objective and tokenizer each touch the file ``canary`` when they are executed."""
    folder = run_folder("hostile")
    code = TOUCH.format(canary=str(tmp_path / "canary"))
    (folder / "evil_task.py").write_text(code)
    (folder / "evil_objective.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    edit(
        folder / "sums.yaml", "output_type:", "process_docs: !function evil_task.docs\noutput_type:"
    )
    content = config.read(folder / "run.yaml").plain
    model = Path(shutil.copytree(content["models"]["sources"]["chat"], tmp_path / "chat"))
    (model / "evil_tokenizer.py").write_text(code + "\nclass Evil:\n    pass\n")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["evil_tokenizer.Evil", None]}
    (model / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    content["models"]["sources"]["chat"] = str(model)
    content["fitness"]["objectives"]["code"] = {"function": "evil_objective:score"}
    content["trust_remote_code"] = True
    (folder / "run.yaml").write_text(config.dump(content))
    (folder / "fitness.yaml").write_text(config.dump(content["fitness"]))
    return folder


def test_check_executes_nothing_and_says_what_a_search_would(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [
        f"a search executes evil_task.docs ({hostile / 'evil_task.py'}:4), named in {hostile / 'sums.yaml'}:5",
        f"a search executes evil_objective:score ({hostile / 'evil_objective.py'}:7), named in {hostile}/",
    ]
    for file in ("run.yaml", "fitness.yaml"):
        assert main(["check", str(hostile / file)]) == 0
        out = capsys.readouterr().out
        assert all(text in out for text in named), out
    assert main(["check", str(hostile)]) == 0
    out = capsys.readouterr().out
    assert "as far as can be told without executing what it names" in out
    assert f"evil_tokenizer.Evil ({tmp_path / 'chat' / 'evil_tokenizer.py'}:10), named in" in out
    assert (
        "not checked, since only executing tells: items, splits, prompts and slopes of sums, evil_objective"
        in out
    )
    assert "the tokenizer of chat" in out and " genes" in out
    assert not (tmp_path / "canary").exists()
    assert not {"evil_task", "evil_objective"} & set(sys.modules)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            f"{ROWS}, cache_dir: {{folder}}/victim",
            "a search executes what `datasets` does by cache_dir",
        ),
        (
            f"{ROWS}, version: ../../victim, download_mode: x",
            "does by download_mode, version of dataset_kw",
        ),
        ("data_files: [{split: test, path: 'http://nowhere/x'}]", "makes of data_files that are"),
        ("data_files: !!set {'http://nowhere/x'}", "makes of data_files that are"),
        ("data_files: {test: {path: 'http://nowhere/x'}}", "makes of data_files that are"),
    ],
)
def test_check_builds_no_task_that_says_where_data_are_written(
    options: str, says: str, task_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fitness = task_of(options)
    before = sorted(fitness.parent.rglob("*"))
    assert main(["check", str(fitness)]) == 0
    assert says in capsys.readouterr().out
    assert sorted(fitness.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            "process_results: null\nmetric_list: [{metric: acc}, {metric: ./e.py}]",
            "metric ./e.py of the pack",
        ),
        (
            "metric_list: [{metric: acc}, {metric: '!function x'}]",
            "metric !function x of the package evaluate",
        ),
        (
            "metric_list: [{metric: acc}]\nuse_prompt: 'evil.yaml:x'",
            "'evil.yaml:x' holds, by use_pr",
        ),
    ],
)
def test_check_names_code_that_looks_like_none(
    lines: str, says: str, task_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fitness = task_of(ROWS)
    edit(fitness.with_name("sums.yaml"), "metric_list: [{metric: acc}]", lines)
    assert main(["check", str(fitness)]) == 0
    assert says in capsys.readouterr().out


def test_a_data_set_is_custom_by_a_function_alone(
    task_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fitness = task_of(ROWS)
    task = fitness.with_name("sums.yaml")
    edit(task, "dataset_path: json", "custom_dataset: 'yes'\ndataset_path: nobody/never-was")
    assert main(["check", str(fitness)]) == 0
    assert "downloads nobody/never-was for sums" in capsys.readouterr().out


def test_check_asks_no_address_that_a_task_names(
    task_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/rows.jsonl"
        assert main(["check", str(task_of(f"data_files: {{test: '{address}'}}"))]) == 0
        assert f"downloads {address} for sums" in capsys.readouterr().out
        with pytest.raises(BlockingIOError):
            server.accept()


def test_check_of_a_run_asks_no_address_either(
    run_folder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder()
    task = folder / "sums.yaml"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/rows.jsonl"
        task.write_text(re.sub(r"\{test: [^}]*\}", f"{{test: '{address}'}}", task.read_text()))
        assert main(["check", str(folder)]) == 0
        assert f"a search executes the download of {address}" in capsys.readouterr().out
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.fixture
def task_of(tmp_path: Path) -> Callable[[str], Path]:
    """A fitness file whose task has these data options, in which ``{folder}`` is where it lies."""

    def write(options: str) -> Path:
        rows = [{"question": f"{n}+1", "choices": ["1", "2"], "label": 0} for n in range(60)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = options.replace("{folder}", str(tmp_path))
        (tmp_path / "sums.yaml").write_text(
            f"task: sums\ndataset_path: json\ndataset_kwargs: {{{found}}}\ntest_split: test\n"
            'output_type: multiple_choice\ndoc_to_text: "{{question}}"\ndoc_to_target: label\n'
            "doc_to_choice: choices\nmetric_list: [{metric: acc}]\n"
        )
        fitness = tmp_path / "fitness.yaml"
        fitness.write_text("include: ['.']\nobjectives: {sums: {task: sums, metric: acc}}\n")
        return fitness

    return write


def test_functions_of_lm_eval_in_a_strangers_task_are_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of RULER loads a tokenizer with the code beside it."""
    (tmp_path / "tok").mkdir()
    auto = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (tmp_path / "tok" / "tokenizer_config.json").write_text(json.dumps(auto))
    (tmp_path / "tok" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tok" / "evil.py").write_text(TOUCH.format(canary=str(tmp_path / "canary")))
    (tmp_path / "odd.yaml").write_text(
        "task: odd\ncustom_dataset: !function lm_eval.tasks.ruler.vt_utils.get_vt_dataset\n"
        f"metadata: {{tokenizer: {tmp_path / 'tok'}, max_seq_lengths: [64]}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{input}}'\n"
        "doc_to_target: '{{outputs}}'\nmetric_list: [{metric: exact_match}]\n"
    )
    fitness = tmp_path / "fitness.yaml"
    fitness.write_text("include: ['.']\nobjectives: {odd: {task: odd, metric: exact_match}}\n")
    assert main(["check", str(fitness)]) == 0
    assert "executes lm_eval.tasks.ruler.vt_utils.get_vt_dataset" in capsys.readouterr().out
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("key", ["task: {path}", "task: other\ntag: {path}"])
def test_a_task_that_is_called_as_the_file_of_another_is_not_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    name = "med_text_classification_easy"  # data on a disk that nobody has
    folder = Path(lm_eval.__file__).parent / "tasks" / "med_text_classification"
    code = TOUCH.format(canary=str(tmp_path / "canary"))
    (tmp_path / "evil.py").write_text(code)
    (tmp_path / "rows.jsonl").write_text('{"q": "a"}\n' * 60)
    (tmp_path / "odd.yaml").write_text(
        f"{key.format(path=folder / f'{name}.yaml')}\ndataset_path: json\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "output_type: multiple_choice\ndoc_to_text: !function evil.docs\ndoc_to_target: a\n"
    )
    fitness = tmp_path / "fitness.yaml"
    fitness.write_text(f"include: ['.']\nobjectives: {{a: {{task: {name}}}}}\n")
    assert main(["check", str(fitness)]) == 2
    assert f"{folder / name}.yaml" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists()


def test_check_trusts_no_tokenizer_that_hides_its_code(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a config that another one names."""
    content = config.read(hostile / "run.yaml").plain
    content["fitness"]["objectives"].pop("code")
    model = tmp_path / "chat"
    settings = json.loads((model / "tokenizer_config.json").read_text())
    for key in ("auto_map", "tokenizer_class"):
        settings.pop(key, None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    hidden = json.loads((model / "config.json").read_text())
    other = {**hidden, "model_type": "never", "auto_map": {"AutoConfig": "evil_tokenizer.Evil"}}
    (model / "config.5.0.0.json").write_text(json.dumps(other))
    (model / "config.json").write_text(
        json.dumps({**hidden, "configuration_files": ["config.5.0.0.json"]})
    )
    (hostile / "run.yaml").write_text(config.dump(content))
    assert main(["check", str(hostile)]) in (0, 2)
    assert not (tmp_path / "canary").exists()


def test_a_journal_pins_no_folder(tmp_path: Path) -> None:
    ref = ModelRef("model", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert ref.pinned_as("/another/folder") == ""
    commit = "0123456789" * 4
    assert ModelRef("a/b").pinned_as(f"a/b@{commit}") == f"a/b@{commit}"
    assert ModelRef("a/b@main").pinned_as(f"a/b@{commit}") == f"a/b@{commit}"
    for other in ("", "/another/folder", f"c/d@{commit}", "a/b@main", f"a/b@{commit}+c/d@{commit}"):
        assert ModelRef("a/b").pinned_as(other) == ""
    mixed = ModelRef("a/b+model", str(tmp_path))
    assert mixed.pinned_as(f"a/b@{commit}+/moved") == f"a/b@{commit}+{tmp_path / 'model'}"


def test_a_recipe_takes_the_folder_that_it_names(family: dict[str, Path], tmp_path: Path) -> None:
    commit = "a" * 40
    content = {
        "models": {"x": str(family["chat"])},
        "dtype": "float32",
        "groups": [{"method": "passthrough"}],
        "provenance": {"commits": {str(family["chat"]): f"{family['chat']}@{commit}"}},
    }
    (tmp_path / "recipe.yaml").write_text(config.dump(content))
    recipe = Recipe.load(tmp_path / "recipe.yaml")
    assert recipe.ref("x").text == str(family["chat"])
    hub = {"models": {"x": "a/b"}, "provenance": {"commits": {"a/b": f"a/b@{commit}"}}}
    (tmp_path / "recipe.yaml").write_text(config.dump({**content, **hub}))
    assert Recipe.load(tmp_path / "recipe.yaml").ref("x").text == f"a/b@{commit}"


def test_tasks_of_lm_eval_whose_code_fetches_are_not_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitness = tmp_path / "fitness.yaml"
    fitness.write_text("objectives: {a: {task: squadv2, metric: exact}}\n")
    assert main(["check", str(fitness)]) == 0
    assert "downloads what code of lm-eval fetches for squadv2" in capsys.readouterr().out


@pytest.mark.parametrize("picture", [{"_type": "Image"}, {"_type": "Image", "decode": 1}])
def test_nobody_follows_the_path_of_a_picture(
    task_of: Callable[[str], Path], tmp_path: Path, picture: dict[str, Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        path = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
        rows = [
            {
                "question": f"{n}+1",
                "choices": ["1", "2"],
                "label": 0,
                "seen": {"bytes": None, "path": path},
            }
            for n in range(60)
        ]
        kinds = datasets.Dataset.from_list(rows).features
        table = pa.Table.from_pylist(rows)
        told = {"info": {"features": {**kinds.to_dict(), "seen": picture}}}
        pq.write_table(
            table.replace_schema_metadata({"huggingface": json.dumps(told)}),
            tmp_path / "rows.parquet",
        )
        fitness = task_of("data_files: {test: {folder}/rows.parquet}")
        edit(fitness.with_name("sums.yaml"), "dataset_path: json", "dataset_path: parquet")
        assert main(["check", str(fitness)]) == 0
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "said", ["repeats: -1", "repeats: 0", "repeats: many", "num_fewshot: -3", "num_fewshot: .5"]
)
def test_numbers_of_a_task_are_numbers(
    task_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str], said: str
) -> None:
    fitness = task_of(ROWS)
    with fitness.with_name("sums.yaml").open("a") as file:
        file.write(f"{said}\n")
    assert main(["check", str(fitness)]) == 2
    assert (
        f"{said.partition(':')[0]}: expected a whole number of at least" in capsys.readouterr().err
    )


def test_what_a_task_with_a_strange_key_includes_is_bounded_too(
    task_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fitness = task_of(ROWS)
    fitness.with_name("big").write_text("a: " + "x" * 3_000_000)
    fitness.with_name("other.yaml").write_text("task: other\n5: 1\ninclude: big\n")
    assert main(["check", str(fitness)]) == 2
    assert "big: is larger than" in capsys.readouterr().err


def test_check_finds_what_else_is_wrong_with_a_run_that_executes_code(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(hostile / "run.yaml", "evil_objective:score", "evil_objektive:score")
    weights = tmp_path / "chat" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, weights)
    assert main(["check", str(hostile)]) == 2
    found = capsys.readouterr().err
    assert "there is no module 'evil_objektive' here" in found
    assert "model.norm.weight holds 1 NaN" in found
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("asks", "options", "says"),
    [
        ("multiple_choice", {"think_end_token": "</t>"}, "sums: asks log-likelihoods (multiple_choice)"),
        ("multiple_choice", {"max_gen_toks": 9}, "sums: max_gen_toks is 9, but the task generates nothing"),
        ("generate_until", {"think_end_token": "<s>"}, "sums: think_end_token '<s>' is a special token"),
        ("generate_until", {"think_end_token": 9999}, "sums: think_end_token is 9999, but the tokenizer has"),
    ],
)  # fmt: skip
def test_check_refuses_options_of_tasks_that_execute_code(
    hostile: Path, capsys: pytest.CaptureFixture[str], asks: str, options: dict[str, Any], says: str
) -> None:
    edit(hostile / "sums.yaml", "output_type: multiple_choice", f"output_type: {asks}")
    content = config.read(hostile / "run.yaml").plain
    (name,) = (n for n, o in content["fitness"]["objectives"].items() if o.get("task") == "sums")
    content["fitness"]["objectives"][name] |= options
    content["trust_remote_code"] = False
    (hostile / "run.yaml").write_text(config.dump(content))
    assert main(["check", str(hostile)]) == 2
    found = capsys.readouterr().err
    assert says in found and f"objectives.{name}: " in found


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("metric: acc,", "metric: ./evil,", "metric ./evil of the package evaluate"),
        ("dataset_path: json", "dataset_path: pandas", "the loader pandas of `datasets`"),
        ("output_type:", "class: !function evil_task.docs\noutput_type:", "evil_task.docs"),
    ],
)
def test_check_names_code_that_hides(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, what: str
) -> None:
    edit(hostile / "sums.yaml", "process_docs: !function evil_task.docs\n", "")
    edit(hostile / "sums.yaml", old, new)
    (hostile / "evil.py").write_text(TOUCH.format(canary=str(tmp_path / "canary")))
    assert main(["check", str(hostile / "fitness.yaml")]) in (0, 2)
    captured = capsys.readouterr()
    assert what in captured.out or "no metric 'acc'" in captured.err
    assert not (tmp_path / "canary").exists()


@pytest.fixture(scope="module")
def done(
    family: dict[str, Path], small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A finished run. Read only."""
    folder = tmp_path_factory.mktemp("canaries") / "run"
    folder.mkdir()
    texts = "\n\n".join(f"passage {n}: {'lorem ipsum ' * (1 + n % 3)}" for n in range(60))
    (folder / "texts.txt").write_text(texts)
    sources = {"chat": str(family["chat"]), "sea": str(family["sea"])}
    content = {
        **small,
        "models": {"base": str(family["base"]), "sources": sources, "tokenizer": "chat"},
        "fitness": {**small["fitness"], "objectives": {"text": {"text": "texts.txt"}}},
    }
    (folder / "run.yaml").write_text(config.dump(content))
    search(folder)
    yield folder


def test_status_and_export_execute_nothing(done: Path, hostile: Path, tmp_path: Path) -> None:
    for name in ("journal.jsonl", "responses.bin", "best.yaml", "report.md"):
        shutil.copy(done / name, hostile)
    for command in (["status"], ["status", "--json"], ["export"]):
        assert main([command[0], str(hostile), *command[1:]]) == 0
    assert not (tmp_path / "canary").exists()


def test_a_study_is_written_where_it_was_asked_for(done: Path, tmp_path: Path) -> None:
    """Where an address of SQLAlchemy's would end."""
    folder = tmp_path / "a?b#c%20d"
    folder.mkdir()
    (tmp_path / "a").write_text("mine")
    assert main(["export", str(done), "--format", "optuna", "-o", str(folder / "out.db")]) == 0
    assert (tmp_path / "a").read_text() == "mine"
    assert (folder / "out.db").read_bytes().startswith(b"SQLite format 3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a?b#c%20d"]


def test_a_new_run_replaces_no_link(family: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.yaml").symlink_to(tmp_path / "nowhere")
    sources = [f"--source={name}={family[name]}" for name in ("chat", "sea")]
    words = ["new", str(tmp_path / "new"), "--base", str(family["base"]), *sources]
    assert main(words) == 2
    assert (tmp_path / "new" / "run.yaml").is_symlink()


@pytest.mark.parametrize("field", ["doc_to_text", "doc_to_target", "doc_to_choice"])
def test_a_template_cannot_call_the_shell(
    run_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    folder = run_folder()
    canary = tmp_path / "canary"
    call = f"cycler.__init__.__globals__.os.popen('touch {canary}').read()"
    lines = (folder / "sums.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(field)]
    text = "\n".join([*kept, f'{field}: "{{{{ {call} }}}}"', ""])
    (folder / "sums.yaml").write_text(text)
    for command in (["check"], ["search", "--ray", "off", "--quiet"]):
        assert main([command[0], str(folder), *command[1:]]) == 2
        found = capsys.readouterr().err
        assert f"sums ({folder / 'sums.yaml'}): a template of this task is refused" in found
    assert not canary.exists()


def test_a_template_that_reaches_out_for_some_documents_only_is_refused(
    run_folder: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder()
    call = (
        f"question.__class__.__mro__ and cycler.__init__.__globals__.os.mkdir('{tmp_path}/canary')"
    )
    edit(
        folder / "sums.yaml",
        "{{question}}=",
        "{% if question != '0+0' %}{{ " + call + " }}{% endif %}{{question}}=",
    )
    for command in (["check"], ["search", "--ray", "off", "--quiet"]):
        assert main([command[0], str(folder), *command[1:]]) == 2
        assert "a template of this task is refused" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists()


def test_a_folder_of_tasks_with_a_bomb_is_refused(
    run_folder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder()
    bomb = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
    )
    (folder / "bomb.yaml").write_text(bomb)
    assert main(["check", str(folder)]) == 2
    assert f"{folder / 'bomb.yaml'}:" in capsys.readouterr().err


# -- terminals and pages -------------------------------------------------------------------------


def test_text_is_made_visible() -> None:
    assert visible("a\x1b[2J\nb\tc\x9b\u202e") == "a\\x1b[2J\nb\tc\\x9b\\u202e"
    assert one_line("a\nb") == "a\\nb"
    assert visible("ไทย é [red] 😀") == "ไทย é [red] 😀"


def test_nothing_from_a_file_commands_the_terminal(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Record(done).table
    assert table is not None
    rows = tuple(dataclasses.replace(row, label=EVIL, notes=(EVIL,)) for row in table.rows)
    objective = {"value": 0.5, "low": 0.4, "high": 0.6, "why": None, "items": 3, "sources": 3}
    show_table(dataclasses.replace(table, rows=rows))
    show_lines([EVIL])
    show_scores({"model": EVIL, "split": "select", "objectives": {EVIL: objective}, "signals": {}, "looks": None})  # fmt: skip
    out = capsys.readouterr().out
    assert not any(code in out for code in CODES)
    assert out.count("\\x1b]0;x\\x07[red]<script>|\\x9b2J") >= 5


def test_a_live_display_shows_text_as_text() -> None:
    file = io.StringIO()
    screen = Screen(file=file, force_terminal=True, width=100)
    with Live(Text(EVIL), console=screen, refresh_per_second=1):
        screen.print(EVIL)
    shown = file.getvalue()
    assert "\x1b]" not in shown and "\x07" not in shown and "\x9b" not in shown
    assert "\\x1b]0;x[red]<script>" in shown  # rich itself drops the bell


def test_errors_and_warnings_are_shown_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path / f"{EVIL}.yaml".replace("/", ""))]) == 2
    assert not any(code in capsys.readouterr().err for code in CODES)
    record = logging.LogRecord("evomerge", logging.WARNING, "", 0, "of %s", (EVIL,), None)
    assert Formatter("%(message)s").format(record) == f"of {visible(EVIL)}"


def test_nothing_from_a_file_is_markup_of_the_report(done: Path) -> None:
    table = Record(done).table
    assert table is not None
    label = "a|b\n| c | <script>x</script> [y](javascript:z) ![i](j) `k` &lt;"
    rows = tuple(dataclasses.replace(row, label=label, notes=(EVIL,)) for row in table.rows)
    beside = tuple(dataclasses.replace(each, label=label) for each in table.beside)
    page = table_markdown(dataclasses.replace(table, rows=rows, beside=beside))
    assert "<script>" not in page and "](" not in page and "\x1b" not in page
    lines = [line.replace("\\|", "") for line in page.splitlines()]
    cells = [line.count("|") for line in lines if line.startswith("|")]
    first, second = cells[: len(rows) + 2], cells[len(rows) + 2 :]
    assert len(set(first)) == 1
    assert beside and len(second) == len(beside) + 2 and len(set(second)) == 1
    assert (markdown_text("[x]: y"), markdown_text("![a][x]")) == ("[x\\]: y", "![a\\][x]")
    assert (
        markdown_text("0.5 [0.4, 0.6] < 0.001 #3 (50% of x)")
        == "0.5 [0.4, 0.6] < 0.001 #3 (50% of x)"
    )


def test_the_record_of_a_search_is_no_output(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "journal.jsonl").read_bytes()
    for name in ("journal.jsonl", "responses.bin"):
        assert main(["export", str(done), "-o", str(done / name), "--force"]) == 2
        assert (
            f"{name}: is the record of a search, which nothing replaces" in capsys.readouterr().err
        )
    assert (done / "journal.jsonl").read_bytes() == before


# -- resume --------------------------------------------------------------------------------------


def begin(folder: Path) -> None:
    """Start the search in ``folder``; it stops before its first evaluation."""

    def no_pool(spec: object) -> NoReturn:
        raise RunError("stopped")

    with pytest.raises(RunError, match="stopped"):
        search(folder, no_pool)
    assert (folder / "journal.jsonl").is_file()


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["resume", str(folder), "--ray", "off", "--quiet"]) == 2
    return capsys.readouterr().err


def permuted(path: Path) -> None:
    """Two tokens of a tokenizer changed places."""
    content = json.loads(path.read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(content), encoding="utf-8")


def keyed(path: Path) -> None:
    """One more key in a JSON file."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, "comment": "changed"}))


def longer(path: Path) -> None:
    """A line more."""
    with path.open("a") as file:
        file.write("{# changed #}\n")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", keyed),
        ("generation_config.json", keyed),
        ("tokenizer.json", permuted),
        ("tokenizer_config.json", keyed),
        ("special_tokens_map.json", keyed),
        ("chat_template.jinja", longer),
        ("chat_template.jinja", Path.unlink),
    ],
)
def test_a_file_of_a_parent_that_changed_is_named_on_resume(
    run_folder: Make,
    family: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    change: Callable[[Path], None],
) -> None:
    parent = Path(shutil.copytree(family["sea"], tmp_path / "parent"))
    models = {"base": str(family["base"]), "sources": {"sea": str(parent)}, "tokenizer": "sea"}
    folder = run_folder(models=models)
    begin(folder)
    change(parent / file)
    assert f"sea ({parent}): {parent / file}: this file" in refused(folder, capsys)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_that_changed_is_named_on_resume(
    run_folder: Make,
    family: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
) -> None:
    adapter = tmp_path / "lora"
    adapter.mkdir()
    module = "base_model.model.model.layers.0.mlp.down_proj"
    matrices = {f"{module}.lora_A.weight": torch.ones(1, 48), f"{module}.lora_B.weight": torch.ones(32, 1)}  # fmt: skip
    save_file(matrices, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1})
    )
    models = {"base": str(family["base"]), "sources": {"sea": f"{family['sea']}+{adapter}"}}
    folder = run_folder(models=models)
    begin(folder)
    if file.endswith("json"):
        edit(adapter / file, '"lora_alpha": 1', '"lora_alpha": 2')
    else:
        save_file({name: 2 * each for name, each in matrices.items()}, adapter / file)
    assert f"{adapter / file}: this file changed" in refused(folder, capsys)


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("sums.jsonl", '"question": "2+3"', '"question": "2+4"', "sums: sums.jsonl"),
        ("sums.yaml", "{{question}}=", "{{question}} =", "sums: sums.yaml"),
        ("common.yaml", "test_split: test", "test_split: test\ntarget_delimiter: '='", "sums: common.yaml"),
        ("texts.jsonl", "passage 3:", "passage three:", "texts.jsonl: texts.jsonl"),
        ("my_task.py", "return helped(rows)", "return  helped(rows)", "sums: my_task.py"),
        ("my_help.py", "return rows", "return  rows", "sums: my_help.py"),
        ("my_goal.py", "FACTOR = 1", "FACTOR = 2", "my_goal:score: my_goal.py"),
        ("my_part.py", "TERM = 1", "TERM = 2", "my_goal:score: my_part.py"),
    ],
)  # fmt: skip
def test_data_and_code_that_changed_are_named_on_resume(
    run_folder: Make,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    old: str,
    new: str,
    named: str,
) -> None:
    folder = run_folder()
    for module in ("my_task", "my_help", "my_goal", "my_part"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(folder)
    (folder / "my_help.py").write_text("def helped(rows):\n    return rows\n")
    (folder / "my_task.py").write_text(
        "from my_help import helped\n\ndef docs(rows):\n    return helped(rows)\n"
    )
    (folder / "my_part.py").write_text("TERM = 1\n")
    (folder / "my_goal.py").write_text(
        "import my_part\nFACTOR = 1\n\ndef score(model, tokenizer, *, split):\n    return FACTOR * my_part.TERM\n"
    )
    edit(folder / "sums.yaml", "test_split: test\n", "")
    (folder / "common.yaml").write_text("test_split: test\n")
    with (folder / "sums.yaml").open("a") as task:
        task.write("include: common.yaml\nprocess_docs: !function my_task.docs\n")
    edit(folder / "run.yaml", "objectives:", "objectives:\n    code: {function: 'my_goal:score'}")
    begin(folder)
    for module in ("my_task", "my_help", "my_goal", "my_part"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    edit(folder / file, old, new)
    assert f"{named}: this file changed" in refused(folder, capsys)


def test_what_did_not_change_what_is_asked_resumes(
    run_folder: Make, tmp_path: Path, small: dict[str, Any]
) -> None:
    """A comment in a task file; a folder that moved."""
    folder = run_folder(**small)
    begin(folder)
    with (folder / "sums.yaml").open("a") as task:
        task.write("# a comment\n")
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    edit(moved / "sums.yaml", str(folder), str(moved))
    assert main(["resume", str(moved), "--ray", "off", "--quiet"]) == 0


def test_a_name_that_no_file_can_have_is_no_surprise(tmp_path: Path) -> None:
    from evomerge.checkpoint import Checkpoint, ModelRef

    for name in ("x" * 5000, "~nobody-at-all/x", "a\0b"):
        with pytest.raises(InputError):
            Checkpoint.open(ModelRef(name, str(tmp_path)))
