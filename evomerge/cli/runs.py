"""Commands on runs: start, go on, look, export."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from evomerge.cli import output, placement
from evomerge.errors import InputError
from evomerge.visible import visible

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

    placement.check_options(arguments)
    placement.stop_on_signals()
    display = Display(quiet=arguments.quiet)
    try:
        with display:
            result = run_search(
                arguments.run_dir,
                placement.pool_of(arguments),
                listener=display,
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
    from evomerge.record.record import Record
    from evomerge.report.terminal import show_status, status_of

    record = Record(arguments.run_dir)
    if arguments.json:
        print(json.dumps(status_of(record), indent=2))
    else:
        show_status(record)


def report(arguments: argparse.Namespace) -> None:
    from evomerge.record.record import Record

    if arguments.serve is not None:
        if arguments.output:
            raise InputError("--serve and -o: give one of the two")
        _serve(arguments.run_dir, arguments.serve)
        return
    file = Path(arguments.output) if arguments.output else None
    if file and file.suffix.lower() not in (".html", ".htm", ".md"):
        raise InputError(f"{file}: expected a name that ends in .html (a page) or .md (Markdown)")
    if file:
        output.refuse_existing(file, arguments.force)
    record = Record(arguments.run_dir)
    if file and file.suffix.lower() != ".md":
        from evomerge.report.page import page

        output.write(file, page(record), arguments.force)
        return
    from evomerge.report.markdown import report_markdown

    output.put(report_markdown(record), arguments)


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
    from evomerge.record.record import Record

    record = Record(arguments.run_dir)
    if arguments.pareto or arguments.unconfirmed:
        _export_front(record, arguments)
        return
    candidate = record.chosen() if arguments.candidate is None else arguments.candidate
    recipe = record.recipe(candidate)
    if arguments.output and arguments.format != "mergekit":
        output.save(recipe, Path(arguments.output), arguments.force)
    else:
        output.put(_text(recipe, arguments.format), arguments)


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
