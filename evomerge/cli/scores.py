"""Commands on fitness files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evomerge import presets
from evomerge.cli import placement
from evomerge.cli.output import refuse_existing, say, stage, write
from evomerge.errors import InputError


def score(arguments: argparse.Namespace) -> None:
    from evomerge.commands.score import score_model
    from evomerge.report.progress import items_bar
    from evomerge.report.terminal import show_scores

    if arguments.again and arguments.split != "report":
        raise InputError(
            f"--again: is for --split report; the {arguments.split} split may be looked at freely"
        )
    placement.check_device(arguments.device)
    placement.check_gpus(arguments)
    gpus = placement.gpus_of(arguments)
    with items_bar("items answered") as heard:
        scores = score_model(
            arguments.model,
            presets.file_of("fitness", arguments.fitness),
            arguments.split,
            device=arguments.device,
            gpus=gpus,
            again=arguments.again,
            say=say,
            heard=heard,
        )
    if arguments.json:
        print(json.dumps(scores, indent=2))
    else:
        show_scores(scores)


def reduce(arguments: argparse.Namespace) -> None:
    from evomerge.commands.reduce import reduce_suite
    from evomerge.report.progress import items_bar
    from evomerge.report.terminal import show_lines

    if arguments.items is not None and arguments.items < 1:
        raise InputError(f"--items: expected at least 1, found {arguments.items}")
    fitness, output = presets.file_of("fitness", arguments.fitness), Path(arguments.output)
    refuse_existing(output, arguments.force)  # before an hour of scoring, not after
    placement.check_device(arguments.device)
    placement.check_gpus(arguments)
    gpus = placement.gpus_of(arguments)
    with items_bar("items answered") as heard:
        reduced = reduce_suite(
            Path(fitness),
            arguments.models,
            output,
            count=arguments.items,
            device=arguments.device,
            gpus=gpus,
            say=stage,
            heard=heard,
        )
    write(output, reduced.text, arguments.force)
    show_lines(reduced.lines)
