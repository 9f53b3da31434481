"""A parent more for a search that was begun: a run that goes on from it, or one recipe that adds the parent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import config, presets
from evomerge.checkpoint import ModelRef
from evomerge.errors import ConfigError, InputError
from evomerge.merging import outline_model
from evomerge.parents import check_compatible
from evomerge.recipe import BASE, Body, Recipe, group
from evomerge.record.record import Record
from evomerge.run.moving import calibration_moved, fitness_moved
from evomerge.run.others import given_by_runs
from evomerge.run.spec import NAME, RunSpec, load_run, run_of
from evomerge.space.start import BEST, MOST, OtherRun, Published

WINNER = "winner"  # what a recipe that adds a parent calls the merge that it is added to


@dataclass(frozen=True)
class Parent:
    """The parent that comes in: its name, and the model as named on the command line."""

    name: str
    ref: ModelRef


def parent_of(text: str) -> Parent:
    """From ``NAME=MODEL``; folders start from the working directory.

    Raises:
        InputError: it is no such text.
    """
    name, _, model = text.partition("=")
    if not name or not model:
        raise InputError(
            f"{text!r}: expected NAME=MODEL, as in maths=org/model or maths=../models/maths"
        )
    return Parent(name, ModelRef(ModelRef(model).portable))


def reopen(
    run: str | Path, parent: Parent, out: Path | None, best: int | None = None
) -> tuple[Path, list[str]]:
    """Make a folder with the job of ``run`` and one source more, that starts from the best merges of it.

    Args:
        run: the folder of a search that scored a merge.
        parent: what comes in.
        out: the folder to make; default ``RUN-NAME`` beside it.
        best: how many merges of ``run`` are scored first, at most; default ``BEST``.

    Returns:
        The folder, and remarks.

    Raises:
        InputError: ``run`` is no such search, the name is taken, the model cannot be merged with the others,
            or the folder exists. Nothing was written.
    """
    best = BEST if best is None else best
    if not 1 <= best <= MOST:
        raise InputError(f"--best: expected a whole number in 1..{MOST}, found {best}")
    spec, out = _checked(run, parent, out)
    node = config.read(spec.folder / NAME)
    content = {**node.plain, "models": _models(spec, parent, node.plain["models"])}
    for key, moved in (("fitness", fitness_moved), ("calibration", calibration_moved)):
        if key in content:
            content[key] = moved(content[key], lambda file: _absolute(file, spec.folder))
    remarks = []
    content["space"], left = _space(spec, content["space"])
    file = str(out / NAME)
    try:
        start = run_of(config.from_plain(content, file)).space.start
        content["space"]["start"] = [
            *(name for name in start if isinstance(name, str)),
            {"run": str(spec.folder), "best": best},
        ]
        new = run_of(config.from_plain(content, file))
        given_by_runs(new.space.start, new.template("float32"))
    except ConfigError as error:
        told = "\n".join(error.problems)
        raise InputError(
            f"{spec.folder}: the same job with {parent.name} is none: {told}. Nothing was written; write a run.yaml "
            f"by hand, with {{run: {spec.folder}, best: {best}}} under space.start"
        ) from None
    if left:
        remarks.append(
            f"{', '.join(left)} under space.start: left out; {spec.folder} scored them, its best come along"
        )
    idle = [
        m for m in new.space.methods if parent.name not in new.space.team(m, tuple(new.sources))
    ]
    if idle:
        remarks.append(
            f"space.models of {', '.join(idle)} does not list {parent.name}: add it, or it is never merged"
        )
    header = f"# The job of {spec.folder.name} with the source {parent.name}; starts from its best merges.\n"
    _write(out / NAME, header + config.dump(content))
    return out, remarks


def add(run: str | Path, parent: Parent, out: Path | None) -> Path:
    """Write a recipe that adds ``parent`` to the winner of ``run`` by ``opcm``, and the winner beside it.

    Returns:
        The recipe.

    Raises:
        InputError: see ``reopen``; or there is no winner yet.
    """
    spec, out = _checked(run, parent, out)
    if parent.name == WINNER:
        raise InputError(f"{WINNER}: is what the recipe calls the merge; choose another name")
    record = Record(spec.folder)
    if (winner := record.history.winner) is None:
        raise InputError(
            f"{spec.folder}: has no winner yet that a parent could be added to: finish the search, or leave --method "
            "out, which goes on from what there is"
        )
    found = record.recipe(winner)
    recipe = Recipe(
        ModelRef(spec.base.portable, str(out)),
        {
            WINNER: ModelRef(f"{WINNER}.yaml", str(out)),
            parent.name: ModelRef(parent.ref.text, str(out)),
        },
        Body((group("opcm", (WINNER, parent.name)),)),
        found.dtype,
        found.seed,
        WINNER,  # its tokenizer
        allow=found.allow,
        place=found.place,
    )
    try:
        out.mkdir(parents=True)
        found.save(out / f"{WINNER}.yaml")
        recipe.save(out / "recipe.yaml")
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
    return out / "recipe.yaml"


def _checked(run: str | Path, parent: Parent, out: Path | None) -> tuple[RunSpec, Path]:
    """The run, and where the new one shall be, both absolute; whatever is wrong is refused."""
    Record(run)  # refuses what was not begun
    spec = load_run(run)
    name, ref = parent.name, parent.ref
    if name in spec.names:
        known = ", ".join(f"{each} = {spec.model(each)}" for each in spec.names)
        raise InputError(
            f"{name}: {spec.folder} has a model of this name already ({known}); choose another name"
        )
    for other in spec.names:
        if spec.model(other).portable == ref.portable:
            raise InputError(
                f"{ref}: {spec.folder} has this model already, as {other}; name one that it lacks"
            )
    if out is None:
        if os.path.basename(name) != name:
            raise InputError(f"{name}: no folder can end in this name; say with -o which to make")
        out = spec.folder.parent / f"{spec.folder.name}-{name}"
    out = Path(os.path.abspath(out))
    if os.path.lexists(out):
        raise InputError(f"{out}: exists already; choose another folder with -o, or remove it")
    models = {each: outline_model(spec.model(each)) for each in spec.names}
    check_compatible({**models, name: outline_model(ref)}, spec.tokenizer, spec.allow)
    return spec, out


def _models(spec: RunSpec, parent: Parent, plain: Mapping[str, Any]) -> dict[str, Any]:
    sources = {name: ref.portable for name, ref in spec.sources.items()}
    sources[parent.name] = parent.ref.text
    return {**plain, BASE: spec.base.portable, "sources": sources}


def _space(spec: RunSpec, plain: Any) -> tuple[dict[str, Any], list[str]]:
    """The space inline, with names alone under ``start``, and what stood there beside them."""
    if isinstance(plain, str):
        plain = config.read(_absolute(presets.file_of("space", plain), spec.folder)).plain
    if "start" not in plain:
        return dict(plain), []
    files = [
        name
        for name in spec.space.start
        if isinstance(name, str) and name.endswith((".yaml", ".yml"))
    ]
    runs = [each.text for each in spec.space.start if isinstance(each, OtherRun)]
    names = [n for n in spec.space.start if isinstance(n, str) and n not in files]
    recipes = [each.name for each in spec.space.start if isinstance(each, Published)]
    return {**plain, "start": names}, [*files, *recipes, *runs]


def _absolute(file: str, folder: Path) -> str:
    """What ``file``, as written in ``folder``, is called anywhere."""
    return os.path.abspath(folder / os.path.expanduser(file))


def _write(path: Path, text: str) -> None:
    try:
        config.write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
