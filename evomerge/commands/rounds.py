"""Rounds, done: a training command called for each branch, a search over what it made, and on from its winner.

Whatever is whole lies under its last name: a branch, a search's journal, a champion. So a killed call goes on with
what is missing, and repeats none of it.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import config, durable
from evomerge.checkpoint import Checkpoint, ModelRef, locate
from evomerge.checkpoint.weights import ADAPTER_CONFIG
from evomerge.commands.code import lines_of, read_tasks
from evomerge.commands.search import search
from evomerge.errors import InputError, RunError
from evomerge.merging import merge
from evomerge.pool.serial import SerialPool
from evomerge.recipe import BASE, Recipe
from evomerge.record.record import Record
from evomerge.report.files import Result, result_of
from evomerge.run import loop
from evomerge.run.rounds import NAME, Rounds, load_rounds
from evomerge.run.spec import NAME as RUN
from evomerge.visible import one_line

LINEAGE, LOCK = "lineage.yaml", "rounds.lock"
UNFINISHED = ".unfinished"  # of a branch that the command is at work on
PATIENCE = 10.0  # seconds for a command that was asked to stop
TOLD = 2000  # bytes of a failed command's log that are looked at for its last lines
Watch = Callable[[], AbstractContextManager[loop.Listener | None]]


@dataclass(frozen=True)
class Finished:
    """The last round: its search, and its winner as a model."""

    result: Result
    champion: Path


def rounds(
    path: str | Path,
    pool: loop.MakePool = SerialPool,
    *,
    say: Callable[[str], None] = lambda text: None,
    watch: Watch = nullcontext,
    device: str | None = None,
    gpus: int = 1,
) -> Finished:
    """Do what ``path`` says, from its start or from where an earlier call was stopped.

    Args:
        path: a folder with a rounds.yaml, or that file.
        pool, device, gpus: of the searches; see ``run.loop.search``.
        say: is told of every step, in a line.
        watch: makes a context in which a search is listened to.

    Raises:
        InputError: rounds.yaml is wrong, or was changed under way, or another call is at work; nothing was written.
        RunError: a training command failed, or made no model; a search stopped. What is whole is kept.
        KeyboardInterrupt: the command under way was stopped, too.
    """
    spec = load_rounds(path)
    _check(spec)
    with _held(spec.folder) as lock:
        lineage = _Lineage.of(spec)
        model, result = _start(spec, lineage, say), None
        first = model
        for number in range(1, spec.rounds + 1):
            champion = spec.champion(number)
            job = spec.round(number) / "search"
            if not champion.is_dir():
                for branch in spec.branches:
                    _train(spec, number, branch, model, lock, say)
                _write_job(spec, number, job, model, first)
                say(f"round {number} of {spec.rounds}: searching in {job}")
                with watch() as listener:
                    result = search(job, pool, listener=listener, device=device, gpus=gpus)
                if result.winner is None:
                    raise RunError(
                        f"{job}: every candidate of the shortlist failed, so there is nothing to go on from"
                    )
                merge(result.winner, champion, say=say)
                say(f"round {number} of {spec.rounds}: the winner is {champion}")
            else:
                say(f"round {number} of {spec.rounds}: done")
                result = result_of(Record(job))
            lineage.add(number, model, job, champion)
            model = str(champion)
    assert result is not None
    return Finished(result, champion)


def check_rounds(path: str | Path) -> list[str]:
    """What a rounds.yaml will do, one fact a line; nothing that it names is executed.

    Raises:
        InputError: with every problem found.
    """
    spec = load_rounds(path)
    _check(spec)
    model = str(spec.champion(0)) if spec.run else _named(spec)
    commands = []
    for number in range(1, min(spec.rounds, 2) + 1):
        for branch in spec.branches:
            words = spec.command(number, branch, model, spec.branch(number, branch))
            commands.append(f"round {number} executes in {spec.folder}: {shlex.join(words)}")
        model = str(spec.champion(number))
    more = [f"and so on, for {spec.rounds} rounds"] if spec.rounds > 2 else []
    outline = spec.outline()
    base = (
        "the model that its branches are trained from"
        if spec.base == "champion"
        else "the first model"
    )
    return [
        f"{spec.folder / NAME}: ok, as far as can be told before the branches are there",
        f"starts from {f'the winner of {spec.run}' if spec.run else spec.start}",
        *commands,
        *more,
        f"each round then searches over {', '.join(spec.branches)}, with {base} for base: optimizer "
        f"{outline.optimizer}, {', '.join(dict.fromkeys((*outline.space.methods, *outline.space.parts)))}",
        *lines_of(code for each in read_tasks(outline.suite).code.values() for code in each),
    ]


def _check(spec: Rounds) -> None:
    """Refuse what would fail only after hours.

    Raises:
        InputError: the command is not to be had, or what rounds start from is no model.
    """
    word = spec.train[0]
    found = shutil.which(
        word if os.sep not in word else str(spec.folder / os.path.expanduser(word))
    )
    if found is None and "{" not in word:
        raise InputError(
            f"{spec.folder / NAME}: train: {word!r} is no command that can be executed here; expected a "
            "program on PATH, or the path of one from the folder of rounds.yaml"
        )
    if spec.run is not None:
        if Record(spec.run).history.winner is None:
            raise InputError(
                f"{spec.run}: has no winner yet that rounds could start from: finish the search first"
            )
    else:
        assert spec.start is not None
        if spec.start.is_recipe:
            Recipe.load(spec.start.portable)
        elif spec.start.adapter is not None:
            raise InputError(
                f"{spec.start}: rounds start from one model; make it with `evomerge merge` of a recipe, or name a "
                "recipe.yaml"
            )
        else:
            Checkpoint.outline(spec.start)


@contextmanager
def _held(folder: Path) -> Iterator[int]:
    """The lock of these rounds, as a file handle. The training command inherits it: one that outlives a killed call
    holds it until it ends, so that no other begins beside it.

    Raises:
        InputError: another call, or a command that it left behind, is at work.
    """
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: these rounds are under way: another call, or a training command that a killed one left "
                f"behind, holds {LOCK}; wait for it, or stop it"
            ) from None
        yield handle
    finally:
        os.close(handle)


class _Lineage:
    """``lineage.yaml``: what came of what, for people and for a later call to compare with."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path, self._content = path, content

    @classmethod
    def of(cls, spec: Rounds) -> _Lineage:
        """That of the folder, or a new one.

        Raises:
            InputError: it is of other rounds.
        """
        path = spec.folder / LINEAGE
        content: dict[str, Any] = {"job": spec.digest, "start": {}, "rounds": []}
        if path.is_file():
            content = config.read(path).plain
            if not isinstance(content, dict) or content.get("job") != spec.digest:
                raise InputError(
                    f"{spec.folder / NAME}: is not what these rounds were begun with, but for the number of "
                    f"rounds nothing in it may change: restore it, or begin in another folder ({path} says what is done)"
                )
        return cls(path, content)

    def begin(self, start: dict[str, Any]) -> None:
        self._content["start"] = start
        self._write()

    def add(self, number: int, model: str, job: Path, champion: Path) -> None:
        """A round that is done."""
        if any(each["round"] == number for each in self._content["rounds"]):
            return
        record = Record(job)
        table, winner = record.table, record.history.winner
        assert table is not None and table.winner_row is not None and winner is not None
        row = table.winner_row
        entry = {
            "round": number,
            "trained_from": self._named(model),
            "base": self._model(record.head.models[BASE].ref, job),
            "branches": {
                name: {"model": self._model(parent.ref, job), "sha256": parent.sha256}
                for name, parent in record.head.models.items()
                if name != BASE
            },
            "search": self._named(str(job)),
            "winner": {
                "candidate": winner,
                "label": row.label,
                "recipe": record.recipe(winner).digest,
                "score": row.score.plain if row.score else None,
            },
            "champion": self._named(str(champion)),
        }
        self._content["rounds"].append(entry)
        self._write()

    def _model(self, text: str, job: Path) -> str:
        """A model that the run.yaml in ``job`` names, each part of it from this folder."""
        parts = ModelRef(text, str(job)).parts
        return "+".join(self._named(ModelRef(part, str(job)).portable) for part in parts)

    def _named(self, path: str) -> str:
        """From this folder, where it lies in it."""
        inside = os.path.isabs(path) and Path(path).is_relative_to(self._path.parent)
        return os.path.relpath(path, self._path.parent) if inside else path

    def _write(self) -> None:
        text = f"# What came of what; `evomerge rounds` keeps it.\n{config.dump(self._content)}"
        try:
            config.write_text(self._path, text)
        except OSError as error:
            raise RunError(f"{self._path}: {durable.why(error)}; make room and go on") from None


def _named(spec: Rounds) -> str:
    """The start as a training command is told of it: a folder, or a hub id."""
    assert spec.start is not None
    if spec.start.is_recipe:
        return str(spec.champion(0))
    if os.path.isabs(spec.start.portable) or spec.start.text.startswith("embedded:"):
        return str(locate(spec.start.text, spec.start.origin))
    return spec.start.portable


def _start(spec: Rounds, lineage: _Lineage, say: Callable[[str], None]) -> str:
    """The model that the first branches are trained from; made, where it is a merge."""
    out = spec.champion(0)
    if spec.run is not None:
        record = Record(spec.run)
        recipe = record.recipe(record.chosen())
        told = {"run": str(spec.run), "candidate": record.chosen(), "recipe": recipe.digest}
    elif spec.start is not None and spec.start.is_recipe:
        recipe = Recipe.load(spec.start.portable)
        told = {"recipe_file": spec.start.portable, "recipe": recipe.digest}
    else:
        model = _named(spec)
        lineage.begin({"model": model})
        return model
    if not out.is_dir():
        merge(recipe, out, say=say)
        say(f"starting from {out}")
    lineage.begin({**told, "model": out.name})
    return str(out)


def _train(
    spec: Rounds, number: int, branch: str, model: str, lock: int, say: Callable[[str], None]
) -> None:
    """Call the training command of a branch, unless what it makes is there.

    Raises:
        RunError: it failed, or what it made is no model.
    """
    done = spec.branch(number, branch)
    if done.is_dir():
        return
    out, log = done.with_name(f"{branch}{UNFINISHED}"), done.with_name(f"{branch}.log")
    command = spec.command(number, branch, model, out)
    try:
        done.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{done.parent}: {durable.why(error)}") from None
    say(f"round {number} of {spec.rounds}: training {branch}: {shlex.join(command)} (log: {log})")
    status = _call(
        command, spec, {**os.environ, **spec.environment(number, branch, model, out)}, log, lock
    )
    told = f"round {number}, branch {branch}: {shlex.join(command)}"
    if status:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise RunError(
            f"{told}: {how}{_last_lines(log)}. Its output is in {log}; once it is mended, the same command goes on here"
        )
    try:
        Checkpoint.outline(_source(model, out))
    except InputError as error:
        raise RunError(
            f"{told}: ended well, but left no model or adapter in {out} ({error}). It is expected to write one to "
            f"{{out}}, or $EVOMERGE_OUT; its output is in {log}"
        ) from None
    os.rename(out, done)
    durable.sync(done.parent)


def _source(model: str, folder: Path) -> ModelRef:
    """A branch as a model: itself, or the model that it was trained from with it as an adapter."""
    adapter = (folder / ADAPTER_CONFIG).is_file()
    return ModelRef(f"{model}+{folder}" if adapter else str(folder))


def _call(
    command: list[str], spec: Rounds, environment: dict[str, str], log: Path, lock: int
) -> int:
    """The exit status of a command that has no terminal; it is stopped where this process is asked to stop."""
    with open(log, "ab") as output:
        try:
            child = subprocess.Popen(
                command,
                cwd=spec.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, which can be stopped whole
                pass_fds=(lock,),
            )
        except OSError as error:
            raise RunError(f"{shlex.join(command)}: cannot be executed: {error.strerror}") from None
        try:
            return child.wait()
        except BaseException:
            _stop(child)
            raise


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started."""
    try:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _last_lines(log: Path) -> str:
    """What a command said last, on one line, made safe to show."""
    try:
        text = log.read_bytes()[-TOLD:].decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if line.strip()]
    return f"; it said last: {one_line(' | '.join(lines[-3:]))}" if lines else ""


def _write_job(spec: Rounds, number: int, job: Path, model: str, first: str) -> None:
    """run.yaml of a round's search; one that is there stays, as its search compares it."""
    file = job / RUN
    if file.is_file():
        return

    def text(name: str) -> str:
        """A model, from the folder of the search where it lies with it."""
        return (
            os.path.relpath(name, job)
            if os.path.isabs(name) and Path(name).is_relative_to(spec.folder)
            else name
        )

    sources = {}
    for branch in spec.branches:
        source = _source(model, spec.branch(number, branch))
        sources[branch] = "+".join(map(text, source.parts))
    base = text(model if spec.base == "champion" else first)
    header = f"# The search of round {number}, written by `evomerge rounds`.\n"
    try:
        config.write_text(file, header + config.dump(spec.job(number, base, sources)))
    except OSError as error:
        raise RunError(f"{file}: {durable.why(error)}") from None
