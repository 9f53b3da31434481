"""The command line in one process, over one finished search."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from pyarrow import parquet

import evomerge
from evomerge import Recipe, config, methods
from evomerge.cli import main
from evomerge.cli.parser import make_parser
from evomerge.commands.score import score_model
from evomerge.commands.search import search
from evomerge.record.holder import announce, holding
from evomerge.record.record import Record
from evomerge.report.frames import csv_of, parquet_of

Call = Callable[..., str]
UNSEEN = "no fitness file of this folder had looked at these report items before"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command that must succeed; what it wrote to standard output."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def finished(family: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that is done. Read only."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    folder.mkdir()
    texts = "\n\n".join(f"passage {n}: {'lorem ipsum ' * (1 + n % 3)}" for n in range(60))
    (folder / "texts.txt").write_text(texts)
    (folder / "digits.txt").write_text("\n\n".join(f"{n} {n * n} {n**3}" for n in range(60)))
    content = {
        "models": {
            "base": str(family["base"]),
            "sources": {"chat": str(family["chat"]), "sea": str(family["sea"])},
            "tokenizer": "chat",
        },
        "space": {"methods": ["task_arithmetic"], "groups": {"layers": 2}},
        "fitness": {
            # untrained parents gain nothing: with scales both count all the same
            "objectives": {
                "text": {"text": "texts.txt", "scale": 0.1},
                "digits": {"text": "digits.txt", "scale": 0.1},
            },
            "items": {"search": 8, "select": 8, "report": 8, "candidate": 4},
        },
        "optimizer": {"name": "random", "population": 3},
        "budget": {"evaluations": 16},
    }
    (folder / "run.yaml").write_text(config.dump(content))
    search(folder)
    yield folder


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """The same run, stopped in the middle of a batch, with half an event written."""
    folder = Path(shutil.copytree(finished, tmp_path / "unfinished"))
    for name in ("best.yaml", "run.looks.jsonl"):
        (folder / name).unlink()
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    events = [json.loads(line)["event"] for line in lines]
    batches = [number for number, event in enumerate(events) if event == "batch"]
    cut = batches[3] + 2
    (folder / "journal.jsonl").write_text("".join(lines[:cut]) + lines[cut][:40])
    return folder


# -- without heavy libraries ---------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, evomerge.cli\n"
        f"try: evomerge.cli.main({arguments!r})\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "heavy = {'torch', 'ray', 'lm_eval', 'transformers', 'cma', 'optuna', 'numpy', 'rich'}\n"
        "sys.exit(f'imported: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "evomerge" in done.stdout


@pytest.mark.parametrize("command", [["status"], ["export"], ["report"]])
def test_a_run_is_read_without_the_libraries_that_made_it(
    finished: Path, command: list[str]
) -> None:
    code = (
        f"import sys, evomerge.cli\nassert evomerge.cli.main({[*command, str(finished)]!r}) == 0\n"
        "heavy = {'ray', 'lm_eval', 'transformers', 'cma', 'optuna'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_help_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = make_parser()
    (commands,) = (each for each in parser._actions if isinstance(each.choices, dict))
    for each in (parser, *commands.choices.values()):
        assert [line for line in each.format_help().splitlines() if len(line) > 80] == []


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "start here:" in capsys.readouterr().out


# -- methods -------------------------------------------------------------------------------------


def test_the_catalogue_is_generated_from_the_declarations(call: Call) -> None:
    listed = json.loads(call("methods", "--json"))
    assert [method["name"] for method in listed] == list(methods.names())
    for method in listed:
        declared = methods.get(method["name"]).parameters
        assert [p["name"] for p in method["parameters"]] == [p.name for p in declared]
        assert json.loads(call("methods", method["name"], "--json")) == method
    table = call("methods")
    assert all(name in table for name in methods.names())


def test_a_method_is_explained(call: Call) -> None:
    text = call("methods", "ties")
    for parameter in methods.get("ties").parameters:
        assert parameter.name in text and str(parameter.domain) in text
    assert "https://arxiv.org/abs/2306.01708" in text
    assert "Trim each delta, elect a sign per entry" in text


@pytest.mark.parametrize("name", methods.names())
def test_a_method_is_explained_without_what_only_its_caller_needs(call: Call, name: str) -> None:
    text = call("methods", name)
    assert "Args:" not in text and "Returns:" not in text and "operands" not in text
    assert "Paper:" in text and "Deviations:" in text


def test_the_package_shows_its_public_names() -> None:
    assert set(dir(evomerge)) == {*evomerge.__all__, "__version__"}


# -- check ---------------------------------------------------------------------------------------


def test_models_and_spaces_are_checked_by_themselves(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(evomerge.__file__).parent / "demo" / "models" / "chat"
    assert "LlamaForCausalLM, 4 layers, 894,080 parameters" in call("check", str(model))
    space = tmp_path / "space.yaml"
    space.write_text("methods: [ties]\nparameters: {weight: {thai: {range: [0, 1]}}}\n")
    assert "for sources named thai" in call("check", str(space))
    space.write_text("methods: [ties]\nparameters: {wieght: 1}\n")
    assert main(["check", str(space)]) == 2
    assert "did you mean 'weight'" in capsys.readouterr().err


def test_a_run_is_checked_before_it_is_started(call: Call, finished: Path) -> None:
    for path in (finished, finished / "run.yaml"):
        text = call("check", path)
        for fact in (
            "ok",
            "LlamaForCausalLM, 4 layers, 39,264 parameters",
            "16 evaluations",
            "8 texts.txt",
        ):
            assert fact in text
    assert "6 genes" in text  # 2 models x (2 blocks + rest)


def test_a_recipe_is_checked(call: Call, finished: Path) -> None:
    text = call("check", finished / "best.yaml")
    assert "tokenizer of chat" in text
    assert Recipe.load(finished / "best.yaml").digest[:16] in text


# -- export --------------------------------------------------------------------------------------


def test_the_winner_is_exported_as_yaml_and_nothing_else(
    call: Call, finished: Path, tmp_path: Path
) -> None:
    text = call("export", finished)
    assert text == (finished / "best.yaml").read_text()
    recipe = Recipe.parse(config.parse(text))
    status = json.loads(call("status", finished, "--json"))
    assert recipe.provenance["candidate"] == status["winner"]
    assert set(recipe.provenance["parents"]) == {"base", "chat", "sea"}
    assert set(recipe.provenance["report"]["objectives"]) == {"text", "digits"}
    assert call("export", finished, "-o", tmp_path / "new" / "best.yaml") == ""
    assert (tmp_path / "new" / "best.yaml").read_text() == text
    found, trust = recipe.provenance, status["table"]["trust"]
    for mine, theirs in (
        ("search_score", "search"),
        ("select_score", "select"),
        ("search_less_report", "gap"),
    ):
        for end in ("value", "low", "high"):
            assert found[mine][end] == pytest.approx(trust[theirs][end], abs=1e-6)
    digits = found["report"]["score"]["value"]
    assert digits == round(digits, 6)


def test_any_candidate_can_be_exported(call: Call, finished: Path) -> None:
    uniform = Recipe.parse(config.parse(call("export", finished, "--candidate", "3")))
    assert uniform.provenance["origin"] == "uniform"
    assert [group.method for group in uniform.groups] == ["linear"]


def test_what_search_estimates_say_of_the_front_is_exported_only_as_unconfirmed(
    call: Call, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "front"
    assert main(["export", str(finished), "--pareto", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "confirmed no front: its fitness has no `front: N`" in said and "--unconfirmed" in said
    assert not folder.exists()
    call("export", finished, "--unconfirmed", folder)
    *files, table = sorted(folder.iterdir())
    assert len(files) > 1 and table.name == "front.md"
    numbers = [Recipe.load(path).provenance["candidate"] for path in files]
    assert [path.name for path in files] == [f"candidate-{n:05d}.yaml" for n in numbers]
    assert "UNCONFIRMED" in table.read_text()
    assert all(f"| #{n} |" in table.read_text() for n in numbers)
    files[-1].write_text("mine")
    for path in (*files[:-1], table):
        path.unlink()
    again = ["export", str(finished), "--unconfirmed", str(folder)]
    assert main(again) == 2
    assert f"{files[-1]}: exists already" in capsys.readouterr().err
    assert list(folder.iterdir()) == [files[-1]]  # none is written, not some
    call(*again, "--force")
    assert sorted(folder.iterdir()) == [*files, table]


def test_a_recipe_is_exported_for_mergekit(call: Call, finished: Path) -> None:
    content = config.parse(
        call("export", finished, "--format", "mergekit", "--candidate", "4")
    ).plain
    assert content["merge_method"] == "task_arithmetic"
    assert len(content["slices"][0]["sources"]) == 3


def test_an_existing_file_is_not_overwritten(
    call: Call, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "best.yaml"
    out.write_text("mine")
    assert main(["export", str(finished), "-o", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err and out.read_text() == "mine"
    call("export", finished, "-o", out, "--force")
    assert Recipe.load(out)


# -- merge and score -----------------------------------------------------------------------------


def test_the_winner_is_merged_and_scores_what_the_table_says(
    call: Call, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    assert call("merge", finished / "best.yaml", "-o", out) == f"{out}\n"
    fitness = tmp_path / "fitness.yaml"
    fitness.write_text(config.dump(config.read(finished / "run.yaml").plain["fitness"]))
    for name in ("texts.txt", "digits.txt"):
        shutil.copy(finished / name, tmp_path)
    asked = ("--fitness", fitness, "--split", "report", "--json")
    scored = {
        str(model): json.loads(call("score", model, *asked, *again))
        for model, again in ((out, ()), (finished / "best.yaml", ("--again",)))
    }
    table = json.loads(call("status", finished, "--json"))["table"]
    row = next(row for row in table["rows"] if row["candidate"] == table["winner"])
    for model, result in scored.items():
        assert (result["model"], result["split"]) == (model, "report")
        assert result["objectives"]["text"]["value"] == row["objectives"]["text"]["value"]
        assert result["objectives"]["text"]["items"] == 8
    text = call("score", out, "--fitness", fitness)
    assert "select split" in text and "text" in text


def test_report_items_are_looked_at_once(
    call: Call, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However the file that asks for them is called, cut or limited."""
    suites = tmp_path / "suites"
    suites.mkdir()
    fitness = suites / "fitness.yaml"
    content = config.read(finished / "run.yaml").plain["fitness"]
    fitness.write_text(config.dump(content))
    for name in ("texts.txt", "digits.txt"):
        shutil.copy(finished / name, suites)

    def report(file: Path = fitness) -> list[str]:
        named = ["--fitness", str(file), "--split", "report"]
        return ["score", str(finished / "best.yaml"), *named]

    def refusal(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 2
        return capsys.readouterr().err

    call("score", finished / "best.yaml", "--fitness", fitness)  # select: no look
    assert UNSEEN in call(*report())
    said = refusal(*report())
    assert "16 of the 16 report items had been looked at before (on 20" in said
    assert "by `evomerge score` with" in said and "--again" in said
    assert "(2 times" not in call(*report(), "--again")
    assert "16 of the 16 report items had been looked at before (2 times" in refusal(*report())
    [book] = suites.glob("*.looks.jsonl")
    looks = [json.loads(line) for line in book.open()]
    assert [look["by"] for look in looks] == ["score", "score"]
    assert looks[0]["digest"] == Recipe.load(finished / "best.yaml").digest

    digits = suites / "renamed.txt"
    (suites / "digits.txt").rename(digits)
    other = config.read(fitness).plain
    other["objectives"] = {"new name": {"text": "renamed.txt"}}
    other["items"] |= {"report": 20, "partition": 1}
    copy = suites / "copy.yaml"
    copy.write_text(config.dump(other))
    some = re.search(r"(\d+) of the 20 report items", refusal(*report(copy)))
    assert some and 0 < int(some[1]) <= 8, "another cut holds some of them"
    digits.write_text("\n\n".join(f"new {n} {n * n}" for n in range(60)))
    assert UNSEEN in call(*report(copy))
    assert len(list(suites.glob("*.looks.jsonl"))) == 2

    torn = book.with_name("copy.looks.jsonl")
    torn.write_text('{"date": "2025", "items": "f6e51')
    call(*report(copy), "--again")
    assert len(torn.read_text().splitlines()) == 2, "what was torn takes no later look with it"
    number = json.dumps({**looks[0], "date": 5})
    for line in ('{"date": "2025", "items": "f6e51ffeb0ebd993"}', number):
        torn.write_text(f"{line}\n")
        assert "copy.looks.jsonl:1: not a look at report items" in refusal(*report(copy))


def test_a_suite_is_reduced_to_anchors_for_another_folder(
    call: Call, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitness, reduced = tmp_path / "suites" / "whole.yaml", tmp_path / "reduced.yaml"
    fitness.parent.mkdir()
    fitness.write_text(config.dump(config.read(finished / "run.yaml").plain["fitness"]))
    for name in ("texts.txt", "digits.txt"):
        shutil.copy(finished / name, fitness.parent)
    status = config.read(finished / "run.yaml").plain["models"]
    models = [status["base"], *status["sources"].values(), str(finished / "best.yaml")]
    reduce = ["reduce", str(fitness), "--items", "5", "-o", str(reduced), "--models"]
    assert main([*reduce, *models[:2]]) == 2
    assert "2 are too few" in capsys.readouterr().err and not reduced.exists()
    assert main([*reduce, *models, models[1]]) == 2
    assert f"{models[1]} and {models[1]} are the same recipe" in capsys.readouterr().err
    shown = call(*reduce, *models)
    assert "suites" not in shown and "texts.txt: 5 of 8 search items" in shown
    assert shown.count("from 4 models") == 2
    anchors = config.read(reduced).plain["anchors"]
    assert set(anchors) == {"suites/texts.txt", "suites/digits.txt"}
    assert all(sum(weights.values()) == pytest.approx(1) for weights in anchors.values())
    assert "search items: 5 suites/texts.txt, 5 suites/digits.txt" in call("check", reduced)
    weighted = call("score", models[0], "--fitness", reduced, "--split", "search")
    assert weighted.count("[weighted anchors; error unknown]") == 2
    assert main([*reduce, *models]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["reduce", str(reduced), "-o", str(fitness), "--force", "--models", *models]) == 2
    assert "is reduced already" in capsys.readouterr().err


def test_the_shard_size_is_an_option(call: Call, finished: Path, tmp_path: Path) -> None:
    call("merge", finished / "best.yaml", "-o", tmp_path / "out", "--shard-size", "0.00005")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2


# -- status --------------------------------------------------------------------------------------


def status_of(call: Call, folder: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(call("status", folder, "--json"))
    return status


def test_the_status_of_a_finished_run(call: Call, finished: Path) -> None:
    status = status_of(call, finished)
    assert (status["phase"], status["failed"]) == ("done", 0)
    assert status["budget"]["evaluations"] == status["spent"]["evaluations"] == 16
    assert status["evaluations"] >= 16
    labels = [row["label"] for row in status["table"]["rows"]]
    assert {"base", "chat", "sea"} < set(labels) and labels[-1].startswith("winner: ")
    text = call("status", finished)
    assert all(label in text for label in labels)
    remark, looks = status["remarks"]
    assert looks == UNSEEN
    assert remark == (
        "the shortlist answered the whole select split, without a race: "
        "text (bits_per_byte) is no mean of numbers from 0 to 1"
    )
    assert f"{remark}." in text and f"* {remark}." in (finished / "report.md").read_text()
    best = status["best"]
    low, high = best["search_interval"]
    assert low <= best["search_score"] <= high
    assert f"{best['search_score']:.3f} [{low:.3f}, {high:.3f}]: " in text or low == high
    assert max(map(len, text.splitlines()[:1])) and "not running; last event" in text
    table = [line for line in text.splitlines() if "winner: " in line]
    assert table and all(len(line) <= 80 for line in table)


def test_a_run_is_watched_until_nobody_works_on_it(
    call: Call, finished: Path, unfinished: Path
) -> None:
    assert call("status", finished, "--watch").count("not running; last event") == 1
    assert "go on with: evomerge search" in call("status", unfinished, "--watch", "0.1")
    (unfinished / "running.json").write_text('{"pid": 1, "host": "elsewhere", "since": 0}')
    assert status_of(call, unfinished)["holder"]["running"] is None
    assert main(["status", str(finished), "--watch", "0"]) == 2


def test_a_search_that_runs_says_so_and_watching_ends_with_it(call: Call, unfinished: Path) -> None:
    code = "import sys, evomerge.cli\nsys.exit(evomerge.cli.main(sys.argv[1:]))"
    with holding(unfinished):
        announce(unfinished, 600.0, 3600.0)
        running = status_of(call, unfinished)
        assert 500 < running["seconds_left"] <= 600
        assert running["holder"]["limit"] == 3600
        said = call("status", unfinished)
        assert "10 min to the final table (announced " in said
        assert "a job that tells nothing for 60 min counts as hung" in said
        watcher = subprocess.Popen(
            [sys.executable, "-c", code, "status", str(unfinished), "--watch", "0.1", "--json"],
            stdout=subprocess.PIPE,
        )
        assert watcher.stdout is not None
        seen = [json.loads(watcher.stdout.readline()) for _ in range(2)]
    rest = watcher.stdout.read().splitlines()
    watcher.stdout.close()
    assert watcher.wait() == 0
    assert running["running"] and all(each["running"] for each in seen)
    assert not json.loads(rest[-1])["running"]
    assert running["candidates_tried"] == running["evaluations"] - 3


def test_no_text_of_a_run_is_a_formula_of_a_spreadsheet(finished: Path) -> None:
    record = Record(finished)
    record.history.candidates[3].origin = '=HYPERLINK("http://nowhere/")'
    rows = list(csv.DictReader(io.StringIO(csv_of(record))))
    found = {row["origin"] for row in rows if row["candidate"] == "3"}
    assert found == {'\'=HYPERLINK("http://nowhere/")'}
    assert not any(row["score"].startswith("'") for row in rows)
    for text in ("\uff1d1+1", "\ufeff=1", "\n=1", "\t1", "\x0b+1"):
        record.history.candidates[3].origin = text
        rows = list(csv.DictReader(io.StringIO(csv_of(record), newline="")))
        assert {row["origin"] for row in rows if row["candidate"] == "3"} == {f"'{text}"}


def test_half_a_surrogate_pair_is_written_out(finished: Path, tmp_path: Path) -> None:
    record = Record(finished)
    record.history.candidates[3].origin = "\ud83d"
    config.write_text(tmp_path / "rows.csv", csv_of(record))
    (tmp_path / "rows.parquet").write_bytes(parquet_of(record))
    assert "\\ud83d" in (tmp_path / "rows.csv").read_text(encoding="utf-8")
    assert "\\ud83d" in parquet.read_table(tmp_path / "rows.parquet")["origin"].to_pylist()


@pytest.mark.parametrize(("said", "meant"), [("of", "off"), ("locl", "local")])
def test_a_placement_that_is_none_is_refused_at_once(
    said: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(tmp_path / "nowhere"), "--ray", said]) == 2
    told = capsys.readouterr().err
    assert f"--ray {said} (did you mean {meant!r}?): expected local, auto, off or HOST:PORT" in told


# -- tables for other tools ------------------------------------------------------------------------


def test_evaluations_are_exported_as_tables(call: Call, finished: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(call("export", finished, "--format", "csv"))))
    status = status_of(call, finished)
    assert len(rows) == status["evaluations"]
    best = max(
        (r for r in rows if r["phase"] in ("start", "search")), key=lambda r: float(r["score"])
    )
    assert int(best["candidate"]) == status["best"]["candidate"]
    assert float(best["objective.text"]) == status["best"]["values"]["text"]
    assert {r["phase"] for r in rows} == {"references", "start", "search", "select", "report"}
    file = tmp_path / "rows.parquet"
    call("export", finished, "--format", "parquet", "-o", file)
    table = parquet.read_table(file)
    assert table.column_names == list(rows[0]) and table.num_rows == len(rows)
    assert table["digest"].to_pylist() == [row["digest"] for row in rows]
    assert table.schema.metadata[b"evomerge.run"].decode() == config_digest(finished)
    gene = next(name for name in table.column_names if name.startswith("gene."))
    drawn = [row[gene] for row in table.to_pylist() if row["phase"] == "search"]
    assert drawn and all(0 <= value <= 1 for value in drawn)


def config_digest(folder: Path) -> str:
    return str(json.loads((folder / "journal.jsonl").read_text().splitlines()[0])["digest"])


def test_evaluations_are_exported_as_a_study(call: Call, finished: Path, tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    call("export", finished, "--format", "optuna", "-o", file)
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{file}")
    status = status_of(call, finished)
    assert len(study.trials) == status["spent"]["evaluations"]
    tried = [t for t in study.trials if t.user_attrs["phase"] != "references"]
    best = max(tried, key=lambda trial: trial.value)
    assert best.user_attrs["candidate"] == status["best"]["candidate"]
    assert best.value == status["best"]["search_score"]
    before = file.read_bytes()
    assert main(["export", str(finished), "--format", "optuna", "-o", str(file)]) == 2
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--format", "parquet"], "give a file to write with -o FILE"),
        (
            ["--format", "csv", "--candidate", "3"],
            "--candidate: --format csv writes every evaluation",
        ),
    ],
)
def test_what_makes_no_table_is_refused(
    finished: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(finished), *options]) == 2
    assert says in capsys.readouterr().err


def test_scoring_says_how_far_it_is(finished: Path, tmp_path: Path) -> None:
    fitness = config.read(finished / "run.yaml").plain["fitness"]
    for objective in fitness["objectives"].values():
        objective["text"] = str(finished / objective["text"])
    (tmp_path / "fitness.yaml").write_text(config.dump(fitness))
    heard: list[tuple[int, int]] = []
    score_model(
        str(finished / "best.yaml"),
        tmp_path / "fitness.yaml",
        heard=lambda *said: heard.append(said),
    )
    (total,) = {of for _, of in heard}
    done = [count for count, _ in heard]
    assert done == sorted(done) and done[0] == 0 and done[-1] == total
    assert len(set(done)) > 2
    assert done.count(0) > 10, "each merged tensor is a sign of life"


def test_a_merge_of_an_unfinished_search_says_so(
    unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", str(unfinished), "-o", str(tmp_path / "out")]) == 0
    assert "not finished: this is candidate" in capsys.readouterr().err


def test_a_budget_that_generation_0_spends_is_said(
    call: Call, run_folder: Callable[..., Path], small: dict[str, Any]
) -> None:
    floored = {"sums": {"task": "sums", "floor": "50% of base"}}
    fitness = {**small["fitness"], "objectives": floored}
    folder = run_folder(**{**small, "fitness": fitness, "budget": {"tokens": 60}})
    assert "without a race: there are floors (sums)" in call("check", folder)
    shown = call("search", folder, "--ray", "off", "--quiet")
    assert "no generation was searched" in shown and " of 60 tokens)." in shown, shown
    assert "without a race: there are floors (sums)." in shown
    assert status_of(call, folder)["batches"] == 4


def test_the_status_of_a_run_under_way(call: Call, unfinished: Path, finished: Path) -> None:
    status = status_of(call, unfinished)
    assert (status["phase"], status["winner"], status["table"]) == ("search", None, None)
    assert status["batches"] == 4
    assert status["spent"]["evaluations"] == status["evaluations"], "what arrived"
    assert 10 < status["evaluations"] < status_of(call, finished)["evaluations"]
    # without its models and data, too
    (unfinished / "run.yaml").unlink()
    (unfinished / "texts.txt").unlink()
    assert status_of(call, unfinished) == status
    assert "search" in call("status", unfinished / "run.yaml")
    best = Recipe.parse(config.parse(call("export", unfinished)))
    assert best.provenance["candidate"] == status["best"]["candidate"]
    assert "report" not in best.provenance


def test_resume_goes_on_where_the_journal_ends(
    call: Call, unfinished: Path, finished: Path
) -> None:
    shown = call("resume", unfinished, "--ray", "off", "--quiet")
    assert "winner" in shown and UNSEEN in shown
    ours, theirs = status_of(call, unfinished), status_of(call, finished)
    for key in ("table", "best", "winner", "evaluations"):
        assert ours[key] == theirs[key]
    assert call("export", unfinished) == call("export", finished)
    size = (unfinished / "journal.jsonl").stat().st_size
    # done is done: the table is shown again, and the look counted once, by the Python API, too
    looks = unfinished / "run.looks.jsonl"
    [recorded] = looks.read_text().splitlines()
    looks.unlink()
    assert UNSEEN in search(unfinished).remarks[-1]
    assert looks.read_text().splitlines() == [recorded]
    assert UNSEEN in call("search", unfinished, "--ray", "off")
    assert looks.read_text().splitlines() == [recorded]
    assert UNSEEN in (unfinished / "report.md").read_text()
    shutil.copy(looks, unfinished / "another.looks.jsonl")
    content = json.loads(recorded)
    earlier = content | {"date": "2025-01-01T00:00:00.000+00:00", "digest": "", "by": "score"}
    looks.write_text(json.dumps(earlier) + "\n")
    # what had been seen when the search ended is in its record; what is seen later is not its fault
    assert UNSEEN in call("search", unfinished, "--ray", "off")
    looks.unlink()
    looks.with_name("another.looks.jsonl").unlink()
    looks.mkdir()  # can be neither read nor written
    done = search(unfinished)
    assert done.winner and UNSEEN in done.remarks[-1]
    assert json.loads(call("status", unfinished, "--json"))["table"] == theirs["table"]
    assert (unfinished / "journal.jsonl").stat().st_size < size + 200  # a session, no work


def test_what_rounding_takes_is_said_before_a_merge_and_with_it(
    call: Call, family: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    group = {"method": "task_arithmetic", "models": ["chat"], "weight": 0.01}
    models = {name: str(family[name]) for name in ("chat", "sea")}
    content = {"base": str(family["base"]), "models": models, "groups": [group]}
    recipe.write_text(config.dump(content))
    [said] = re.findall(r"rounding to bfloat16 takes \d+% .*", call("check", recipe))
    assert main(["merge", str(recipe), "-o", str(tmp_path / "out")]) == 0
    assert said in capsys.readouterr().err
    recipe.write_text(config.dump({**content, "dtype": "float32"}))
    told = call("check", recipe)
    assert "rounding to float32 takes less than 1%" in told
    assert "note: no group reads sea: the merge is the same without" in told


def test_check_names_groups_that_no_tensor_reaches(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "base: embedded:base\nmodels: {chat: embedded:chat, sea: embedded:sea}\ngroups:\n"
        "- {layers: [90, 99], method: ties, density: 0.5}\n- {method: linear}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "evomerge", "check", str(recipe)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "groups[0] matches no tensor" in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["methods"], ["methods", "ties"], ["new", "--list"]])
def test_whose_reader_left_says_nothing(arguments: list[str]) -> None:
    """As under ``| head``; tables are written by a library that exits."""
    process = subprocess.Popen(
        [sys.executable, "-m", "evomerge", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, "")
