"""Where work runs, and how it is stopped. Nothing here can change a result."""

from __future__ import annotations

import argparse
import math
import signal
from typing import Any

from evomerge.errors import InputError, did_you_mean


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of commands that search."""
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
        help="GPUs per worker, may be a fraction; a model is spread over several (default: 1 if there are any)",
    )
    place.add_argument(
        "--resources",
        action="append",
        default=[],
        metavar="NAME=AMOUNT",
        help="what else a worker needs of a node, as the nodes were started with; `memory` is in bytes; may be given "
        "several times",
    )
    place.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="where workers may run, by the nodes' labels: VALUE, !VALUE, in(A,B) or !in(A,B); may be given several times",
    )
    place.add_argument(
        "--runtime-env",
        metavar="FILE.yaml",
        help="the workers' runtime environment, as Ray takes it: env_vars, pip, working_dir, ...",
    )
    place.add_argument(
        "--job-limit",
        metavar="SECONDS|off",
        help="how long a job may tell nothing before its worker is killed and replaced; off: for ever "
        "(default: learned from the jobs before, an hour at least)",
    )
    place.add_argument(
        "--device",
        help="device of the workers (default: cuda if there is any, else cpu); keep a run to one kind, "
        "they round differently",
    )
    place.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="NAME[:KEY=VALUE,...]",
        help="show the search in a tracker, too: tensorboard, wandb, mlflow, trackio, ray (its metrics); may be given several times",
    )
    place.add_argument("--quiet", action="store_true", help="only the table at the end")


def trackers_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The trackers that run.yaml and ``--track`` name, made; options of the flag come first.

    Raises:
        InputError: one is unknown, has no such option, or its package is not installed.
    """
    from evomerge.run.spec import load_run
    from evomerge.trackers import make

    spec = load_run(arguments.run_dir)
    wanted = {name: dict(options) for name, options in spec.trackers.items()}
    for text in arguments.track:
        name, colon, rest = text.partition(":")
        options = dict[str, str]()
        for part in rest.split(",") if colon else ():
            key, equals, value = part.partition("=")
            if not (key and equals):
                raise InputError(f"--track {text}: expected NAME[:KEY=VALUE,...], found {part!r}")
            options[key] = value
        wanted[name] = {**wanted.get(name, {}), **options}
    return {name: make(name, spec.folder, options) for name, options in wanted.items()}


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse placements that make no sense here."""
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"--workers: expected at least 1, found {arguments.workers}")
    from evomerge.pool.ray.knocking import place_of

    words = ("local", "auto", "off")
    if arguments.ray not in words and "://" not in arguments.ray and not place_of(arguments.ray):
        hint = did_you_mean(arguments.ray, words)
        raise InputError(f"--ray {arguments.ray}{hint}: expected local, auto, off or HOST:PORT")
    if arguments.ray == "off" and arguments.workers not in (None, 1):
        raise InputError(
            f"--workers {arguments.workers}: --ray off has one worker; leave one of them out"
        )
    if arguments.num_cpus <= 0 or (arguments.num_gpus or 0) < 0:
        raise InputError("--num-cpus and --num-gpus: expected numbers above 0")
    gpus_of(arguments)
    asked = placed(arguments)
    if arguments.ray == "off" and any(value is not None for value in asked.values()):
        raise InputError(
            "--resources, --labels, --runtime-env and --job-limit: are of Ray's workers, and --ray off has none; "
            "leave them out"
        )
    if arguments.ray in ("off", "local"):
        check_device(arguments.device)
        check_gpus(arguments)


def gpus_of(arguments: argparse.Namespace) -> int:
    """How many GPUs a worker spreads a model over.

    Raises:
        InputError: it cannot, there or so.
    """
    asked, device = arguments.num_gpus, arguments.device
    if asked is None or asked <= 1:
        return 1
    if asked % 1:
        raise InputError(
            f"--num-gpus {asked:g}: expected a fraction below 1, several workers a GPU, or a whole number"
        )
    if device not in (None, "cuda"):
        raise InputError(
            f"--num-gpus {asked:g}: a model over several GPUs, but --device is {device}; leave one of them out"
        )
    return int(asked)


def check_gpus(arguments: argparse.Namespace) -> None:
    """Refuse to spread a model over more GPUs than this machine has."""
    import torch

    asked, found = gpus_of(arguments), torch.cuda.device_count()
    if asked > max(1, found):
        there = f"{found} GPU{'' if found == 1 else 's'}" if found else "no GPU"
        raise InputError(
            f"--num-gpus {asked}: a worker cannot have so many GPUs: this machine has {there}; give at most that many, "
            "or leave it out"
        )


def stop_on_signals() -> None:
    """Let SIGTERM and SIGINT end a command as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a script's background job inherits it ignored
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def check_device(name: str | None) -> None:
    """Refuse a device that this machine does not have."""
    import torch

    try:
        torch.device(name or "cpu")
    except RuntimeError:
        raise InputError(f"--device {name}: no such device; expected cpu, cuda or cuda:1") from None
    try:
        torch.empty(0, device=name or "cpu")
    except (RuntimeError, AssertionError) as error:  # torch raises either, by build
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: not to be had on this machine: {reason}") from None


def pool_of(arguments: argparse.Namespace) -> Any:
    """What makes the pool that the options ask for."""
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
            **placed(arguments),
        )

    return make


def placed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where Ray's workers may run, and how; None where nothing was said.

    Raises:
        InputError: an option does not say what it should.
    """
    resources = _pairs("--resources", arguments.resources)
    return {
        "resources": {name: _amount(name, text) for name, text in resources.items()} or None,
        "labels": _pairs("--labels", arguments.labels) or None,
        "runtime_env": arguments.runtime_env and _environment(arguments.runtime_env),
        "job_limit": _seconds(arguments.job_limit),
    }


def _environment(path: str) -> dict[str, Any]:
    """What a file says of the workers' runtime environment; Ray checks what is in it."""
    from evomerge.config import read

    found = read(path).plain
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a mapping, as in `env_vars: {{NAME: VALUE}}`")
    return found


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    """What was given as ``NAME=VALUE``."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InputError(f"{option} {text}: expected NAME=VALUE")
        found[name] = value
    return found


def _amount(name: str, text: str) -> float:
    if name in ("CPU", "GPU"):
        raise InputError(f"--resources {name}={text}: say it with --num-{name.lower()}s {text}")
    return _above_0(f"--resources {name}=", text)


def _seconds(text: str | None) -> float | None:
    """A limit in seconds; infinity if it is off."""
    if text is None:
        return None
    return math.inf if text in ("off", "0") else _above_0("--job-limit ", text)


def _above_0(option: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InputError(f"{option}{text}: expected a number above 0")
    return number
