"""The command line. Heavy imports wait until a command needs them: ``--help`` must be instant."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from evomerge.cli.output import refuse_stores
from evomerge.cli.parser import make_parser
from evomerge.errors import EvomergeError, InputError, panicked
from evomerge.visible import Formatter, first_line, visible


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is returned."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 2
    shown = logging.StreamHandler()
    shown.setFormatter(Formatter("evomerge: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[shown])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        refuse_stores(arguments)
        from evomerge.cli.wall import around

        with around(arguments):
            arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        print(f"evomerge: {visible(str(error))}", file=sys.stderr)
        return 2
    except (EvomergeError, OSError) as error:
        print(f"evomerge: {visible(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evomerge: stopped", file=sys.stderr)
        return 130
    except SystemExit as error:  # no command leaves so: code that a file named, or a plugin, did
        from evomerge.scorers.foreign import where

        place = where(error) or "code of a package"
        print(f"evomerge: {visible(place)} called sys.exit({error.code!r:.40})", file=sys.stderr)
        return 1
    except BaseException as error:
        if not panicked(error):
            raise
        print(
            f"evomerge: a library gave up ({visible(first_line(error))}); is each tokenizer.json as it was made?",
            file=sys.stderr,
        )
        return 1
