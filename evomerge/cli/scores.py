"""Commands on fitness files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from evomerge.cli import placement
from evomerge.cli.output import refuse_existing, write
from evomerge.errors import InputError


def score(arguments: argparse.Namespace) -> None:
    from evomerge.display import show_scores
    from evomerge.run.one_model import score

    if arguments.again and arguments.split != "report":
        raise InputError(
            f"--again: is for --split report; the {arguments.split} split may be looked at freely"
        )
    placement.check_device(arguments.device)
    scores = score(
        arguments.model,
        arguments.fitness,
        arguments.split,
        device=arguments.device,
        again=arguments.again,
    )
    if arguments.json:
        print(json.dumps(scores, indent=2))
    else:
        show_scores(scores)


def reduce(arguments: argparse.Namespace) -> None:
    from evomerge.display import show_lines
    from evomerge.run.reducing import reduce_suite

    if arguments.items is not None and arguments.items < 1:
        raise InputError(f"--items: expected at least 1, found {arguments.items}")
    output = Path(arguments.output)
    refuse_existing(output, arguments.force)  # before an hour of scoring, not after
    placement.check_device(arguments.device)
    reduced = reduce_suite(
        Path(arguments.fitness),
        arguments.models,
        output,
        count=arguments.items,
        device=arguments.device,
        say=lambda text: print(f"{text} ...", file=sys.stderr),
    )
    write(output, reduced.text, arguments.force)
    show_lines(reduced.lines)
