"""Statistics of parents: collected, searched over, resumed, exported, merged; and never left out unseen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge import Recipe, config, merge, merge_into, methods
from evomerge.calibration import Texts
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.cli import main
from evomerge.collecting import measure
from evomerge.commands.measure import measure_model
from evomerge.commands.search import search
from evomerge.errors import InputError, NotMeasured
from evomerge.merging import open_parents
from evomerge.methods import optional
from evomerge.parents import Parents
from evomerge.parents.fisher import Fisher
from evomerge.parents.statistics import Statistics
from evomerge.record.events import JOURNAL
from evomerge.run import loop
from evomerge.testing.trajectory import trajectory

TEXTS = ["the quick brown fox", "nama saya budi", "what is this?"]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evomerge" / "statistics"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "calibration.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


@pytest.fixture
def changes(by_fisher: dict[str, Any], data: Path) -> dict[str, Any]:
    """A job with calibration texts."""
    return {**by_fisher, "calibration": {"file": str(data), "items": 2}, "lag": 1}


def recipe_file(tmp_path: Path, **more: Any) -> Path:
    content = {
        "base": "embedded:base",
        "models": {"chat": "embedded:chat", "sea": "embedded:sea"},
        "dtype": "float32",
        "groups": [{"method": "fisher", "weight": {"chat": 1.0, "sea": 0.5}}],
        **more,
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(config.dump(content))
    return file


# -- collecting ----------------------------------------------------------------------------------


def test_fisher_is_the_mean_of_squared_slopes(model_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module = AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32").eval()
    module.requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    found = dict(Fisher().collect(module, tokenizer, TEXTS))
    assert found.keys() == dict(module.named_parameters()).keys()
    assert not any(p.requires_grad or p.grad is not None for p in module.parameters())

    module.requires_grad_(True)
    expected = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for text in TEXTS:
        module.zero_grad()
        tokens = torch.tensor([[0, *tokenizer.encode(text)]])
        (module(input_ids=tokens, labels=tokens).loss * (tokens.shape[1] - 1)).backward()
        for name, parameter in module.named_parameters():
            expected[name] += parameter.grad**2 / len(TEXTS)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-7)


def test_it_is_collected_once_with_the_same_bytes(
    data: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["measure", "embedded:chat", "--statistic", "fisher", "--data", str(data)]
    assert main([*command, "--items", "2"]) == 0
    out, progress = capsys.readouterr()
    file = Path(out.splitlines()[0])
    digest = Texts.read(data, 2).digest
    assert file.is_relative_to(cache)
    assert f"items: 2, digest: {digest}" in " ".join(out.split())  # paths may be long
    assert "collecting fisher of embedded:chat: text 2 of 2" in progress
    first, state = file.read_bytes(), file.stat()
    assert main([*command, "--items", "2"]) == 0
    assert file.stat() == state
    shutil.rmtree(cache)
    measure_model("embedded:chat", "fisher", data, 2)
    assert file.read_bytes() == first
    assert measure_model("embedded:chat", "fisher", data)[0] != file, "other texts"
    assert measure_model("embedded:sea", "fisher", data, 2)[0] != file, "another model"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embedded:chat", "--statistic", "fishr", "--data", "{}"], "did you mean 'fisher'"),
        (["embedded:chat", "--statistic", "fisher", "--data", "no.txt"], "no.txt: no such file"),
        (["embedded:cha", "--statistic", "fisher", "--data", "{}"], "did you mean 'chat'"),
        (["embedded:chat", "--statistic", "fisher", "--data", "{}", "--items", "9"], "has 3 pass"),
        (["embedded:chat", "--statistic", "fisher", "--data", "{}", "--items", "0"], "at least 1"),
    ],
)
def test_wrong_input_is_one_message(
    arguments: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", *(word.format(data) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# -- refusing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["check"], ["merge", "-o", "out"]])
def test_a_recipe_is_refused_without_its_statistics(
    command: list[str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *options = command
    assert main([name, str(recipe_file(tmp_path)), *options]) == 2
    error = capsys.readouterr().err
    assert "recipe.yaml:1: data: missing; fisher (groups[0]) requires" in error
    assert "`evomerge measure MODEL --statistic fisher --data FILE`" in error

    measured, said = measure_model("embedded:chat", "fisher", data)
    file = str(recipe_file(tmp_path, data=said.plain))
    assert main([name, file, *options]) == 2
    error = capsys.readouterr().err
    assert f"\n  evomerge measure embedded:sea --statistic fisher --data {data}\n" in error
    assert "embedded:chat" not in error and not (tmp_path / "out").exists()

    measure_model("embedded:sea", "fisher", data)
    assert main([name, file, *options]) == 0
    measured.unlink()
    recipe = Recipe.load(file)
    with pytest.raises(NotMeasured, match="evomerge measure embedded:chat"):
        Statistics(open_parents(recipe)).require(recipe)


def test_what_is_optional_is_not_left_out_where_a_recipe_names_data(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, said = measure_model("embedded:chat", "fisher", data)
    fisher = methods.get("fisher")
    lax = replace(fisher, statistics=dict.fromkeys(fisher.statistics, optional))
    plain = Recipe.load(recipe_file(tmp_path, data=said.plain))
    monkeypatch.setattr(methods, "get", lambda name: lax)
    with pytest.raises(NotMeasured, match="evomerge measure embedded:sea"):
        Statistics(open_parents(plain)).require(plain)
    bare = replace(plain, body=replace(plain.body, data=None))
    Statistics(open_parents(bare)).require(bare)


def test_another_version_of_a_statistic_is_measured_anew(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, said = measure_model("embedded:chat", "fisher", data)
    monkeypatch.setattr(Fisher, "version", Fisher.version + 1)
    second, again = measure_model("embedded:chat", "fisher", data)
    assert first != second and said == again and first.read_bytes() == second.read_bytes()


def test_a_broken_model_is_named(model_folder: Path, tmp_path: Path, data: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    (file,) = broken.glob("*.safetensors")
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match=name):
        measure_model(str(broken), "fisher", data)


def test_data_of_a_recipe_is_checked_and_covered_by_its_digest(tmp_path: Path) -> None:
    said = {"file": "t.txt", "items": 2, "digest": "0f" * 32}
    recipe = Recipe.load(recipe_file(tmp_path, data=said))
    assert recipe.body.data and recipe.body.data.plain == said
    other = Recipe.load(recipe_file(tmp_path, data={**said, "digest": "1f" * 32}))
    assert recipe.digest != other.digest
    for wrong, message in [
        ({"file": "t.txt", "digest": "../x"}, "data.digest: expected 64 digits"),
        ({"digest": "0f" * 32}, "data.file: missing"),
        ({**said, "items": 0}, "data.items"),
        ({**said, "many": 1}, "data.many: unknown key"),
        ("t.txt", "data: expected a mapping"),
    ]:
        with pytest.raises(InputError, match=message):
            Recipe.load(recipe_file(tmp_path, data=wrong))


def test_a_space_that_requires_a_statistic_needs_texts(
    run_folder: Callable[..., Path], changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    del changes["calibration"]
    folder = run_folder(**changes)
    for command in ("check", "search"):
        assert main([command, str(folder)]) == 2
        assert "calibration: missing; fisher requires the stat" in capsys.readouterr().err
    assert not (folder / JOURNAL).exists()


def test_a_start_that_requires_a_statistic_needs_texts(
    run_folder: Callable[..., Path], changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    del changes["calibration"]
    changes["space"] = {"methods": ["linear"], "start": ["uniform", "fisher"]}
    folder = run_folder(**changes)
    for command in ("check", "search"):
        assert main([command, str(folder)]) == 2
        assert "calibration: missing; fisher requires the statistic" in capsys.readouterr().err
    assert not (folder / JOURNAL).exists()


def test_calibration_texts_are_no_items(
    run_folder: Callable[..., Path], changes: dict[str, Any], data: Path
) -> None:
    folder = run_folder(**changes)
    passage = json.loads((folder / "texts.jsonl").read_text().splitlines()[3])["text"]
    for row in ({"text": f" {passage.upper()}"}, {"text": "another", "source_id": "sum-1-1"}):
        data.write_text(json.dumps({"text": "fine"}) + "\n" + json.dumps(row) + "\n")
        with pytest.raises(InputError, match=r"calibration: text 2 of .* is item .* split\)"):
            search(folder)
    assert not (folder / JOURNAL).exists()


# -- searching -----------------------------------------------------------------------------------


def test_searched_resumed_exported_and_merged(
    run_folder: Callable[..., Path],
    changes: dict[str, Any],
    data: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run_folder(**changes)
    assert main(["check", str(folder)]) == 0
    assert "chat (to be collected), sea (to be collected)" in capsys.readouterr().out
    assert not cache.exists()
    search(folder)
    assert len(list(cache.iterdir())) == 2, "once per source"
    lines = (folder / JOURNAL).read_text().splitlines(keepends=True)
    batches = [e for line in lines if (e := json.loads(line))["event"] == "batch"]
    bodies = {c["id"]: c["body"] for batch in batches for c in batch["candidates"]}
    by_fisher = [i for i, b in bodies.items() if b["groups"][0]["method"] == "fisher"]
    digest = Texts.read(data, 2).digest
    assert 0 < len(by_fisher) < len(bodies)
    for number, body in bodies.items():
        assert ("data" in body) == (number in by_fisher)
    assert bodies[by_fisher[0]]["data"] == {"file": str(data), "items": 2, "digest": digest}

    # killed half way, and resumed on a machine that has collected nothing yet
    best = (folder / "best.yaml").read_text()
    whole = trajectory(folder)
    (folder / "best.yaml").unlink()
    ends = [n for n, line in enumerate(lines) if json.loads(line)["event"] == "batch"]
    (folder / JOURNAL).write_text("".join(lines[: ends[2] + 2]))
    kept = {file.name: (file / "statistic.safetensors").read_bytes() for file in cache.iterdir()}
    shutil.rmtree(cache)
    search(folder)
    assert trajectory(folder) == whole
    assert (folder / "best.yaml").read_text() == best
    assert kept == {f.name: (f / "statistic.safetensors").read_bytes() for f in cache.iterdir()}

    # exported and merged, in memory and on the disk
    out = tmp_path / "recipe.yaml"
    assert main(["export", str(folder), "--candidate", str(by_fisher[0]), "-o", str(out)]) == 0
    recipe = Recipe.load(out)
    assert recipe.body.data and recipe.body.data.digest == digest
    on_disk = load_file(merge(recipe, tmp_path / "merged") / "model.safetensors")
    from transformers import AutoModelForCausalLM

    live = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=recipe.dtype)
    for parameter in live.parameters():
        parameter.data.fill_(7.0)
    merge_into(recipe, live)
    for name, parameter in live.named_parameters():
        assert torch.equal(parameter.data, on_disk[name]), name

    # other texts are another run
    data.write_text(data.read_text().replace("budi", "siti"))
    with pytest.raises(InputError, match="these texts changed since the search was started"):
        search(folder)


def test_a_worker_without_the_cache_ends_the_search_and_says_how_to_go_on(
    run_folder: Callable[..., Path], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(**changes)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "collect", lambda *given, **options: None)  # as on another machine
        with pytest.raises(InputError, match="evomerge measure embedded:chat --statistic fisher"):
            search(folder)
    events = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    assert not any(event.get("error") for event in events), "no candidate failed by it"
    search(folder)
    assert (folder / "best.yaml").is_file()


def test_a_broken_file_of_the_cache_is_named(data: Path, tmp_path: Path) -> None:
    file, said = measure_model("embedded:chat", "fisher", data)
    other, _ = measure_model("embedded:sea", "fisher", data)
    recipe = Recipe.load(recipe_file(tmp_path, data=said.plain))
    save_file({"x": torch.zeros(2)}, other)
    with pytest.raises(InputError, match=r"not what fisher of sea is now: .*measure again"):
        merge(recipe, tmp_path / "out")
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        merge(recipe, tmp_path / "out")


# -- alignment -----------------------------------------------------------------------------------


def test_statistics_are_aligned_as_their_tensors_are(tmp_path: Path) -> None:
    parents = Parents({"a": Checkpoint.open(ModelRef("embedded:chat"))})
    name = "model.embed_tokens.weight"
    rows = torch.arange(parents.height, dtype=torch.float32)[:, None]
    assert torch.equal(parents.aligned("a", name, rows), rows)
    moved = [2, -1, *range(2, parents.height)]
    parents._rows["a"] = moved
    assert parents.aligned("a", name, rows)[:3, 0].tolist() == [2, 0, 2]
    assert torch.equal(parents.aligned("a", "model.norm.weight", rows), rows)
    flat = torch.arange(parents.height, dtype=torch.float32)
    assert parents.aligned("a", name, flat)[:3].tolist() == [2, 0, 2], "a number for each row"


def test_a_statistic_gives_what_it_declares(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    model, texts = Checkpoint.open(ModelRef("embedded:chat")), Texts.read(data)
    monkeypatch.setattr(Fisher, "shape", lambda self, name, shape: (3, *shape))
    with pytest.raises(
        InputError, match=r"fisher of embedded:chat: shape \[.*expected shape \[3, "
    ):
        measure(model, "fisher", texts)
