"""Trackers: what a search tells them, read back by each one's own reader; `make trackers` has the packages."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp(prefix="evomerge-trackio-"))

from evomerge.cli import main
from evomerge.commands.search import search
from evomerge.errors import InputError
from evomerge.pool.ray import RayPool
from evomerge.record.events import JOURNAL, EvaluationLine, read_lines
from evomerge.record.record import Record
from evomerge.run.loop import Listeners
from evomerge.run.spec import load_run
from evomerge.testing.pools import await_that
from evomerge.testing.stopping import Stopper
from evomerge.trackers import Tracker, make
from evomerge.trackers.tracking import Tracking

RunFolder = Callable[..., Path]
PACKAGES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}


class Lines(Tracker):
    """Steps as lines of JSON in a file."""

    def start(self, name: str, id: str, config: Mapping[str, Any], steps: int) -> int:
        self._say({"start": id, "steps": steps, "config": config})
        return steps

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._say({"step": step, **values})

    def table(self, heading: Sequence[str], rows: Sequence[Sequence[str]], text: str) -> None:
        self._say({"table": text, "models": len(rows)})

    def finish(self, done: bool) -> None:
        self._say({"finish": done})

    def _say(self, content: Mapping[str, Any]) -> None:
        with (self.folder / "lines.jsonl").open("a") as file:
            file.write(json.dumps(content) + "\n")


class Breaking(Lines):
    """Fails at its third step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step == 3:
            raise OSError("the tracker's disk is full\x1b[2J")


def tracked(folder: Path, trackers: Mapping[str, Callable[[], Tracker]]) -> list[str]:
    """A search that is stopped after 7 evaluations, and resumed to its end; what was noted."""
    notes: list[str] = []

    def session(*more: Any) -> None:
        tracking = Tracking({name: made() for name, made in trackers.items()}, notes.append)
        try:
            search(folder, listener=Listeners(tracking, *more))
        finally:
            tracking.close()

    with pytest.raises(KeyboardInterrupt):
        session(Stopper(7))
    session()
    return notes


def evaluations(folder: Path) -> int:
    return sum(isinstance(line, EvaluationLine) for line in read_lines(folder / JOURNAL))


def test_each_step_is_told_once_over_a_resume_and_a_failing_tracker_is_dropped(
    run_folder: RunFolder, small: dict[str, Any]
) -> None:
    folder = run_folder("tracked", **small)
    other = folder.parent / "other"
    other.mkdir()
    notes = tracked(
        folder, {"lines": lambda: Lines(folder, {}), "bad": lambda: Breaking(other, {})}
    )
    told = [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]
    steps = [row for row in told if "step" in row]
    count = evaluations(folder)
    assert [row["step"] for row in steps] == list(range(1, count + 1))
    starts = [row for row in told if "start" in row]
    assert [row["steps"] for row in starts] == [0, 7] and len({row["start"] for row in starts}) == 1
    assert starts[0]["config"]["budget"]["evaluations"] == small["budget"]["evaluations"]
    assert [row["finish"] for row in told if "finish" in row] == [False, True]
    table = Record(folder).table
    assert table is not None
    assert [row["models"] for row in told if "table" in row] == [len(table.rows)]
    record = Record(folder)
    assert steps[-1]["total/items"] == sum(row["items"] for row in steps)
    best = record.history.best
    assert best is not None and steps[-1]["best"] == pytest.approx(best.score.value)
    assert {"score", "objective/sums", "objective/text", "seconds"} <= steps[8].keys()
    assert any("generation/best" in row for row in steps)
    # once in each session, and text that commands a terminal is written out
    assert len(notes) == 2 and "bad failed" in notes[0] and "\\x1b" in notes[0]


def test_trackers_are_named_in_run_yaml_and_are_no_part_of_the_job(
    run_folder: RunFolder, small: dict[str, Any]
) -> None:
    named = [{"name": "wandb", "project": "x", "mode": "offline"}, "tensorboard"]
    plain, shown = run_folder("plain", **small), run_folder("shown", **small, trackers=named)
    spec = load_run(shown)
    assert spec.trackers == {"wandb": {"project": "x", "mode": "offline"}, "tensorboard": {}}
    assert "trackers" not in spec.content and "trackers" not in load_run(plain).content


@pytest.mark.parametrize(
    ("trackers", "says"),
    [
        (["tensorbord"], "trackers[0]: tracker: unknown name 'tensorbord' (did you mean"),
        ("tensorboard", "trackers: expected a list of trackers"),
        ([{"project": "x"}], "trackers[0]: expected a list of trackers"),
        (["mlflow", "mlflow"], "trackers[1]: mlflow is named twice"),
    ],
)
def test_wrong_trackers_are_refused_with_their_place(
    run_folder: RunFolder, small: dict[str, Any], trackers: Any, says: str
) -> None:
    folder = run_folder("wrong", **small, trackers=trackers)
    with pytest.raises(InputError) as raised:
        load_run(folder)
    assert says in str(raised.value) and "run.yaml:" in str(raised.value)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("nobody", "unknown name 'nobody'"),
        ("tensorboard:dri=x", "unknown option 'dri' (did you mean 'dir'?)"),
        ("tensorboard:dir", "expected NAME[:KEY=VALUE,...]"),
    ],
)
def test_wrong_flags_are_refused_before_anything_starts(
    run_folder: RunFolder, small: dict[str, Any], flag: str, says: str, capsys: Any
) -> None:
    folder = run_folder("flags", **small)
    assert main(["search", str(folder), "--ray", "off", "--track", flag]) == 2
    assert says in capsys.readouterr().err
    assert not (folder / JOURNAL).exists()


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_one_message(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGES[name]):
        pytest.skip(f"{name} is installed here")
    with pytest.raises(InputError, match=rf"pip install 'evomerge\[{name}\]'"):
        make(name, tmp_path, {})


def test_metrics_of_ray_without_ray_are_left_out_with_the_reason(
    run_folder: RunFolder, small: dict[str, Any]
) -> None:
    folder = run_folder("off", **small)
    notes = tracked(folder, {"ray": lambda: make("ray", folder, {})})
    assert len(notes) == 2 and "tracker ray failed" in notes[0] and "--ray off" in notes[0]


# -- read back by each tracker's own reader; `make trackers` ---------------------------------------


def wandb_records(file: Path) -> list[Any]:
    """The records of an offline run: blocks of 32 KiB of records, each a CRC, a length, a type."""
    from wandb.proto.wandb_internal_pb2 import Record as Written

    content, at, parts, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = Written()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def told_to(name: str, folder: Path) -> tuple[list[int], str]:
    """Steps that a tracker holds, as its own reader reads them, and the text of its config or table."""
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        texts = [
            events.Tensors(tag)[-1].tensor_proto.string_val[0] for tag in events.Tags()["tensors"]
        ]
        return [event.step for event in events.Scalars("items")], b"".join(texts).decode()
    if name == "wandb":
        files = sorted(
            folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_ctime
        )
        records = [record for file in files for record in wandb_records(file)]
        assert len({record.run.run_id for record in records if record.HasField("run")}) == 1
        rows = [
            {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            for record in records
            if record.HasField("history")
        ]
        return [int(row["_step"]) for row in rows if "items" in row], json.dumps(rows)
    if name == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("evomerge")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED" and run.data.params["seed"] == "4"
        table = folder.glob("mlflow-artifacts/*/artifacts/table.md")
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "items")]
        return steps, next(table).read_text()
    from trackio.sqlite_storage import SQLiteStorage

    (run_name,) = SQLiteStorage.get_runs("tests")
    logs = SQLiteStorage.get_logs("tests", run_name)
    return [row["step"] for row in logs if "items" in row], json.dumps(logs, default=str)


def scraped(port: int) -> dict[str, float]:
    """What Ray's agent says to Prometheus of evomerge: a number by name and label."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    said = (re.fullmatch(r'(ray_evomerge_\w+){.*run="([^"]*)".*} (\S+)', line) for line in lines)
    return {f"{each[1]} {each[2]}": float(each[3]) for each in said if each}


@pytest.fixture
def agent() -> Iterator[int]:
    """The port of the agent of a Ray on this machine."""
    pytest.importorskip("opentelemetry.exporter.prometheus", reason="ray[default]: make trackers")
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 << 20,
        _system_config={"metrics_report_interval_ms": 200},
    )
    yield ray.nodes()[0]["MetricsExportPort"]
    ray.shutdown()


def test_prometheus_scrapes_what_status_says(
    agent: int, run_folder: RunFolder, small: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all sessions, also of one that told nobody: totals go on, they do not begin anew."""
    folder = run_folder("scraped", **small)
    notes: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        search(folder, listener=Stopper(4))
    for more in ([Stopper(4)], []):
        tracking = Tracking({"ray": make("ray", folder, {})}, notes.append)
        with closing(tracking), suppress(KeyboardInterrupt):
            search(folder, RayPool, listener=Listeners(tracking, *more))
    assert notes == []
    assert main(["status", str(folder), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    worked = status["worked"]
    expected = {
        "evaluations": status["evaluations"],
        "failed": status["failed"],
        "items": worked["items"],
        "tokens": worked["tokens"],
        "merge_seconds": worked["merge"],
        "score_seconds": worked["score"],
        "slope_seconds": worked["slope"],
        "best": status["best"]["search_score"],
    }
    wanted = {f"ray_evomerge_{name} scraped": value for name, value in expected.items()}
    await_that(lambda: scraped(agent) == pytest.approx(wanted))


OPTIONS = {"wandb": {"mode": "offline"}, "trackio": {"project": "tests"}}


# of what trackers use themselves
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")
@pytest.mark.parametrize("name", PACKAGES)
def test_a_tracker_holds_every_step_once(
    name: str, run_folder: RunFolder, small: dict[str, Any]
) -> None:
    pytest.importorskip(PACKAGES[name], reason=f"{name} is not installed: make trackers")
    folder = run_folder("kept", **small, seed=4)
    notes = tracked(folder, {name: lambda: make(name, folder, OPTIONS.get(name, {}))})
    assert notes == []
    steps, text = told_to(name, folder)
    assert steps == list(range(1, evaluations(folder) + 1))
    assert "winner" in text or name == "wandb"


def test_optunas_dashboard_shows_an_export(
    run_folder: RunFolder, small: dict[str, Any], tmp_path: Path
) -> None:
    program = shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("optuna-dashboard is not installed: make trackers")
    folder = run_folder("shown", **small)
    search(folder)
    file = tmp_path / "study.db"
    assert main(["export", str(folder), "--format", "optuna", "-o", str(file)]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([program, f"sqlite:///{file}", "--port", str(port)])
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
                    (study,) = json.loads(answer.read())["study_summaries"]
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
        url = f"http://127.0.0.1:{port}/api/studies/{study['study_id']}?after=0"
        with urllib.request.urlopen(url) as answer:
            detail = json.loads(answer.read())
    finally:
        server.terminate()
        server.wait()
    record = Record(folder)
    assert study["study_name"] == "shown"
    assert len(detail["trials"]) == record.history.spent.evaluations
    best = record.history.best
    assert best is not None
    assert max(t["values"][0] for t in detail["trials"]) == pytest.approx(best.score.value)
