"""The best merges of other runs, as known recipes of this one.

They are read once, when the search starts: the head of the journal keeps them, so that the other run may go
on, or vanish, and this one is resumed as it was begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from evomerge.errors import ConfigError, InputError
from evomerge.evolution.archive.best import best
from evomerge.evolution.history import History
from evomerge.recipe import BASE, Body, Recipe
from evomerge.record.events import Head, reading
from evomerge.record.record import Record
from evomerge.space.start import Given, OtherRun


def given_by_runs(starts: tuple[object, ...], template: Recipe) -> Given:
    """The merges of each run among ``starts``.

    Raises:
        ConfigError: one has none, or has other models than the ``template``.
    """
    found = {}
    for other in starts:
        if isinstance(other, OtherRun):
            try:
                found[other.text] = _merges_of(other, template)
            except InputError as error:
                raise ConfigError([f"{other.place}: space.start: {error}"]) from None
    return found


def given_at_start(starts: tuple[object, ...], template: Recipe, head: Head, path: Path) -> Given:
    """The same as it was when the search began whose journal, at ``path``, has this ``head``."""
    with reading(path, 1):
        return {
            other.text: {
                label: template.with_body(body).body
                for label, body in head.given.get(other.text, {}).items()
            }
            for other in starts
            if isinstance(other, OtherRun)
        }


def best_merges(history: History) -> Iterator[int]:
    """The merges of a search that were scored, those first that it would recommend.

    What it chose comes first, then its shortlist, last round first, by their scores on select items; what
    was never there follows by search score. Such whose scores were found invalid are left out.
    """
    references = {candidate.id for candidate in history.batches[0].candidates}
    rounds = (
        elite.candidate
        for batch in reversed(history.rounds)
        for elite in history.ranked(batch.number, history.invalid)
    )
    merges = history.merges()
    rest = (elite.candidate for elite in best(merges, len(merges)))
    for candidate in dict.fromkeys(chain(history.chosen, rounds, rest)):
        if candidate not in references and candidate not in history.invalid:
            yield candidate


def _merges_of(other: OtherRun, template: Recipe) -> dict[str, Body]:
    record = Record(other.folder)
    names = _names(record, template)
    history, bodies = record.history, list[Body]()
    found: dict[str, Body] = {}
    for candidate in best_merges(history) if history.batches else ():
        body = history.candidates[candidate].recipe.portable().body
        if body in bodies:
            continue
        bodies.append(body)
        found[f"#{candidate} of {other.folder.name}"] = body.renamed(names)
        if len(found) == other.best:
            break
    if not found:
        raise InputError(
            f"{record.path}: no merge was scored there yet: only such can start another search. Let it search "
            "longer first, or leave this run out"
        )
    return found


def _names(record: Record, template: Recipe) -> dict[str, str]:
    """What this run calls the sources of the other one: those with the same models."""
    theirs, ours = (_models(recipe) for recipe in (record.template, template))
    if theirs[BASE] != ours[BASE]:
        raise InputError(
            f"{record.folder}: its base is {theirs[BASE]}; this run's is {ours[BASE]}. Its merges change "
            "another model: take the same base, or leave this run out"
        )
    names = {model: name for name, model in reversed(ours.items()) if name != BASE}
    lacking = [
        f"{name} ({model})" for name, model in theirs.items() if name != BASE and model not in names
    ]
    if lacking:
        sources = ", ".join(f"{name} ({model})" for name, model in ours.items() if name != BASE)
        raise InputError(
            f"{record.folder}: it merges {', '.join(lacking)}; this run's sources are {sources}. Its merges need "
            "all sources that it had, by whatever name: add them under models.sources, or leave this run out"
        )
    return {name: names[model] for name, model in theirs.items() if name != BASE}


def _models(recipe: Recipe) -> dict[str, str]:
    refs = {BASE: recipe.base, **recipe.models}
    return {name: ref.portable for name, ref in refs.items() if ref is not None}
