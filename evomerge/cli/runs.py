"""Commands on runs: start, go on, look, export."""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from evomerge.cli import output, placement
from evomerge.errors import InputError
from evomerge.visible import visible

TABLES = ("csv", "parquet", "optuna")  # formats of export that hold every evaluation
BUDGETS = ("evaluations", "items", "tokens", "hours")  # that can be extended


def demo(arguments: argparse.Namespace) -> None:
    from evomerge.demo import prepare_run

    arguments.run_dir = str(prepare_run(Path(arguments.run_dir)))
    search(arguments)


def resume(arguments: argparse.Namespace) -> None:
    from evomerge.record.record import head_of

    head_of(arguments.run_dir)  # refuses if there is nothing
    asked = {name: getattr(arguments, name) for name in BUDGETS}
    search(arguments, {name: text for name, text in asked.items() if text is not None})


def search(arguments: argparse.Namespace, extension: dict[str, str] | None = None) -> None:
    from evomerge.commands.search import search as run_search
    from evomerge.report.progress import Display
    from evomerge.report.terminal import command_for, show_lines, show_table
    from evomerge.run.loop import Listeners
    from evomerge.trackers.tracking import Tracking

    placement.check_options(arguments)
    placement.stop_on_signals()
    display = Display(quiet=arguments.quiet)
    tracking = Tracking(placement.trackers_of(arguments), display.noted)
    try:
        with display, closing(tracking):
            result = run_search(
                arguments.run_dir,
                placement.pool_of(arguments),
                listener=Listeners(display, tracking),
                device=arguments.device,
                gpus=placement.gpus_of(arguments),
                extension=extension,
            )
    except KeyboardInterrupt:
        display.stopped(arguments.run_dir)
        raise
    show_table(result.table)
    show_lines([f"{remark}." for remark in result.remarks])
    print(visible(command_for(result)))


def add_parent(arguments: argparse.Namespace) -> None:
    from evomerge.commands.add_parent import add, parent_of, reopen
    from evomerge.report.terminal import show_lines

    parent = parent_of(arguments.parent)
    out = Path(arguments.output) if arguments.output else None
    if arguments.method:
        if arguments.best is not None:
            raise InputError(
                f"--best {arguments.best}: nothing is scored first where --method {arguments.method} adds the model "
                "to the winner; leave one of them out"
            )
        recipe = add(arguments.run_dir, parent, out)
        name = shlex.quote(str(recipe))
        show_lines(
            [f"wrote {recipe}", f"materialize it with: evomerge merge {name} -o merged-model"]
        )
        return
    folder, remarks = reopen(arguments.run_dir, parent, out, arguments.best)
    name = shlex.quote(str(folder))
    show_lines([*(f"note: {remark}" for remark in remarks), f"wrote {folder / 'run.yaml'}"])
    show_lines([f"look it over (`evomerge check {name}`), then go on with: evomerge search {name}"])


def status(arguments: argparse.Namespace) -> None:
    from evomerge.record.index import Brief
    from evomerge.report.terminal import show_status, status_of

    if arguments.watch is not None:
        _watch(arguments)
        return
    record = Brief(arguments.run_dir)
    if arguments.json:
        print(json.dumps(status_of(record), indent=2))
    else:
        show_status(record)


def _watch(arguments: argparse.Namespace) -> None:
    """Show the status again and again, until the search is done or nobody works on it; Ctrl-C ends it, too."""
    from evomerge.record.index import Brief
    from evomerge.report.terminal import clear, show_status, status_of

    if not arguments.watch > 0:
        raise InputError(f"--watch: expected seconds above 0, found {arguments.watch:g}")
    placement.stop_on_signals()
    try:
        while True:
            record = Brief(arguments.run_dir)
            status = status_of(record)
            if arguments.json:
                print(json.dumps(status), flush=True)
            else:
                clear()
                show_status(record)
            holder = status["holder"]
            if status["phase"] == "done" or holder is None or holder["running"] is False:
                return
            time.sleep(arguments.watch)
    except KeyboardInterrupt:
        return


def report(arguments: argparse.Namespace) -> None:
    if arguments.serve is not None:
        if arguments.output:
            raise InputError("--serve and -o: give one of the two")
        _ablate(arguments)
        _serve(arguments.run_dir, arguments.serve)
        return
    file = Path(arguments.output) if arguments.output else None
    if file and file.suffix.lower() not in (".html", ".htm", ".md"):
        raise InputError(f"{file}: expected a name that ends in .html (a page) or .md (Markdown)")
    if file:
        output.refuse_existing(file, arguments.force)
    _ablate(arguments)
    with _kept():
        _report(arguments, file)


def _report(arguments: argparse.Namespace, file: Path | None) -> None:
    from evomerge.record.record import Record

    record = Record(arguments.run_dir)
    if file and file.suffix.lower() != ".md":
        from evomerge.report.page import page

        output.write(file, page(record), arguments.force)
        return
    from evomerge.report.markdown import report_markdown

    output.put(report_markdown(record), arguments)


def _ablate(arguments: argparse.Namespace) -> None:
    """Measure first why the winner won, if that was asked for."""
    if arguments.ablate is None:
        if arguments.device is not None:
            raise InputError(
                f"--device {arguments.device}: a report computes nothing but what --ablate N asks for"
            )
        return
    from evomerge.commands.ablate import ablate
    from evomerge.record.ablation import FILE
    from evomerge.record.record import begun
    from evomerge.report.progress import progress_bar

    file = begun(arguments.run_dir).with_name(FILE)
    if file.exists() and not arguments.force:
        raise InputError(
            f"{file}: exists already, and is in every report of this run; measure it anew with --force"
        )
    placement.check_device(arguments.device)
    placement.stop_on_signals()
    with progress_bar("evaluations") as advance:
        ablate(
            arguments.run_dir,
            arguments.ablate,
            device=arguments.device,
            say=output.stage,
            progress=advance,
        )
    output.say(f"wrote {file}")


def _serve(run_dir: str, port: int) -> None:
    """Until Ctrl-C."""
    from evomerge.report.page.serving import HOST, Site, server

    site = Site(run_dir)
    site.page()  # what is wrong with the record is told here, not in a browser
    with server(site, port) as served:
        print(f"http://{HOST}:{served.server_port}/ (end with Ctrl-C)", flush=True)
        try:
            served.serve_forever()
        except KeyboardInterrupt:
            return


def export(arguments: argparse.Namespace) -> None:
    if recipe := _recipe_given(arguments):
        output.put(_text(recipe, arguments.format), arguments)
        return
    with _kept():
        _export(arguments)


@contextmanager
def _kept() -> Iterator[None]:
    """What is read stays until the process ends: to look through it for garbage, then or before, takes four of ten
    seconds, of 100,000 evaluations."""
    from evomerge.record.events import unswept

    with unswept():
        yield
        gc.freeze()


def _export(arguments: argparse.Namespace) -> None:
    from evomerge.record.record import Record

    record = Record(arguments.run_dir)
    if arguments.format in TABLES:
        _export_table(record, arguments)
        return
    if arguments.pareto or arguments.unconfirmed:
        _export_front(record, arguments)
        return
    candidate = record.chosen() if arguments.candidate is None else arguments.candidate
    recipe = record.recipe(candidate)
    if arguments.output and arguments.format != "mergekit":
        output.save(recipe, Path(arguments.output), arguments.force)
    else:
        output.put(_text(recipe, arguments.format), arguments)


def _recipe_given(arguments: argparse.Namespace) -> Any:
    """The recipe in the file that is given in place of a run, for another format; None if it is a run."""
    from evomerge.commands.kinds import Kind, kind_of
    from evomerge.recipe import Recipe

    path = Path(arguments.run_dir)
    if not path.exists() or (kind := kind_of(path)) == Kind.RUN or path.is_dir():
        return None
    if kind != Kind.RECIPE:
        raise InputError(f"{path}: is {kind}; expected a run, or a recipe with --format mergekit")
    of_runs = {
        "--candidate": arguments.candidate,
        "--pareto": arguments.pareto,
        "--unconfirmed": arguments.unconfirmed,
    }
    asked = [option for option, value in of_runs.items() if value is not None]
    if asked:
        raise InputError(f"{asked[0]}: is of a run, and {path} is a recipe; name the run's folder")
    if arguments.format == "evomerge":
        raise InputError(
            f"{path}: is a recipe already; give --format mergekit to write one for mergekit"
        )
    return Recipe.load(path)


def _export_table(record: Any, arguments: argparse.Namespace) -> None:
    """Every evaluation, for other tools."""
    from evomerge.report.frames import csv_of, parquet_of, write_optuna

    form, chosen = arguments.format, ("candidate", "pareto", "unconfirmed")
    for option in chosen:
        if getattr(arguments, option) is not None:
            raise InputError(
                f"--{option}: --format {form} writes every evaluation of the run; leave one of them out"
            )
    if form == "csv":
        output.put(csv_of(record), arguments)
        return
    if not arguments.output:
        raise InputError(f"--format {form}: is no text; give a file to write with -o FILE")
    path = Path(arguments.output)
    if form == "parquet":
        output.write_content(path, parquet_of(record), arguments.force)
        return
    with output.replacing(path, arguments.force):
        write_optuna(record, path)
    output.say(f"look at it with: optuna-dashboard sqlite:///{shlex.quote(str(path))}")


def _export_front(record: Any, arguments: argparse.Namespace) -> None:
    """The confirmed front with a table and a slider of it, or what search estimates say it is."""
    from evomerge.report.front import confirmed, front_markdown, unconfirmed
    from evomerge.report.slider import FILE, slider_of

    if arguments.pareto and arguments.unconfirmed:
        raise InputError("--pareto and --unconfirmed: give one of the two, they are different sets")
    folder = Path(arguments.pareto or arguments.unconfirmed)
    members = confirmed(record) if arguments.pareto else unconfirmed(record)
    files = {member: f"candidate-{member:05d}.yaml" for member in members}
    recipes = {folder / name: record.recipe(member) for member, name in files.items()}
    texts = {folder / "front.md": front_markdown(record, members)}
    if arguments.pareto and (slider := slider_of(record, members, files)) is not None:
        texts[folder / FILE] = slider.to_yaml()
    if arguments.format == "mergekit":
        texts |= {path: _text(recipe, arguments.format) for path, recipe in recipes.items()}
        recipes = {}
    written = [file for path, each in recipes.items() for file in output.files_of(each, path)]
    for path in (*written, *texts):
        output.refuse_existing(path, arguments.force)
    for path, recipe in recipes.items():
        output.save(recipe, path, arguments.force)
    for path, text in texts.items():
        output.write(path, text, arguments.force)


def _text(recipe: Any, form: str) -> str:
    if form == "mergekit":
        from evomerge.interop import to_mergekit

        return to_mergekit(recipe)
    return str(recipe.to_yaml())
