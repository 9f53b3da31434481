"""Commands on recipes and methods."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge import presets
from evomerge.cli import output, placement
from evomerge.errors import InputError

if TYPE_CHECKING:
    from evomerge.recipe import Recipe


def merge(arguments: argparse.Namespace) -> None:
    from evomerge.commands.card import carded
    from evomerge.merging import merge, merge_adapter, merge_experts
    from evomerge.report.licences import stated
    from evomerge.report.progress import progress_bar

    placement.stop_on_signals()
    licence = stated(arguments.license) if arguments.license else None
    recipe, notes = _recipe(arguments.recipe)
    recipe = recipe.allowing(arguments.allow)
    for note in notes:
        output.say(note)
    placement.check_device(arguments.device)
    if not 0 < arguments.shard_size < float("inf"):
        raise InputError(f"--shard-size: expected a number above 0, found {arguments.shard_size:g}")
    for option in ("rank", "compress", "experts"):
        if getattr(arguments, option) is not None and not arguments.as_adapter:
            raise InputError(f"--{option}: is of an adapter; give --as-adapter, too")
    density = _density(arguments.compress)
    with progress_bar("merging") as advance:
        common: dict[str, Any] = {
            "force": arguments.force,
            "device": arguments.device or "cpu",
            "progress": advance,
            "say": output.say,
            "finish": carded(recipe, arguments.output, licence),
        }
        if arguments.experts is not None:
            ranks = {"rank": arguments.experts, "shared_rank": arguments.rank}
            merge_experts(recipe, arguments.output, density=density, **ranks, **common)
        elif arguments.as_adapter:
            rank = arguments.rank
            merge_adapter(recipe, arguments.output, rank=rank, density=density, **common)
        else:
            size = int(arguments.shard_size * 2**30)
            merge(recipe, arguments.output, shard_bytes=size, **common)
    print(arguments.output)


def compare(arguments: argparse.Namespace) -> None:
    from evomerge.commands.compare import compare_models
    from evomerge.parents.comparison import Comparison, Limits
    from evomerge.report.comparison import comparison_lines, comparison_markdown
    from evomerge.report.comparison_page import comparison_page
    from evomerge.report.progress import progress_bar
    from evomerge.report.terminal import show_lines

    def as_json(found: Comparison) -> str:
        return json.dumps(found.plain(limits), indent=2) + "\n"

    texts: dict[str, Callable[[Comparison], str]] = {
        ".html": lambda found: comparison_page(found, limits),
        ".json": as_json,
        ".md": lambda found: comparison_markdown(found, limits, layers=True),
    }
    placement.stop_on_signals()
    limits = Limits().setting(arguments.limit)
    path = Path(arguments.output) if arguments.output else None
    if path is not None and path.suffix not in texts:
        raise InputError(f"{path}: expected a name that ends in {', '.join(texts)}")
    if path is not None:
        output.refuse_existing(path, arguments.force)  # before all weights are read
    with progress_bar("comparing") as advance:
        found = compare_models(
            arguments.models,
            arguments.base,
            tokenizer=arguments.tokenizer,
            mask=arguments.mask_lambda,
            exact=arguments.exact,
            allow=arguments.allow,
            progress=advance,
            say=output.say,
        )
    if path is not None:
        output.write(path, texts[path.suffix](found), arguments.force)
    if arguments.json:
        print(as_json(found), end="")
    elif path is None:
        show_lines(comparison_lines(found, limits, layers=arguments.layers))


def push(arguments: argparse.Namespace) -> None:
    if sys.stderr.isatty():  # before the hub's library reads it: uploads take long
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "0"
    from evomerge.commands.push import parcel_of
    from evomerge.commands.push import push as send
    from evomerge.report.terminal import show_lines
    from evomerge.visible import visible

    parcel = parcel_of(
        Path(arguments.folder),
        arguments.repository,
        private=not arguments.public,
        licence=arguments.license,
        revision=arguments.revision,
    )
    if arguments.dry_run:
        show_lines([*parcel.lines(), "nothing was sent (--dry-run)"])
        return
    placement.stop_on_signals()
    for name, why in parcel.left_out.items():
        output.say(f"stays here: {name}: {why}")
    print(visible(send(parcel, say=output.say)))


def _density(text: str | None) -> float | None:
    """The density in ``compeft[=DENSITY]``."""
    if text is None:
        return None
    name, _, density = text.partition("=")
    try:
        if name == "compeft":
            return float(density) if density else 0.2
    except ValueError:
        pass
    raise InputError(f"--compress: expected compeft or compeft=DENSITY, found {text!r}")


def _recipe(path: str) -> tuple[Recipe, list[str]]:
    """The recipe in a file, or the winner of a run, and what is to be said of it."""
    from evomerge.commands.kinds import Kind, kind_of
    from evomerge.interop import load_recipe
    from evomerge.record.record import Record

    kind = kind_of(Path(path))
    if kind == Kind.RUN:
        record = Record(path)
        chosen = record.chosen()
        unsure = (
            f"the search is not finished: this is candidate {chosen}, the best so far by its search score, which is "
            f"likely too good; go on with: evomerge resume {path}"
        )
        return record.recipe(chosen), [unsure] if record.history.winner is None else []
    if kind in (Kind.RECIPE, Kind.MERGEKIT):
        return load_recipe(path)
    raise InputError(f"{path}: is {kind}; expected a recipe, a file of mergekit, or a run")


def new(arguments: argparse.Namespace) -> None:
    if arguments.list:  # at once, so without what imports torch
        print("\n".join(presets.listing(shutil.get_terminal_size((80, 24)).columns)))
        return
    example = "evomerge new runs/mine --base org/base --source chat=org/chat --source sea=org/sea"
    needed = {
        "DIR": arguments.folder,
        "--base MODEL": arguments.base,
        "--source NAME=MODEL": arguments.source,
    }
    if missing := [name for name, given in needed.items() if not given]:
        raise InputError(f"missing: {', '.join(missing)}; for example: {example}")
    if arguments.evaluations is not None and arguments.evaluations < 1:
        raise InputError(f"--evaluations: expected at least 1, found {arguments.evaluations}")
    from evomerge.commands.choice import Wishes
    from evomerge.commands.new import new
    from evomerge.report.terminal import show_lines

    lines = new(
        Path(arguments.folder),
        arguments.base,
        _pairs("--source", arguments.source, "chat=org/model"),
        Wishes(
            arguments.space,
            arguments.fitness,
            _pairs("--texts", arguments.texts, "code=code.txt"),
            arguments.evaluations,
        ),
        force=arguments.force,
    )
    show_lines(lines)


def _pairs(option: str, given: Sequence[str], example: str) -> dict[str, str]:
    """``NAME=WHAT`` texts as a mapping."""
    found: dict[str, str] = {}
    for text in given:
        name, _, what = text.partition("=")
        if not name or not what:
            raise InputError(f"{option} {text}: expected NAME=..., as in {option} {example}")
        if name in found:
            raise InputError(f"{option} {text}: {name} is named twice ({name}={found[name]})")
        found[name] = what
    return found


def measure(arguments: argparse.Namespace) -> None:
    from evomerge import config
    from evomerge.commands.measure import measure_model
    from evomerge.visible import visible

    if arguments.items is not None and arguments.items < 1:
        raise InputError(f"--items: expected at least 1, found {arguments.items}")
    placement.check_device(arguments.device)
    file, data = measure_model(
        arguments.model,
        arguments.statistic,
        arguments.data,
        arguments.items,
        device=arguments.device or "cpu",
        say=output.stage,
    )
    print(file)
    print(visible(config.dump({"data": data.plain}).rstrip()))


def methods(arguments: argparse.Namespace) -> None:
    from evomerge import methods
    from evomerge.report.terminal import describe, show_method, show_methods

    if arguments.name:
        found = [methods.get(arguments.name)]
    else:
        found = [methods.get(name) for name in methods.names()]
    if arguments.json:
        described = [describe(method) for method in found]
        print(json.dumps(described[0] if arguments.name else described, indent=2))
    elif arguments.name:
        show_method(found[0])
    else:
        show_methods(found)


def check(arguments: argparse.Namespace) -> None:
    from evomerge.commands.check import check
    from evomerge.report.terminal import show_lines

    show_lines(check(arguments.file, arguments.allow, measured=arguments.measure))


def convert(arguments: argparse.Namespace) -> None:
    from evomerge.interop import files_from_mergekit, from_mergekit

    if arguments.layers is not None and arguments.layers < 1:
        raise InputError(f"--layers: expected at least 1, found {arguments.layers}")
    if not arguments.output:
        output.put(from_mergekit(arguments.file, arguments.layers), arguments)
        return
    path = Path(arguments.output)
    files = files_from_mergekit(arguments.file, path.name, arguments.layers)
    output.write_all({path.with_name(name): text for name, text in files.items()}, arguments.force)
