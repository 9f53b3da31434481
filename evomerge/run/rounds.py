"""Rounds: branches are trained from a model, a search merges them, the next ones are trained from the winner.

``rounds.yaml`` says all of it. This is what there is to do, read strictly; ``commands.rounds`` does it.

    folder/rounds.yaml
    folder/start/                       the model that the first branches are trained from, where it is made
    folder/round-1/branches/NAME/       what the training command made of it
    folder/round-1/search/              the search over the branches, a run like any other
    folder/round-1/champion/            its winner, from which the branches of round 2 are trained
    folder/lineage.yaml                 what came of what
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge import config
from evomerge.checkpoint import ModelRef
from evomerge.recipe import BASE
from evomerge.record.events import JOURNAL
from evomerge.run.moving import Rename, calibration_moved, fitness_moved, space_moved
from evomerge.run.spec import NAME as RUN
from evomerge.run.spec import RunSpec, run_of

NAME = "rounds.yaml"
PLACEHOLDERS = ("model", "branch", "out", "round")
BASES = ("champion", "first")
MOST = 1000  # rounds, and branches
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # the name of a folder, and of a source


@dataclass(frozen=True)
class Rounds:
    """Rounds, as configured.

    Attributes:
        folder: of the file; relative paths start here, and the training command runs here.
        start: the model that the first branches are trained from; None where it is the winner of ``run``.
        run: the folder of a search whose winner is where they start; None where ``start`` is a model.
        branches: their names, which are the sources' in each search.
        train: the training command, word by word, with placeholders.
        rounds: how many.
        base: whose task vectors are merged: of the ``champion`` that a round's branches were trained from, or
            of the ``first`` model.
        search: a run.yaml without base and sources.
    """

    folder: Path
    start: ModelRef | None
    run: Path | None
    branches: tuple[str, ...]
    train: tuple[str, ...]
    rounds: int
    base: str
    search: config.Node

    @cached_property
    def digest(self) -> str:
        """sha256 of everything that can change a round; there may be more of them later."""
        content = [
            str(self.start or self.run),
            self.branches,
            self.train,
            self.base,
            self.search.plain,
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def round(self, number: int) -> Path:
        return self.folder / f"round-{number}"

    def branch(self, number: int, name: str) -> Path:
        """Where a branch lies once it is trained."""
        return self.round(number) / "branches" / name

    def champion(self, number: int) -> Path:
        """The winner of a round's search; of round 0, where rounds start if that is made here."""
        return self.round(number) / "champion" if number else self.folder / "start"

    def command(self, number: int, branch: str, model: str, out: Path) -> list[str]:
        """The training command of a branch: placeholders are filled in once, in one pass."""
        values = dict(zip(PLACEHOLDERS, (model, branch, str(out), str(number)), strict=True))
        return [
            _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), word)
            for word in self.train
        ]

    def environment(self, number: int, branch: str, model: str, out: Path) -> dict[str, str]:
        """The same values, for commands that read them there."""
        values = (model, branch, str(out), str(number))
        return {
            f"EVOMERGE_{key.upper()}": value
            for key, value in zip(PLACEHOLDERS, values, strict=True)
        }

    def job(self, number: int, base: str, sources: Mapping[str, str]) -> dict[str, Any]:
        """run.yaml of a round's search, its paths relative to where that lies.

        Args:
            number: of the round.
            base, sources: models, as text for ``models``.
        """
        plain = self.search.plain
        rename = self._renaming(self.round(number) / "search")
        content = {
            **plain,
            "models": {**plain.get("models", {}), BASE: base, "sources": dict(sources)},
        }
        for key, moved in (
            ("space", space_moved),
            ("fitness", fitness_moved),
            ("calibration", calibration_moved),
        ):
            if key in content:
                content[key] = moved(content[key], rename)
        return {"models": content.pop("models"), **content}

    def outline(self) -> RunSpec:
        """A round's search before its branches are there: all but the models is what it will be.

        Raises:
            ConfigError: every problem in it and in the files it names, with its lines.
        """
        node = self.search
        absent = {name: "absent" for name in self.branches}
        given = node.value["models"].plain if "models" in node.value else {}
        models = config.from_plain({**given, BASE: "absent", "sources": absent}, node.file)
        models = replace(
            models, line=node.value["models"].line if "models" in node.value else node.line
        )
        return run_of(replace(node, value={**node.value, "models": models}))

    def _renaming(self, folder: Path) -> Rename:
        def rename(text: str) -> str:
            path = os.path.expanduser(text)
            if os.path.isabs(path):
                return text
            return os.path.relpath(self.folder / path, folder)

        return rename


def load_rounds(path: str | Path) -> Rounds:
    """The rounds at ``path``: a folder with a rounds.yaml, or that file.

    Raises:
        InputError: there is none.
        ConfigError: every problem in it and in the files it names.
    """
    path = Path(path)
    return rounds_of(config.read(path / NAME if path.is_dir() else path))


def is_rounds(node: config.Node) -> bool:
    """True for the content of a rounds.yaml."""
    return isinstance(node.value, dict) and {"train", "branches"} <= set(node.value)


def rounds_of(node: config.Node) -> Rounds:
    """The rounds that a rounds.yaml says; see ``load_rounds``."""
    problems = config.Problems()
    section = config.Section(node, problems)
    start = section.text("from", required=True)
    branches = section.texts("branches") if section.require("branches", "a list of names") else ()
    train = section.texts("train") if section.require("train", "the words of a command") else ()
    count = section.integer("rounds", 1, low=1, high=MOST)
    base = section.choice("base", BASES, BASES[0])
    search = section.require("search", f"what {RUN} holds, without models.base and models.sources")
    section.finish()
    _check_branches(section, branches)
    _check_train(section, train)
    if search is not None and not isinstance(search.value, dict):
        section.problem("search", f"expected a mapping of keys, found {config.shown(search.plain)}")
    elif search is not None:
        models = search.value.get("models")
        for key in (BASE, "sources"):
            if models is not None and isinstance(models.value, dict) and key in models.value:
                section.problem(
                    f"search.models.{key}",
                    f"unexpected; the {'base is' if key == BASE else 'sources are'} what the rounds make",
                    models.value[key],
                )
    problems.check()
    assert search is not None
    folder = node.folder
    other = Path(os.path.normpath(folder / os.path.expanduser(start)))
    is_run = any((other / name).is_file() for name in (JOURNAL, RUN))
    found = Rounds(
        folder=folder,
        start=None if is_run else ModelRef(start, str(folder)),
        run=other if is_run else None,
        branches=branches,
        train=train,
        rounds=count,
        base=base,
        search=search,
    )
    found.outline()
    return found


def _check_branches(section: config.Section, branches: tuple[str, ...]) -> None:
    if "branches" in section and not branches:
        section.problem("branches", "expected at least one name")
    if len(branches) > MOST:
        section.problem("branches", f"expected {MOST} names at most, found {len(branches)}")
    for name in dict.fromkeys(branches):
        if not _BRANCH.fullmatch(name) or name.lower() == BASE:
            section.problem(
                "branches",
                f"{name!r:.80} names no branch: expected letters, digits, '.', '_' and '-', and not {BASE!r}",
            )
        elif branches.count(name) > 1:
            section.problem("branches", f"{name!r} stands twice; a branch has one name")


def _check_train(section: config.Section, train: tuple[str, ...]) -> None:
    if "train" in section and not train:
        section.problem("train", "expected the words of a command, as [python, train.py, '{out}']")
    for word in train:
        for name in _PLACEHOLDER.findall(word):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
                section.problem(
                    "train", f"unknown placeholder {{{name}}} in {word!r:.80}; known here: {known}"
                )
