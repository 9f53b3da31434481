"""The head of a journal: what its run is. Another run cannot go on with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.checkpoint import ModelRef
from evomerge.checkpoint.contents import digests, files_of
from evomerge.errors import InputError
from evomerge.record import clock
from evomerge.record.events import Head, Parent, ScorerLine, Splits, versions
from evomerge.record.journal import FORMAT
from evomerge.record.vectors import Vectors
from evomerge.run.preflight import Run, commits_of
from evomerge.space.start import Given, is_recipe_file

_log = logging.getLogger("evomerge.run")


def head_of(run: Run) -> Head:
    """The journal's first line: what this run is. Row weights of merges that were given are kept beside it.

    Raises:
        InputError: those cannot be read.
        RunError: they cannot be written.
    """
    spec, sources, vectors = run.spec, tuple(run.spec.sources), Vectors(run.spec.folder)
    return Head(
        time=clock.now(),
        format=FORMAT,
        digest=spec.digest,
        content=dict(spec.content),
        budget=spec.budget,
        scoring=run.scoring,
        population=run.optimizer().population,
        template=run.template.plain,
        models={
            name: Parent(
                spec.named(name).text,
                model.fingerprint,
                digests(model, code=spec.trust_remote_code),
                _commit(spec.named(name)),
            )
            for name, model in run.models.items()
        },
        dims=[dim.name for dim in run.space.dims],
        objectives=tuple(run.suite.objectives),
        combine=run.suite.spec.combination,
        splits=Splits(run.splits_digest, run.suite.splits),
        scorers={
            name: ScorerLine(scorer.fingerprint, dict(_files(scorer)), dict(commits_of(scorer)))
            for name, scorer in run.suite.scorers.items()
        },
        versions=versions(),
        given={
            other: {
                label: vectors.keep_rows(replace(run.template, body=body)).body.plain(sources)
                for label, body in bodies.items()
            }
            for other, bodies in {**run.given, **_recipe_files(run)}.items()
        },
    )


def _commit(ref: ModelRef) -> str:
    """What a model of the hub is called at its commit; empty for others."""
    return "" if ref.pinned == ref.portable else ref.pinned


def check_same(head: Head, run: Run, path: Path) -> None:
    """Refuse to continue a journal with another run than it was started with."""
    advice = (
        f"Restore it, or start a new search in another folder (the journal of this one is {path})"
    )
    if head.digest != run.spec.digest:
        difference = _difference(head.content, run.spec.content)
        raise InputError(
            f"{run.spec.folder}: run.yaml (or a file it names) is not what this search was started with: "
            f"{difference}. {advice}"
        )
    if head.template.get("data") != run.template.plain.get("data"):
        texts = run.spec.calibration.path if run.spec.calibration else "calibration"
        raise InputError(f"{texts}: these texts changed since the search was started. {advice}")
    for name, bodies in _recipe_files(run).items():
        started = run.template.with_body(head.given[name][name])
        if replace(run.template, body=bodies[name]).digest != started.digest:
            raise InputError(
                f"space.start: {name}: this recipe changed since the search was started. {advice}"
            )
    for name, model in run.models.items():
        ref = run.spec.model(name)
        if ref.is_recipe and head.models[name].sha256 != model.fingerprint:
            raise InputError(
                f"{name}: {ref.portable}: this recipe, or what it names, changed since the search was started. "
                f"{advice}"
            )
        here = files_of(model, code=run.spec.trust_remote_code)
        found = digests(model, code=run.spec.trust_remote_code)
        if changed := _changed(head.models[name].files, found):
            file, how = changed
            raise InputError(
                f"{name} ({model.name}): {here.get(file, model.folder / file)}: this file {how} since the "
                f"search was started. {advice}"
            )
        if head.models[name].sha256 != model.fingerprint:
            raise InputError(
                f"{name} ({model.name}): its weights changed since the search was started. {advice}"
            )
    for name, scorer in run.suite.scorers.items():
        known = head.scorers[name]
        files = _files(scorer)
        # a run may be moved: the same content under other names is the same
        moved_only = sorted(known.files.values()) == sorted(files.values())
        if not moved_only and (changed := _changed(known.files, files)):
            file, how = changed
            raise InputError(
                f"{name}: {file}: this file {how} since the search was started. {advice}"
            )
        if known.sha256 != scorer.fingerprint:
            raise InputError(
                f"{name}: its data, task file or code changed since the search was started. {advice}"
            )
    now = versions()
    moved = [f"{n} {old} -> {now.get(n)}" for n, old in head.versions.items() if now.get(n) != old]
    if moved:
        _log.warning(
            "other library versions than at the start (%s): later candidates may differ in the last digits",
            ", ".join(moved),
        )
    if head.splits.digest != run.splits_digest:
        raise InputError(
            f"the items of the evaluation tasks changed since the search was started. {advice}"
        )


def _recipe_files(run: Run) -> Given:
    """The recipes that ``start`` names as files."""
    files = [entry for entry in run.spec.space.start if is_recipe_file(entry)]
    starts = run.space.starts() if files else {}
    return {name: {name: starts[name].body} for name in files}


def _files(scorer: Any) -> Mapping[str, str]:
    """Those of a scorer; a plugin's may name none."""
    found: Mapping[str, str] = getattr(scorer, "files", {})
    return found


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, str] | None:
    """The first file that differs, and what happened to it."""
    for file in {**old, **new}:
        if file not in new:
            return file, "was removed"
        if file not in old:
            return file, "was added"
        if old[file] != new[file]:
            return file, "changed"
    return None


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The first key at which two nested mappings differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return f"{path} was {old!r} and is {new!r}"
