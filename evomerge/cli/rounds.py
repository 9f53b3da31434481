"""Rounds: train, merge, go on."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from evomerge.cli import output, placement


def rounds(arguments: argparse.Namespace) -> None:
    from evomerge.commands.rounds import rounds as do_rounds
    from evomerge.report.progress import Display
    from evomerge.report.terminal import show_lines, show_table

    placement.check_options(arguments)
    placement.stop_on_signals()

    def say(text: str) -> None:
        if not arguments.quiet:
            output.say(text)

    try:
        found = do_rounds(
            arguments.file,
            placement.pool_of(arguments),
            say=say,
            watch=lambda: Display(quiet=arguments.quiet),
            device=arguments.device,
            gpus=placement.gpus_of(arguments),
        )
    except KeyboardInterrupt:
        say(
            "what is whole is kept, the training command under way was stopped; go on with: "
            f"evomerge rounds {shlex.quote(arguments.file)}"
        )
        raise
    show_table(found.result.table)
    show_lines([f"{remark}." for remark in found.result.remarks])
    lineage = Path(found.champion).parents[1] / "lineage.yaml"
    show_lines(["", f"model: {found.champion}", f"what came of what: {lineage}"])
