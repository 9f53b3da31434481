"""Models of the hub: refused by their headers before a weight is fetched, then merged as folders are."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants
from loopback import Hub

from evomerge import config, merge
from evomerge.checkpoint import Checkpoint, ModelRef, hub
from evomerge.cli import main
from evomerge.commands.search import search
from evomerge.errors import CheckpointError, RunError
from evomerge.merging import open_model
from evomerge.pool import Pool, WorkerSpec
from evomerge.pool.serial import SerialPool
from evomerge.recipe import Recipe
from evomerge.record.record import head_of
from evomerge.testing.models import tiny_family
from evomerge.testing.stopping import Stopper
from evomerge.testing.trajectory import trajectory

Main = Callable[..., tuple[int, str]]
NAMES = ("base", "chat", "sea")


@pytest.fixture
def server(
    family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """A hub with ``tiny/base``, ``tiny/chat`` and ``tiny/sea``, which is asked, and empty caches."""
    with Hub() as served:
        for name, folder in family.items():
            served.push(f"tiny/{name}", folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        point_to(served.url, monkeypatch)
        yield served


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does, which is read but once."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setenv("HF_ENDPOINT", url)  # for the processes of workers
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Main:
    """Runs a command as a process of its own would; its exit status, and what it wrote."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        hub._SNAPSHOTS.clear()
        status = main([str(each) for each in arguments])
        written = capsys.readouterr()
        return status, written.out + written.err

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Makes a recipe of models."""

    def recipe(name: str = "recipe.yaml", **models: str) -> Path:
        known = {"base": "tiny/base", "chat": "tiny/chat", "sea": "tiny/sea", **models}
        content = {
            "base": known.pop("base"),
            "models": known,
            "tokenizer": "chat",
            "dtype": "float32",
            "groups": [{"method": "task_arithmetic"}],
        }
        (tmp_path / name).write_text(config.dump(content))
        return tmp_path / name

    return recipe


def headers_of(folder: Path) -> int:
    """Bytes of the headers of a folder's weights."""
    return sum(
        8 + struct.unpack("<Q", file.read_bytes()[:8])[0] for file in folder.glob("*.safetensors")
    )


def unlike(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    """A copy with another config."""
    copy = tmp_path / "unlike"
    shutil.copytree(folder, copy)
    said = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**said, **changes}))
    return copy


# -- before the download -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "merge"])
def test_an_incompatible_pair_is_refused_before_a_weight_is_fetched(
    command: str,
    server: Hub,
    family: dict[str, Path],
    recipe: Callable[..., Path],
    tmp_path: Path,
    run: Main,
) -> None:
    server.push("tiny/other", tiny_family(tmp_path, ("other",), hidden_size=16)["other"])
    more = ("-o", tmp_path / "out") if command == "merge" else ()
    status, written = run(command, recipe(sea="tiny/other"), *more)
    assert status == 2
    assert "sea (tiny/other) and base (tiny/base): shapes differ" in written
    for name, folder in {"base": family["base"], "other": tmp_path / "other"}.items():
        assert server.bytes_of(f"tiny/{name}") == headers_of(folder)
    assert not (tmp_path / "out").exists()


def test_check_says_what_would_be_downloaded_and_downloads_none_of_it(
    server: Hub, family: dict[str, Path], recipe: Callable[..., Path], run: Main
) -> None:
    status, written = run("check", recipe())
    size = (family["base"] / "model.safetensors").stat().st_size
    assert status == 0
    assert f"tiny/base: {size / 1024:.0f} kB to download" in written
    assert "to download in all" in written
    assert "not checked, since only the weights tell, of base (tiny/base)" in written
    assert all(server.bytes_of(f"tiny/{name}") == headers_of(family[name]) for name in NAMES)
    before = server.served.copy()
    assert run("check", recipe())[0] == 0
    assert server.served == before  # headers are kept


def test_a_merge_of_the_hub_is_that_of_the_folders(
    server: Hub, family: dict[str, Path], recipe: Callable[..., Path], tmp_path: Path, run: Main
) -> None:
    status, written = run("merge", recipe(), "-o", tmp_path / "hub-merge")
    assert status == 0, written
    assert "to download in all" in written
    local = recipe("local.yaml", **{name: str(family[name]) for name in NAMES})
    assert run("merge", local, "-o", tmp_path / "local-merge")[0] == 0
    one, other = (tmp_path / f"{each}-merge" for each in ("hub", "local"))
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    before = server.served.copy()
    status, written = run("check", recipe())
    assert (status, server.served) == (0, before)
    assert "download" not in written


def test_shards_are_read_by_their_headers(
    server: Hub, family: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "shards"
    model = AutoModelForCausalLM.from_pretrained(family["sea"])
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    server.push("tiny/shards", folder)
    ref = ModelRef("tiny/shards")
    outline, whole = Checkpoint.outline(ref), Checkpoint.open(ModelRef(str(folder)))
    assert server.bytes_of("tiny/shards") == headers_of(folder)
    assert outline.names == whole.names
    assert [outline.entry(n).shape for n in whole.names] == [
        whole.entry(n).shape for n in whole.names
    ]
    assert outline.missing[0].lacking.keys() == {file.name for file in folder.glob("*.safetensors")}
    first = min(folder.glob("*.safetensors"))
    shutil.copy(first, outline.folder)
    told = hub.plan(Checkpoint.outline(ref).missing)[0]
    assert f"; {first.stat().st_size / 1024:.0f} kB of" in told
    opened = Checkpoint.open(ref)
    assert not opened.missing
    assert all(opened.tensor(name).equal(whole.tensor(name)) for name in whole.names)


def test_a_recipe_in_the_place_of_a_model_is_compared_before_it_is_merged(
    server: Hub, family: dict[str, Path], recipe: Callable[..., Path], tmp_path: Path, run: Main
) -> None:
    recipe("inner.yaml")
    status, written = run("check", recipe("outer.yaml", sea=str(tmp_path / "inner.yaml")))
    assert status == 0, written
    assert all(server.bytes_of(f"tiny/{name}") == headers_of(family[name]) for name in NAMES)
    assert run("merge", tmp_path / "outer.yaml", "-o", tmp_path / "out")[0] == 0


def test_an_adapter_that_does_not_fit_is_refused_before_its_base_is_fetched(
    server: Hub, family: dict[str, Path], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    other = tiny_family(tmp_path, ("other",), hidden_size=16)["other"]
    for name, folder in {"fits": family["base"], "strange": other}.items():
        model = AutoModelForCausalLM.from_pretrained(folder)
        peft = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
        peft.save_pretrained(tmp_path / name)
        server.push(f"tiny/{name}", tmp_path / name)
    with pytest.raises(CheckpointError, match="the adapter belongs to another model"):
        open_model(ModelRef("tiny/base+tiny/strange"))
    assert server.bytes_of("tiny/base") == headers_of(family["base"])
    assert server.bytes_of("tiny/strange") == headers_of(tmp_path / "strange")
    model = open_model(ModelRef("tiny/base+tiny/fits"))
    local = open_model(ModelRef(f"{family['base']}+{tmp_path / 'fits'}"))
    assert all(model.tensor(name).equal(local.tensor(name)) for name in local.names)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pytorch_model.bin": b"x"}, r"no model.safetensors .*pytorch_model.bin, and only safetensors are read"),
        ({"model.safetensors": b"x" * 40}, r"tiny/wrong: model.safetensors on the hub: .*its header is longer"),
        ({"model.safetensors": b""}, "model.safetensors"),
    ],
)  # fmt: skip
def test_weights_that_are_not_read_are_told_from_afar(
    files: dict[str, bytes], message: str, server: Hub, family: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "wrong"
    folder.mkdir()
    shutil.copy(family["base"] / "config.json", folder)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    server.push("tiny/wrong", folder)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.outline(ModelRef("tiny/wrong"))


def test_a_file_that_is_cut_on_the_hub_is_told_from_afar(
    server: Hub, family: dict[str, Path], tmp_path: Path
) -> None:
    folder = unlike(family["base"], tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    server.push("tiny/cut", folder)
    with pytest.raises(
        CheckpointError, match=r"tiny/cut: .*bytes on the hub where its header promises"
    ):
        Checkpoint.outline(ModelRef("tiny/cut"))


# -- runs ----------------------------------------------------------------------------------------

HUB_MODELS = {
    "base": "tiny/base",
    "sources": {"chat": "tiny/chat", "sea": "tiny/sea"},
    "tokenizer": "chat",
}


def test_a_run_is_checked_whole_without_a_weight_and_searched_with_them(
    server: Hub,
    family: dict[str, Path],
    run_folder: Callable[..., Path],
    small: dict[str, Any],
    run: Main,
) -> None:
    folder = run_folder("far", **{**small, "models": HUB_MODELS})
    status, written = run("check", folder)
    assert status == 0, written
    assert "to download in all" in written
    assert all(server.bytes_of(f"tiny/{name}") == headers_of(family[name]) for name in NAMES)
    status, written = run("search", folder, "--workers", "1", "--quiet")
    assert status == 0, written
    assert sorted(found.name for found in Path(constants.HF_HUB_CACHE).glob("models--*")) == [
        f"models--tiny--{name}" for name in NAMES
    ]
    assert config.read(folder / "best.yaml").plain["models"] == HUB_MODELS["sources"]


def test_a_first_run_of_the_hub_is_written_without_a_weight(
    server: Hub, family: dict[str, Path], tmp_path: Path, run: Main
) -> None:
    (tmp_path / "law.txt").write_text(
        "\n\n".join(f"passage {n}: {'lorem ipsum ' * (1 + n % 3)}" for n in range(40)), "utf-8"
    )
    folder = tmp_path / "mine"
    models = ("--base", "tiny/base", "--source", "sea=tiny/sea")
    status, written = run("new", folder, *models, "--texts", f"law={tmp_path / 'law.txt'}")
    assert status == 0, written
    said = config.read(folder / "run.yaml").plain["models"]
    assert (said["base"], said["sources"]) == ("tiny/base", {"sea": "tiny/sea"})
    assert run("check", folder)[0] == 0
    assert all(server.bytes_of(f"tiny/{n}") == headers_of(family[n]) for n in ("base", "sea"))
    status, written = run("new", tmp_path / "other", *models[:3], "sea=tiny/see")
    assert status == 2 and "tiny/see" in written
    assert not (tmp_path / "other").exists()


def test_a_task_that_is_unknown_is_told_before_the_download(
    server: Hub, family: dict[str, Path], run_folder: Callable[..., Path], run: Main
) -> None:
    fitness = {"objectives": {"sums": {"task": "no_such_task"}}}
    status, written = run("search", run_folder(models=HUB_MODELS, fitness=fitness), "--quiet")
    assert status == 2
    assert "no_such_task" in written
    assert all(server.bytes_of(f"tiny/{name}") == headers_of(family[name]) for name in NAMES)


# -- revisions -----------------------------------------------------------------------------------


def test_a_revision_is_one_commit_in_both_steps(
    server: Hub, family: dict[str, Path], tmp_path: Path
) -> None:
    commit = server.push("tiny/two", family["chat"], "v1")
    server.push("tiny/two", family["sea"], "main")
    old, new = (open_model(ModelRef(f"tiny/two{at}")) for at in ("@v1", ""))
    for model, name in ((old, "chat"), (new, "sea")):
        weights = (model.folder / "model.safetensors").read_bytes()
        assert weights == (family[name] / "model.safetensors").read_bytes()
    assert ModelRef("tiny/two@v1").pinned == f"tiny/two@{commit}"

    ref = ModelRef("tiny/base")
    outline = Checkpoint.outline(ref)
    server.push("tiny/base", family["sea"])  # main moves on meanwhile
    weights = (Checkpoint.open(ref).folder / "model.safetensors").read_bytes()
    assert Checkpoint.open(ref).folder == outline.folder
    assert weights == (family["base"] / "model.safetensors").read_bytes()


def test_a_run_goes_on_with_the_commits_that_it_was_started_with(
    server: Hub,
    family: dict[str, Path],
    run_folder: Callable[..., Path],
    small: dict[str, Any],
    run: Main,
    tmp_path: Path,
) -> None:
    """Branches move on while it is stopped, and a machine without a cache resumes it."""
    whole = run_folder("whole", **{**small, "models": HUB_MODELS})
    assert run("search", whole, "--quiet", "--ray", "off")[0] == 0
    folder = run_folder("stopped", **{**small, "models": HUB_MODELS})
    hub._SNAPSHOTS.clear()
    with pytest.raises(KeyboardInterrupt):
        search(folder, listener=Stopper(7))
    started = head_of(folder).models
    server.push("tiny/chat", family["sea"])
    server.push("tiny/base", unlike(family["base"], tmp_path, rope_theta=5.0))
    shutil.rmtree(constants.HF_HUB_CACHE)
    status, written = run("resume", folder, "--quiet", "--ray", "off")
    assert status == 0, written
    assert trajectory(folder)[1] == trajectory(whole)[1]
    best = config.read(folder / "best.yaml").plain
    assert best["models"] == HUB_MODELS["sources"]
    commits = {f"tiny/{name}": started[name].pinned for name in NAMES}
    assert best["provenance"]["commits"] == commits
    assert all(commit.startswith(f"{name}@") for name, commit in commits.items())
    # and so does whoever merges what was found
    assert run("merge", folder / "best.yaml", "-o", tmp_path / "out")[0] == 0
    near = {name: ModelRef(str(family[name])) for name in ("chat", "sea")}
    recipe = replace(Recipe.load(folder / "best.yaml"), base=ModelRef(str(family["base"])))
    merge(replace(recipe, models=near, provenance={}), tmp_path / "near")
    provenance = {"commits": {"tiny/chat": started["sea"].pinned}}
    assert replace(recipe, provenance=provenance).ref("chat").text == "tiny/chat", "of another"
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("out", "near")]
    assert weights[0] == weights[1]


def test_a_run_goes_on_with_the_data_that_it_was_started_with(
    server: Hub,
    run_folder: Callable[..., Path],
    small: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A data set of the hub, whose branch moves on, and a worker and a session that have no cache."""
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)

    def far(name: str) -> Path:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / f"data of {name}")
        folder = run_folder(name, **small)
        task = folder / "sums.yaml"
        local = (
            f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'sums.jsonl'}}}}}"
        )
        assert local in task.read_text()
        task.write_text(task.read_text().replace(local, "dataset_path: tiny/sums"))
        (data := tmp_path / f"first {name}").mkdir()
        (folder / "sums.jsonl").rename(data / "test.jsonl")
        server.push("tiny/sums", data)
        return folder

    search(whole := far("whole"))
    folder = far("stopped")
    first = server.commit("tiny/sums", "main")

    def moved(spec: WorkerSpec) -> Pool:
        """Workers are built after the branch has moved on."""
        (later := tmp_path / "later").mkdir(exist_ok=True)
        rows = (tmp_path / "first stopped" / "test.jsonl").read_text()
        (later / "test.jsonl").write_text(rows.replace("+", "-"))
        server.push("tiny/sums", later)
        shutil.rmtree(tmp_path / "data of stopped")
        return SerialPool(spec)

    with pytest.raises(KeyboardInterrupt):
        search(folder, moved, listener=Stopper(7))
    assert first is not None and head_of(folder).scorers["sums"].commits == {"tiny/sums": first[0]}
    search(folder, moved)
    assert trajectory(folder)[1] == trajectory(whole)[1]


# -- no connection -------------------------------------------------------------------------------


def test_offline_takes_what_is_cached_and_refuses_what_is_not(
    server: Hub,
    recipe: Callable[..., Path],
    tmp_path: Path,
    run: Main,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, written = run("check", recipe())
    assert status == 2
    assert "tiny/base: no folder of that name here, and HF_HUB_OFFLINE forbids" in written
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert run("check", recipe())[0] == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = server.asked
    assert run("check", recipe())[0] == 0
    status, written = run("merge", recipe(), "-o", tmp_path / "out")
    assert status == 2
    for name in NAMES:
        assert f"tiny/{name}: the hub's cache lacks model.safetensors" in written
    assert "HF_HUB_OFFLINE forbids" in written
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert run("merge", recipe(), "-o", tmp_path / "out")[0] == 0
    asked = server.asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run("merge", recipe(), "-o", tmp_path / "again")[0] == 0
    assert server.asked == asked


def test_a_hub_that_does_not_answer_is_one_message(
    server: Hub, recipe: Callable[..., Path], run: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to("http://127.0.0.1:9", monkeypatch)
    status, written = run("check", recipe())
    assert status == 2
    assert written.count("\n") == 1
    assert "tiny/base: no folder of that name here, and the hub did not give it" in written


def test_a_download_that_breaks_off_keeps_the_files_that_are_whole(
    server: Hub, family: dict[str, Path], recipe: Callable[..., Path], tmp_path: Path, run: Main
) -> None:
    file = "tiny/chat/model.safetensors"
    server.breaks[file] = headers_of(family["chat"]) + 5000
    status, written = run("merge", recipe(), "-o", tmp_path / "out")
    assert status == 1
    assert "tiny/chat: the download broke off" in written
    assert not (tmp_path / "out").exists()
    server.breaks.clear()
    before = server.served["tiny/base/model.safetensors"]
    status, written = run("merge", recipe(), "-o", tmp_path / "out")
    assert (status, server.served["tiny/base/model.safetensors"]) == (0, before)
    assert "tiny/base" not in written


@pytest.mark.parametrize("silent", [1, 9])
def test_a_hub_that_does_not_answer_in_time_is_asked_again(
    server: Hub, monkeypatch: pytest.MonkeyPatch, silent: int
) -> None:
    """The client takes what its cache has then, and says nothing."""
    real, left = huggingface_hub.snapshot_download, iter(range(silent))

    def download(*given: Any, **named: Any) -> str:
        if next(left, None) is None:
            return real(*given, **named)
        return ""

    ref = ModelRef("tiny/base")
    missing = Checkpoint.outline(ref).missing
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    if silent == 1:
        assert hub.fetch(missing)
        assert not Checkpoint.outline(ref).missing
    else:
        with pytest.raises(
            RunError, match=r"tiny/base: the download broke off: the hub did not give"
        ):
            hub.fetch(missing)


def test_several_processes_of_a_machine_fetch_a_model_once(
    server: Hub, family: dict[str, Path], recipe: Callable[..., Path], tmp_path: Path
) -> None:
    plan = recipe()
    working = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "evomerge",
                "merge",
                str(plan),
                "-o",
                str(tmp_path / f"out {n}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(3)
    ]
    for each in working:
        said, _ = each.communicate()
        assert each.returncode == 0, said
    for name in NAMES:
        size = sum(file.stat().st_size for file in family[name].glob("*.safetensors"))
        served = server.bytes_of(f"tiny/{name}")
        assert size <= served <= size + len(working) * headers_of(family[name]), name


def test_a_disk_without_room_is_told_before_the_download(
    server: Hub, family: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_free", lambda: 1000)
    with pytest.raises(CheckpointError, match=r"are to be downloaded there \(tiny/base\).* free"):
        open_model(ModelRef("tiny/base"))
    assert server.bytes_of("tiny/base") == headers_of(family["base"])


def test_a_name_that_the_hub_does_not_know_is_refused(server: Hub) -> None:
    with pytest.raises(CheckpointError, match="tiny/nobody: no folder of that name here"):
        Checkpoint.outline(ModelRef("tiny/nobody"))
