"""However a search is stopped and resumed, it leaves what an undisturbed one leaves.

Drivers are real processes that run the command line. (Killed Ray actors: ``test_workers.py``.)
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from evomerge import merge
from evomerge.cache import cache_folder
from evomerge.checkpoint import ModelRef
from evomerge.cli import main
from evomerge.commands.search import search
from evomerge.errors import InputError
from evomerge.recipe import Body, Recipe, group
from evomerge.record.events import JOURNAL, RESPONSES
from evomerge.record.record import Record
from evomerge.testing.drivers import PATIENCE, Drivers, await_size
from evomerge.testing.trajectory import Trajectory, trajectory

RunFolder = Callable[..., Path]


@dataclass(frozen=True)
class Undisturbed:
    """What a search leaves that nothing disturbs."""

    journal: bytes
    responses: bytes
    trajectory: Trajectory

    def cut(self, folder: Path, size: int) -> Path:
        """Put into ``folder`` what a search leaves that is killed when its journal has ``size`` bytes."""
        (folder / JOURNAL).write_bytes(self.journal[:size])
        (folder / RESPONSES).write_bytes(self.responses)
        return folder


def left_in(folder: Path) -> Undisturbed:
    return Undisturbed(
        (folder / JOURNAL).read_bytes(), (folder / RESPONSES).read_bytes(), trajectory(folder)
    )


_kept: dict[str, Undisturbed] = {}


@pytest.fixture
def undisturbed(run_folder: RunFolder, small: dict[str, Any]) -> Undisturbed:
    """Made once."""
    if not _kept:
        folder = run_folder("undisturbed", **small)
        search(folder)
        _kept["run"] = left_in(folder)
    return _kept["run"]


def kill_and_resume(
    drivers: Drivers,
    folder: Path,
    sizes: Sequence[int],
    delays: Sequence[float],
    *place: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run the search in ``folder``, killed when its journal passes each size, after a delay."""
    for size, delay in zip(sizes, delays, strict=True):
        pid = drivers.start("search", str(folder), "--quiet", *place, environment=environment)
        await_size(folder / JOURNAL, size)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        assert drivers.status() == -signal.SIGKILL, drivers.output.read_text()
    drivers.start("resume", str(folder), "--quiet", *place, environment=environment)
    assert drivers.status() == 0, drivers.output.read_text()


def moments(kills: int, journal: bytes, key: str) -> tuple[list[int], list[float]]:
    """Sizes of the journal at which to kill, all before its end, and seconds to wait then."""
    draw = random.Random(key)
    sizes = sorted(draw.randrange(1, int(0.85 * len(journal))) for _ in range(kills))
    return sizes, [draw.uniform(0, 0.1) for _ in range(kills)]


@pytest.mark.slow
def test_a_driver_killed_five_times(
    run_folder: RunFolder, small: dict[str, Any], undisturbed: Undisturbed, drivers: Drivers
) -> None:
    folder = run_folder("killed", **small)
    kill_and_resume(drivers, folder, *moments(5, undisturbed.journal, "off"), "--ray", "off")
    assert trajectory(folder) == undisturbed.trajectory
    assert (folder / RESPONSES).read_bytes() == undisturbed.responses


SOAKED = "EVOMERGE_TEST_KILLS" in os.environ  # by ``make soak``, which tries more of everything
KILLS_OF_RAY = int(os.environ.get("EVOMERGE_TEST_KILLS", "2"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4] if SOAKED else [1])
def test_a_driver_of_ray_workers_killed(
    workers: int,
    run_folder: RunFolder,
    small: dict[str, Any],
    undisturbed: Undisturbed,
    drivers: Drivers,
) -> None:
    folder = run_folder("killed", **small)
    place = ("--ray", "local", "--workers", str(workers), "--num-cpus", "0.5")
    sizes, delays = moments(KILLS_OF_RAY, undisturbed.journal, f"ray {workers}")
    kill_and_resume(drivers, folder, sizes, delays, *place)
    assert trajectory(folder) == undisturbed.trajectory


def killed(
    job: Mapping[str, Any],
    key: str,
    run_folder: RunFolder,
    drivers: Drivers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Path, Path]:
    """The folders of a search of ``job``, and of one that is killed at once and once more.

    Each has a cache of its own, so what is made before the search is made in both. (But for compiled
    passes, which take long.)
    """
    passes = cache_folder("passes")
    for name in ("cache of whole", "cache of killed"):
        (tmp_path / name / "evomerge").mkdir(parents=True)
        (tmp_path / name / "evomerge" / "passes").symlink_to(passes)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of whole"))
    whole, folder = run_folder("whole", **job), run_folder("killed", **job)
    search(whole)
    sizes, delays = moments(1, (whole / JOURNAL).read_bytes(), key)
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache of killed")}
    sizes, delays = [1, *sizes], [0.0, *delays]
    kill_and_resume(drivers, folder, sizes, delays, "--ray", "off", environment=environment)
    assert trajectory(folder) == trajectory(whole)
    assert (folder / RESPONSES).read_bytes() == (whole / RESPONSES).read_bytes()
    assert (folder / "best.yaml").read_bytes() == (whole / "best.yaml").read_bytes()
    return whole, folder


def weights(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))


@pytest.mark.slow
@pytest.mark.parametrize("lag", [1, 3] if SOAKED else [3])
def test_a_run_that_takes_slopes_killed(
    lag: int,
    run_folder: RunFolder,
    small: dict[str, Any],
    drivers: Drivers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A descent, a comparison, evolution: cut anywhere, they end alike, on Ray, too."""
    job = {
        **small,
        "space": {"methods": ["task_arithmetic"], "groups": "tensor", "start": ["uniform"]},
        "optimizer": {"name": "auto", "steps": 4, "population": 3, "evidence": 3},
        "budget": {"evaluations": 24},
        "lag": lag,
    }
    whole, _ = killed(job, f"slopes {lag}", run_folder, drivers, tmp_path, monkeypatch)
    journal = (whole / JOURNAL).read_bytes()
    events = [json.loads(line) for line in journal.splitlines()]
    slopes = [e for e in events if e["event"] == "evaluation" and e["slopes"]]
    assert len(slopes) >= 4 and all(len(e["slopes"]["sums"]) == 76 for e in slopes)
    assert any(e["event"] == "decision" for e in events)
    origins = {c["origin"] for e in events if e["event"] == "batch" for c in e["candidates"]}
    assert {"auto, descend tensor", "auto, evolve tensor"} <= origins
    undisturbed = left_in(whole)
    line_ends = [at + 1 for at, byte in enumerate(journal) if byte == ord("\n")]
    for cut in line_ends[5:-1:9]:
        folder = undisturbed.cut(run_folder(f"cut at {cut}", **job), cut)
        search(folder)
        assert trajectory(folder) == undisturbed.trajectory, cut
    folder = undisturbed.cut(run_folder("workers", **job), line_ends[len(line_ends) // 3])
    place = ("--ray", "local", "--workers", "2", "--num-cpus", "0.5")
    drivers.start("resume", str(folder), "--quiet", *place)
    assert drivers.status() == 0, drivers.output.read_text()
    assert trajectory(folder) == undisturbed.trajectory


@pytest.mark.slow
def test_a_run_with_a_recipe_for_a_parent_killed(
    family: dict[str, Path],
    run_folder: RunFolder,
    small: dict[str, Any],
    drivers: Drivers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And exported: what it found merges to the bytes of two steps."""
    inner = tmp_path / "inner.yaml"
    refs = {name: ModelRef(str(family[name])) for name in ("chat", "sea")}
    body = Body((group("ties", ("chat", "sea"), {"density": 0.5, "weight": 0.7}),))
    Recipe(ModelRef(str(family["base"])), refs, body, tokenizer="chat").save(inner)
    models = {
        "base": str(family["base"]),
        "sources": {"both": str(inner), "sea": str(family["sea"])},
        "tokenizer": "both",
    }
    job = {**small, "models": models}
    _, folder = killed(job, "recipe", run_folder, drivers, tmp_path, monkeypatch)
    out = tmp_path / "out.yaml"
    assert main(["export", str(folder), "-o", str(out)]) == 0
    best = Recipe.load(out)
    assert best.provenance["digest"] == best.digest
    assert best.models["both"].portable == str(inner)
    step = merge(Recipe.load(inner), tmp_path / "step")
    twice = replace(best, models={**best.models, "both": ModelRef(str(step))})
    assert weights(merge(best, tmp_path / "at once")) == weights(merge(twice, tmp_path / "twice"))
    inner.write_text(inner.read_text().replace("chat: 0.7", "chat: 0.6"))
    assert main(["resume", str(folder), "--ray", "off"]) == 2
    told = capsys.readouterr().err
    assert f"both: {inner}: this recipe, or what it names, changed since the search" in told
    assert Recipe.load(out).digest != best.digest


@pytest.mark.slow
def test_a_run_that_takes_statistics_killed(
    run_folder: RunFolder,
    by_fisher: dict[str, Any],
    drivers: Drivers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while they are collected: what is in the cache is whole, and has the same bytes."""
    data = tmp_path / "calibration.jsonl"
    texts = ["the quick brown fox", "nama saya budi", "what is this?"] * 4
    data.write_text("".join(json.dumps({"text": f"{n} {t}"}) + "\n" for n, t in enumerate(texts)))
    job = {**by_fisher, "calibration": {"file": str(data)}}
    killed(job, "fisher", run_folder, drivers, tmp_path, monkeypatch)
    caches = [
        tmp_path / name / "evomerge" / "statistics"
        for name in ("cache of whole", "cache of killed")
    ]
    kept, again = ({f.name: weights(f) for f in cache.iterdir()} for cache in caches)
    assert len(kept) == 2 and kept == again


@pytest.mark.slow
def test_a_journal_cut_at_any_byte(
    run_folder: RunFolder, small: dict[str, Any], undisturbed: Undisturbed
) -> None:
    journal = undisturbed.journal
    draw = random.Random("cut")
    line_ends = [at + 1 for at, byte in enumerate(journal) if byte == ord("\n")]
    judged = [
        end for end, line in zip(line_ends, journal.splitlines(), strict=True) if b'"round"' in line
    ]
    assert len(judged) == 3, "the shortlist is raced"
    cuts = [draw.randrange(len(journal)) for _ in range(4)] + draw.sample(line_ends, 2)
    for cut in [*cuts, judged[0], judged[1] - 1]:
        folder = undisturbed.cut(run_folder(f"cut at {cut}", **small), cut)
        search(folder)
        assert trajectory(folder) == undisturbed.trajectory, cut
        assert (folder / RESPONSES).read_bytes() == undisturbed.responses


@pytest.mark.slow
def test_no_item_is_asked_of_a_recipe_twice(run_folder: RunFolder) -> None:
    """Four recipes in all, asked again and again on samples that change."""
    few: dict[str, Any] = {
        "space": {
            "methods": ["task_arithmetic"],
            "parameters": {"weight": {"choices": [0.5, 1.0]}, "lambda": 1.0},
            "start": ["uniform"],
        },
        "fitness": {
            "objectives": {"text": {"text": "texts.jsonl"}},
            "items": {"probe": 2, "search": 8, "select": 4, "report": 4, "candidate": 4},
        },
        "optimizer": {"name": "random", "population": 5},
        "budget": {"evaluations": 24},
        "lag": 3,
    }
    folder = run_folder("whole", **few)
    search(folder)
    whole = left_in(folder)
    record = Record(folder)
    asked: dict[str, list[str]] = {}
    for event in whole.trajectory[1]:
        recipe = record.history.candidates[event["candidate"]].recipe.digest
        for responses in (event["block"] or {}).values():
            asked.setdefault(recipe, []).extend(responses["items"])
            assert len(responses["items"]) == event["items"]
    assert len(asked) == 3 + 1 + 4, "base, parents, the soup and four merges"
    assert all(len(set(items)) == len(items) for items in asked.values())
    searched = [e for e in whole.trajectory[1] if 2 <= e["batch"] < len(record.history.batches) - 2]
    assert len(searched) == 20 and sum(e["items"] == 0 for e in searched) > 5
    assert all(event["reused"] for event in searched if event["items"] == 0)
    line_ends = [at + 1 for at, byte in enumerate(whole.journal) if byte == ord("\n")]
    for cut in line_ends[6:-1:8]:
        folder = whole.cut(run_folder(f"cut at {cut}", **few), cut)
        search(folder)
        assert trajectory(folder) == whole.trajectory, cut


def test_what_is_done_stays_done(
    run_folder: RunFolder, small: dict[str, Any], undisturbed: Undisturbed
) -> None:
    folder = undisturbed.cut(run_folder("done", **small), len(undisturbed.journal))

    def no_pool(spec: object) -> Any:
        raise AssertionError("a finished search starts no worker")

    result = search(folder, no_pool)
    assert trajectory(folder) == undisturbed.trajectory
    assert result.winner is not None and result.winner.to_yaml() == undisturbed.trajectory[2]


def test_a_damaged_store_is_named_with_the_line_that_knows_it(
    run_folder: RunFolder, small: dict[str, Any], undisturbed: Undisturbed
) -> None:
    folder = undisturbed.cut(run_folder("damaged", **small), len(undisturbed.journal))
    content = bytearray(undisturbed.responses)
    content[-1] ^= 1
    (folder / RESPONSES).write_bytes(content)
    lines = undisturbed.journal.splitlines()
    last = max(n for n, line in enumerate(lines, start=1) if b'"block":[' in line)
    with pytest.raises(InputError, match=f"delete line {last} "):
        search(folder)
    undisturbed.cut(folder, sum(len(line) + 1 for line in lines[: last - 1]))
    search(folder)
    assert trajectory(folder) == undisturbed.trajectory


@pytest.mark.slow
def test_signals_stop_cleanly_and_say_how_to_resume(
    run_folder: RunFolder,
    small: dict[str, Any],
    short_tmp: Path,
    processes_marked: Callable[[str], list[int]],
) -> None:
    """Ctrl-C reaches the whole process group, SIGTERM the driver alone."""
    ways = {"ctrl-c": (os.killpg, signal.SIGINT), "terminated": (os.kill, signal.SIGTERM)}
    long = {**small, "budget": {"evaluations": 5000}}
    started = {}
    try:
        for name in ways:
            (short_tmp / name).mkdir()
            mark = uuid.uuid4().hex
            folder = run_folder(name, **long)
            command = [sys.executable, "-m", "evomerge", "search", str(folder), "--workers", "1"]
            started[name] = folder, mark, subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=os.environ | {"MARK": mark, "TMPDIR": str(short_tmp / name)},
            )  # fmt: skip
        for name, (send, number) in ways.items():
            folder, mark, process = started[name]
            await_size(folder / JOURNAL, 15_000)
            assert len(processes_marked(mark)) > 3, "Ray runs"
            send(process.pid, number)
            output, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == 130, errors
            assert output == ""
            assert "Traceback" not in errors
            assert f"evomerge search {folder}" in errors or f"evomerge resume {folder}" in errors
            deadline = time.monotonic() + PATIENCE
            while processes_marked(mark):
                assert time.monotonic() < deadline, "processes are left"
                time.sleep(0.1)
    finally:
        for _, _, process in started.values():
            process.kill()
