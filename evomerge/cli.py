"""The command line. Heavy imports wait until a command needs them: ``--help`` must be instant."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evomerge import __version__
from evomerge.errors import EvomergeError, InputError

EPILOG = """\
start here:
  evomerge demo                       a real search on tiny models, a few minutes, no download
  evomerge search runs/mine           search; the same command resumes after a stop
  evomerge export runs/mine -o best.yaml && evomerge merge best.yaml -o merged-model

exit status: 0 done, 1 failed at run time (resume it), 2 the input is wrong, 130 stopped by you
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is returned."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 2
    logging.basicConfig(level=logging.WARNING, format="evomerge: %(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        print(f"evomerge: {error}", file=sys.stderr)
        return 2
    except (EvomergeError, OSError) as error:
        print(f"evomerge: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evomerge: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evomerge",
        description="Find the best merge of a few descendants of one language model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"evomerge {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], short: str, more: str = ""
    ) -> Any:
        sub = commands.add_parser(
            name,
            help=short,
            description=f"{short[0].upper()}{short[1:]}.\n\n{more}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "demo",
        _demo,
        "search over three tiny models that come with evomerge",
        "A base, a chat parent that follows instructions in English only, and a parent that knows\n"
        "Indonesian, Vietnamese and Thai. Neither answers instructions in those languages; a good\n"
        "merge does. Takes a few minutes on two cores and downloads nothing.",
    )
    sub.add_argument(
        "--run",
        dest="run_dir",
        metavar="DIR",
        default="runs/demo",
        help="folder of the run (default: %(default)s)",
    )
    _placement(sub)

    sub = command(
        "search",
        _search,
        "start a search, or resume it if it was started before",
        "RUN_DIR holds run.yaml, the whole job. Progress is kept in RUN_DIR/journal.jsonl after every\n"
        "evaluation: stop at any time (Ctrl-C, kill, power cut) and run the same command to go on. The\n"
        "options below place the work; none of them can change the result.",
    )
    sub.add_argument("run_dir", metavar="RUN_DIR", help="folder with a run.yaml, or that file")
    _placement(sub)

    sub = command("resume", _resume, "resume a search; refuses if there is nothing to resume")
    sub.add_argument("run_dir", metavar="RUN_DIR", help="folder of a started search")
    _placement(sub)

    sub = command(
        "status",
        _status,
        "show how far a search is, from its journal alone",
        "Works while the search runs, and without its models or tasks at hand.",
    )
    sub.add_argument("run_dir", metavar="RUN_DIR")
    sub.add_argument("--json", action="store_true", help="machine-readable")

    sub = command(
        "export",
        _export,
        "write a recipe of a search as YAML",
        "By default the winner (before the end: the best so far, by its search score). For mergekit\n"
        "(0.1.5) the models keep the names given in run.yaml; where methods differ between layers or\n"
        "roles the file holds several merges, for mergekit-multi. What mergekit would merge to other\n"
        "tensors is refused with the reason.",
    )
    sub.add_argument("run_dir", metavar="RUN_DIR")
    sub.add_argument(
        "-o", "--output", metavar="FILE", help="file to write (default: standard output)"
    )
    sub.add_argument(
        "--format",
        choices=("evomerge", "mergekit"),
        default="evomerge",
        help="default: %(default)s",
    )
    sub.add_argument("--candidate", type=int, metavar="ID", help="another candidate, by its number")
    sub.add_argument(
        "--pareto", metavar="DIR", help="write every recipe of the Pareto front into DIR instead"
    )
    sub.add_argument("--force", action="store_true", help="replace existing files")

    sub = command(
        "import",
        _import,
        "turn a mergekit file into a recipe, or a mergekit-evolve file into a run.yaml",
        "The recipe gives the tensors that mergekit 0.1.5 gives, within rounding: what it does counts,\n"
        "not what its file seems to say. Unknown keys are refused. What is not carried over stands in\n"
        "comments at the top of the result.",
    )
    sub.add_argument("file", metavar="MERGEKIT.yaml")
    sub.add_argument(
        "-o", "--output", metavar="FILE", help="file to write (default: standard output)"
    )
    sub.add_argument(
        "--layers", type=int, metavar="N", help="depth of the models, if they are not at hand"
    )
    sub.add_argument("--force", action="store_true", help="replace an existing file")

    sub = command(
        "merge",
        _merge,
        "materialize a recipe as a Hugging Face model folder",
        "Written shard by shard beside DIR and renamed at the end: DIR appears whole or not at all.",
    )
    sub.add_argument("recipe", metavar="RECIPE.yaml")
    sub.add_argument("-o", "--output", metavar="DIR", required=True, help="folder to make")
    sub.add_argument("--force", action="store_true", help="replace DIR if it exists")
    sub.add_argument(
        "--shard-size",
        metavar="GB",
        type=float,
        default=4.0,
        help="largest weight file (default: %(default)s)",
    )
    sub.add_argument("--device", help="where kernels run: cpu, cuda, cuda:1 (default: cpu)")

    sub = command("score", _score, "score one model or recipe on a fitness file")
    sub.add_argument(
        "model", metavar="MODEL|RECIPE", help="a folder, hub id, MODEL+ADAPTER or recipe.yaml"
    )
    sub.add_argument(
        "--fitness", metavar="FILE", required=True, help="fitness YAML (see fitness/README.md)"
    )
    sub.add_argument(
        "--split",
        choices=("probe", "search", "select", "report"),
        default="select",
        help="default: %(default)s; keep report for the end",
    )
    sub.add_argument("--device", help="cpu or cuda (default: cuda if there is any)")
    sub.add_argument("--json", action="store_true", help="machine-readable")

    sub = command("methods", _methods, "list the merge methods, or explain one")
    sub.add_argument("name", metavar="NAME", nargs="?")
    sub.add_argument("--json", action="store_true", help="machine-readable")

    sub = command(
        "check",
        _check,
        "check a run.yaml or recipe before anything is started",
        "Opens the models, builds the tasks and reports every problem at once, then what it will cost.",
    )
    sub.add_argument("file", metavar="FILE", help="run.yaml, a run folder, or a recipe")
    return parser


def _placement(sub: argparse.ArgumentParser) -> None:
    place = sub.add_argument_group("placement (never changes the result)")
    place.add_argument(
        "--ray",
        default="local",
        metavar="local|ADDRESS|off",
        help="local: Ray on this machine (default); ADDRESS: a running cluster (auto or host:port); off: one worker in this process",
    )
    place.add_argument(
        "--workers", type=int, metavar="N", help="workers at a time (default: as many as fit)"
    )
    place.add_argument(
        "--num-cpus", type=float, default=1.0, metavar="X", help="CPUs per worker (default: 1)"
    )
    place.add_argument(
        "--num-gpus",
        type=float,
        metavar="X",
        help="GPUs per worker, may be a fraction (default: 1 if there are any)",
    )
    place.add_argument(
        "--device",
        help="device of the workers (default: cuda if there is any, else cpu); keep a run to one kind, "
        "they round differently",
    )
    place.add_argument("--quiet", action="store_true", help="only the table at the end")


# -- searching -----------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> None:
    from evomerge.demo import prepare_run

    arguments.run_dir = str(prepare_run(Path(arguments.run_dir)))
    _search(arguments)


def _resume(arguments: argparse.Namespace) -> None:
    from evomerge.run import Record

    Record(arguments.run_dir)  # refuses if there is nothing
    _search(arguments)


def _search(arguments: argparse.Namespace) -> None:
    from evomerge.display import command_for, show_table
    from evomerge.progress import Display
    from evomerge.run import search

    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"--workers: expected at least 1, found {arguments.workers}")
    if arguments.ray == "off" and arguments.workers not in (None, 1):
        raise InputError(
            f"--workers {arguments.workers}: --ray off has one worker; leave one of them out"
        )
    if arguments.num_cpus <= 0 or (arguments.num_gpus or 0) < 0:
        raise InputError("--num-cpus and --num-gpus: expected numbers above 0")
    if arguments.ray in ("off", "local"):
        _check_device(arguments.device)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # a script's background job inherits it ignored
    display = Display(quiet=arguments.quiet)
    try:
        with display:
            result = search(
                arguments.run_dir, _pool(arguments), listener=display, device=arguments.device
            )
    except KeyboardInterrupt:
        display.stopped(arguments.run_dir)
        raise
    show_table(result.table)
    print(command_for(result))


def _check_device(name: str | None) -> None:
    """Refuse a device that this machine does not have."""
    import torch

    try:
        torch.empty(0, device=name or "cpu")
    except (RuntimeError, AssertionError) as error:  # torch raises either, by build
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: not to be had on this machine: {reason}") from None


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _pool(arguments: argparse.Namespace) -> Any:
    from evomerge.pool.serial import SerialPool

    if arguments.ray == "off":
        return SerialPool

    def make(spec: Any) -> Any:
        from evomerge.pool.ray import RayPool

        return RayPool(
            spec,
            arguments.workers,
            arguments.ray,
            num_cpus=arguments.num_cpus,
            num_gpus=arguments.num_gpus,
        )

    return make


# -- reading a run -------------------------------------------------------------------------------


def _status(arguments: argparse.Namespace) -> None:
    from evomerge.display import show_status, status_of
    from evomerge.run import Record

    status = status_of(Record(arguments.run_dir))
    if arguments.json:
        print(json.dumps(status, indent=2))
    else:
        show_status(status)


def _export(arguments: argparse.Namespace) -> None:
    from evomerge.archive import pareto_front
    from evomerge.run import Record

    record = Record(arguments.run_dir)
    if arguments.pareto:
        front = {e.candidate for e in pareto_front(record.history.merges(), record.objectives)}
        if not front:
            raise InputError(f"{arguments.run_dir}: no merge was scored yet")
        texts = {
            Path(arguments.pareto) / f"candidate-{member:05d}.yaml": _text(
                record.recipe(member), arguments.format
            )
            for member in sorted(front)
        }
        for path in texts:
            _refuse_existing(path, arguments.force)
        for path, text in texts.items():
            _write(path, text, arguments.force)
        return
    candidate: int | None = arguments.candidate
    if candidate is None:
        candidate = record.history.winner
    if candidate is None and record.history.best is not None:
        candidate = record.history.best.candidate
    if candidate is None:
        raise InputError(f"{arguments.run_dir}: no merge was scored yet; see `evomerge status`")
    _put(_text(record.recipe(candidate), arguments.format), arguments)


def _import(arguments: argparse.Namespace) -> None:
    from evomerge.interop import from_mergekit

    if arguments.layers is not None and arguments.layers < 1:
        raise InputError(f"--layers: expected at least 1, found {arguments.layers}")
    _put(from_mergekit(arguments.file, arguments.layers), arguments)


def _put(text: str, arguments: argparse.Namespace) -> None:
    """Write ``text`` to the file asked for, else print it."""
    if arguments.output:
        _write(Path(arguments.output), text, arguments.force)
    else:
        print(text, end="")


def _text(recipe: Any, form: str) -> str:
    if form == "mergekit":
        from evomerge.interop import to_mergekit

        return to_mergekit(recipe)
    return str(recipe.to_yaml())


def _refuse_existing(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"{path}: exists already; choose another name, or replace it with --force")


def _write(path: Path, text: str, force: bool) -> None:
    from evomerge.config import write_text

    _refuse_existing(path, force)
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    print(f"wrote {path}", file=sys.stderr)


# -- models --------------------------------------------------------------------------------------


def _merge(arguments: argparse.Namespace) -> None:
    from evomerge.merging import merge
    from evomerge.progress import progress_bar
    from evomerge.recipe import Recipe

    signal.signal(signal.SIGTERM, _interrupt)
    recipe = Recipe.load(arguments.recipe)
    _check_device(arguments.device)
    if not 0 < arguments.shard_size < float("inf"):
        raise InputError(f"--shard-size: expected a number above 0, found {arguments.shard_size:g}")
    with progress_bar("merging") as advance:
        merge(
            recipe,
            arguments.output,
            force=arguments.force,
            shard_bytes=int(arguments.shard_size * 2**30),
            device=arguments.device or "cpu",
            progress=advance,
        )
    print(arguments.output)


def _score(arguments: argparse.Namespace) -> None:
    from evomerge.display import show_scores
    from evomerge.run.single import score

    _check_device(arguments.device)
    scores = score(arguments.model, arguments.fitness, arguments.split, device=arguments.device)
    if arguments.json:
        print(json.dumps(scores, indent=2))
    else:
        show_scores(scores)


def _methods(arguments: argparse.Namespace) -> None:
    from evomerge import methods
    from evomerge.display import describe, show_method, show_methods

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


def _check(arguments: argparse.Namespace) -> None:
    from evomerge.display import show_lines
    from evomerge.run.check import check

    show_lines(check(arguments.file))


if __name__ == "__main__":
    sys.exit(main())
