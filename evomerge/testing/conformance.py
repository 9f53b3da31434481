"""Conformance vectors: what published implementations compute, against what evomerge computes.

    python -m evomerge.testing.conformance DIR [--method NAME] [--json]

``DIR`` holds ``manifest.json`` and one safetensors file per method, whose tensors are named
``<case>/<tensor>``. Every case goes through ``merge_tensors``. Prints per method how many cases
passed, failed, are not implemented or were skipped. Exit status: 0 none failed; 1 some did; 2 DIR
or an option is wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge import methods
from evomerge.errors import InputError, did_you_mean
from evomerge.methods import Method, merge_tensors

Status = Literal["passed", "failed", "not implemented", "skipped"]
STATUSES: tuple[Status, ...] = ("passed", "failed", "not implemented", "skipped")

DRAWS = 1000  # of a random method, where a case states the statistics of many
BELONGINGS = re.compile(r"(mask|drop-mask|fisher|gram)-(\d+)")  # data of one model
ROLES = {"embedding": "embed", "lm_head": "head", "linear": "mlp", "vector": "norm"}

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """What became of one case; ``detail`` says why, where it did not pass."""

    method: str
    case: str
    status: Status
    detail: str = ""


class _NotImplemented(Exception):
    """The case needs something no method here has."""


def run(folder: Path, only: str | None = None) -> Iterator[Outcome]:
    """Run the cases of ``folder``, or those of one method, in manifest order.

    Raises:
        InputError: ``folder`` does not hold vectors, or has none of that method.
    """
    for case in _read_manifest(folder, only):
        yield Outcome(case["method"], case["case"], *_run_case(folder, case))


def _read_manifest(folder: Path, only: str | None) -> list[dict[str, Any]]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        cases = [case for case in manifest["cases"] if case["method"] and case["case"]]
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: {reason}; expected a folder of conformance vectors") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a manifest of conformance vectors: {type(error).__name__}: {error}"
        ) from None
    if missing := sorted({c["file"] for c in cases if not (folder / c["file"]).is_file()}):
        raise InputError(f"{folder}: the manifest names {', '.join(missing)}, which is not there")
    named = sorted({case["method"] for case in cases})
    if only is not None and only not in named:
        hint = did_you_mean(only, named)
        raise InputError(f"{path}: has no cases of method {only!r}{hint}")
    return [case for case in cases if only in (None, case["method"])]


def _run_case(folder: Path, case: dict[str, Any]) -> tuple[Status, str]:
    if case.get("compare") == "quirk":
        return "skipped", "shows a reference oddity"
    try:
        method, parameters = _translate(case)
        tensors = _read_tensors(folder / case["file"], case["case"])
        _require_inputs(method, tensors)
        problem = _compare(case, tensors, method, parameters)
    except _NotImplemented as reason:
        return "not implemented", str(reason)
    except (InputError, SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        return "failed", f"{type(error).__name__}: {error}"
    return ("failed", problem) if problem else ("passed", "")


def _translate(case: dict[str, Any]) -> tuple[Method, dict[str, Any]]:
    """The method that runs a case, and the case's parameters in its words."""
    name, parameters = case["method"], dict(case["parameters"])
    for key in ("n_draws", "role"):
        parameters.pop(key, None)
    if name == "dare_original":
        name, parameters = "dare_linear", _dare_parameters(parameters, case["n_models"])
    if name not in methods.names():
        raise _NotImplemented("no such method")
    method = methods.get(name)
    if unknown := parameters.keys() - {parameter.name for parameter in method.parameters}:
        raise _NotImplemented(f"no parameter {', '.join(sorted(unknown))}")
    return method, parameters


def _dare_parameters(original: Mapping[str, Any], models: int) -> dict[str, Any]:
    """The DARE authors' parameters as those of ``dare_linear``."""
    if original.get("mask_strategy", "random") != "random":
        raise _NotImplemented("drops at random only")
    average = original["mask_apply_method"] == "average_merging"
    return {
        "weight": 1 / models if average else original["scaling_coefficient"],
        "density": [1 - rate for rate in original["weight_mask_rates"]],
        "rescale": "density" if original["use_weight_rescale"] else False,
    }


def _read_tensors(path: Path, case: str) -> Tensors:
    with safe_open(path, framework="pt") as file:
        return {
            key.removeprefix(f"{case}/"): file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118 (not a dict)
            if key.startswith(f"{case}/")
        }


def _require_inputs(method: Method, tensors: Tensors) -> None:
    """Refuse a case that gives data the method does not take."""
    for name in tensors:
        head = name.split("/")[0]
        owned = BELONGINGS.fullmatch(head)
        needed = owned[1].replace("drop-mask", "mask").replace("mask", "noise") if owned else head
        if head.startswith(("model-", "expected")) or head == "base":
            continue
        if needed not in method.inputs:
            raise _NotImplemented(f"takes no {head}")


def _compare(
    case: dict[str, Any], tensors: Tensors, method: Method, parameters: Mapping[str, Any]
) -> str:
    """What is wrong with the result of a case; empty if nothing."""
    compare = case["compare"]
    if compare == "statistics":
        return _compare_statistics(case, tensors, method, parameters)
    suffixes = [name.removeprefix("expected") for name in tensors if _is_result(name)]
    if not suffixes:
        raise _NotImplemented("the case expects no merged tensor")
    for suffix in suffixes:
        out = _merge(case, tensors, method, parameters, suffix)
        expected = tensors[f"expected{suffix}"].float()
        if out.shape != expected.shape:
            return f"{suffix} has shape {list(out.shape)}, expected {list(expected.shape)}"
        if compare == "tie-multiset":
            out, expected = (x.abs().flatten().sort().values for x in (out, expected))
        elif compare == "singular-values":
            base = tensors[f"base{suffix}"].float()
            out, expected = (torch.linalg.svdvals(x - base) for x in (out, expected))
        elif compare != "allclose":
            raise _NotImplemented(f"comparison {compare!r}")
        excess = (out - expected).abs() - (case["atol"] + case["rtol"] * expected.abs())
        if not (excess <= 0).all():
            worst = float((out - expected).abs().max())
            return f"{suffix or 'the result'} is off by {worst:.3g}".lstrip("/")
    return ""


def _is_result(name: str) -> bool:
    """``expected`` or ``expected/<tensor>``; other expectations are steps on the way."""
    return name == "expected" or name.startswith("expected/")


def _compare_statistics(
    case: dict[str, Any], tensors: Tensors, method: Method, parameters: Mapping[str, Any]
) -> str:
    """Mean and spread over many draws, entry by entry."""
    draws = torch.stack(
        [_merge(case, tensors, method, parameters, seed=seed) for seed in range(DRAWS)]
    ).double()
    mean, std = (tensors[f"expected-{what}"].double() for what in ("mean", "std"))
    rounding = 1e-6 + 1e-5 * mean.abs()
    error = 5 * std * (1 / DRAWS + 1 / case["parameters"]["n_draws"]) ** 0.5 + rounding
    if not ((draws.mean(0) - mean).abs() <= error).all():
        worst = float(((draws.mean(0) - mean).abs() / error).max())
        return f"the mean of {DRAWS} draws is off by {5 * worst:.1f} standard errors"
    if not ((draws.std(0) - std).abs() <= 0.2 * std + rounding).all():
        return f"the standard deviation of {DRAWS} draws is off by more than 20 %"
    return ""


def _merge(
    case: dict[str, Any],
    tensors: Tensors,
    method: Method,
    parameters: Mapping[str, Any],
    suffix: str = "",
    seed: int = 0,
) -> Tensor:
    """Merge the tensors named ``base<suffix>``, ``model-0<suffix>``, ..."""
    names = [name for name in tensors if re.fullmatch(rf"model-\d+{re.escape(suffix)}", name)]
    models = {f"model-{i}": tensors[f"model-{i}{suffix}"] for i in range(len(names))}
    owned: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(rf"{BELONGINGS.pattern}{re.escape(suffix)}", name):
            owned.setdefault(match[1], {})[f"model-{match[2]}"] = tensor.float()
    dropped = owned.pop("drop-mask", None)
    if kept := owned.pop("mask", None):
        dropped = {model: 1 - mask for model, mask in kept.items()}
    return merge_tensors(
        method,
        models,
        base=None if method.base == "none" else tensors.get(f"base{suffix}"),
        parameters=parameters,
        stats=owned,
        seed=seed,
        name=suffix.removeprefix("/"),
        role=ROLES.get(case["parameters"].get("role", "")),
        noise=dropped,  # a uniform of 0 is below every density, one of 1 below none
    )


def count(outcomes: Sequence[Outcome]) -> dict[str, Counter[str]]:
    """Method -> status -> number of cases."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.method, Counter(dict.fromkeys(STATUSES, 0)))[outcome.status] += 1
    return counts


def table(outcomes: Sequence[Outcome]) -> str:
    """Counts per method, then every failure with its reason."""
    counts = count(outcomes)
    total = sum(counts.values(), Counter())
    width = max(map(len, [*counts, "method"]))
    lines = ["  ".join([f"{'method':{width}}", *STATUSES])]
    for name, row in [*counts.items(), ("total", total)]:
        cells = (f"{row[status] or '-':>{len(status)}}" for status in STATUSES)
        lines.append("  ".join([f"{name:{width}}", *cells]))
    failures = [outcome for outcome in outcomes if outcome.status == "failed"]
    return "\n".join(lines + [f"failed: {o.method} {o.case}: {o.detail}" for o in failures])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m evomerge.testing.conformance",
        description="Compare the merge methods with what published implementations compute.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with manifest.json")
    parser.add_argument("--method", metavar="NAME", help="run the cases of this method only")
    parser.add_argument(
        "--json", action="store_true", help="print counts and cases as one JSON document"
    )
    options = parser.parse_args(arguments)
    try:
        outcomes = list(run(options.folder, options.method))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        cases = [asdict(outcome) for outcome in outcomes]
        print(json.dumps({"methods": count(outcomes), "cases": cases}, indent=1))
    else:
        print(table(outcomes))
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
