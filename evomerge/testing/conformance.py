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
from evomerge.lines import Lines, auto_alpha, line_factor
from evomerge.methods import Inputs, Method, merge_states, merge_tensors
from evomerge.skeleton import usual
from evomerge.tensors import Place
from evomerge.testing.originals import ORIGINALS
from evomerge.testing.sparsify import sparsify

Status = Literal["passed", "failed", "not implemented", "skipped"]
STATUSES: tuple[Status, ...] = ("passed", "failed", "not implemented", "skipped")

DRAWS = 500  # of a random method, where a case states the statistics of many
BELONGINGS = re.compile(r"(mask|drop-mask|fisher|gram|left|right)-(\d+)")  # data of one model
LINES = {  # what a case of LiNeS scales -> the method that merges so
    "sum of deltas": "task_arithmetic",
    "elementwise max-magnitude delta (later model wins ties)": "magmax",
}
ROLES = {"embedding": "embed", "lm_head": "head", "linear": "mlp", "vector": "norm"}

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checked:
    """What became of one case; ``detail`` says why, where it did not pass."""

    method: str
    case: str
    status: Status
    detail: str = ""


class _NotImplemented(Exception):
    """The case needs something no method here has."""


def run(folder: Path, only: str | None = None) -> Iterator[Checked]:
    """Run the cases of ``folder``, or those of one method, in manifest order.

    Raises:
        InputError: ``folder`` does not hold vectors, or has none of that method.
    """
    for case in _read_manifest(folder, only):
        yield Checked(case["method"], case["case"], *_run_case(folder, case))


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
        if case["method"] == "lines":
            problem = _compare_lines(case, _read_tensors(folder / case["file"], case["case"]))
            return ("failed", problem) if problem else ("passed", "")
        if case["method"] == "sparsify":
            problem = _compare_sparsified(case, _read_tensors(folder / case["file"], case["case"]))
            return ("failed", problem) if problem else ("passed", "")
        method, parameters = _translate(case)
        tensors = _read_tensors(folder / case["file"], case["case"])
        parameters |= _values_given_as_tensors(tensors)
        _make_models_of_deltas(tensors)
        _require_inputs(method, tensors)
        problem = ""
        if case["method"] == "cabs":
            problem = _compare_sparse(case, tensors, method, parameters)
        if not problem and (case["method"] != "cabs" or "expected" in tensors):
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
    if name in ORIGINALS:
        name, parameters = ORIGINALS[name](parameters, case)
    if name in WORDS:
        parameters = WORDS[name](parameters, case)
    if case["parameters"].get("use_ties"):
        name = "consensus_ties"
    if name not in methods.names():
        raise _NotImplemented("no such method")
    method = methods.get(name)
    if parameters.get("normalize") and "signed" in _choices(method, "normalize"):
        parameters["normalize"] = "signed"  # as mergekit divides
    if unknown := parameters.keys() - {parameter.name for parameter in method.parameters}:
        raise _NotImplemented(f"no parameter {', '.join(sorted(unknown))}")
    return method, parameters


def _choices(method: Method, name: str) -> tuple[Any, ...]:
    """The named choices of a parameter; none if it has no choices."""
    domains = [p.domain for p in method.parameters if p.name == name]
    return tuple(getattr(domains[0], "options", ())) if domains else ()


def _spectral_parameters(original: dict[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of ``iso_c``, ``iso_cts`` and ``tsvm``."""
    if original.pop("sv_reduction", reduction := f"1/{case['n_models']}") != reduction:
        raise _NotImplemented("keeps as many triples as fit")
    original["lambda"] = original.pop("scaling_coef")
    # a sum without some directions, which the authors' code strengthens like the others
    original["rank"] = "full" if case["compare"] == "singular-values" else "numerical"
    return original


def _ties_parameters(original: dict[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    """The TIES authors' parameters as those of ``ties_original``."""
    threshold = original["reset_thresh"]
    return {
        "density": threshold / 100 if threshold > 1 else threshold,
        "resolve": original["resolve_method"],
        "aggregate": original["merge_func"].removeprefix("dis-"),
        "lambda": original["lamda"],
    }


def _opcm_parameters(original: dict[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    if original["shuffle_order"]:
        raise _NotImplemented("takes no random order")
    return {"alpha": original["alpha"]}


def _compeft_parameters(original: dict[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    share, factor = original["k"], original["replace_factor"]
    coded = {-1: "kept", -2: "signed_mean"}
    return {
        "density": share / 100 if share > 1 else share,
        "weight": 1 if factor in coded else factor,
        "magnitude": coded.get(factor, "std"),
    }


def _cabs_parameters(original: dict[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"tail": "dropped", "pruning_method": "n:m"}
    if case["variant"] == "original-7b":
        parameters["overlap"] = "half"
    if original["pruning_method"] == "magnitude":
        parameters |= {"pruning_method": "magnitude", "density": 1 - original["sparsity_level"]}
    else:
        parameters |= {"density": original["n"] / original["m"], "m": original["m"]}
    if "lamb" in original:
        parameters["weight"] = original["lamb"]
    if order := original.get("order"):
        parameters["order"] = [order.index(model) for model in range(len(order))]
    return parameters


def _magmax_parameters(original: dict[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    return {"lambda": original["scaling_coef"]}


def _consensus_parameters(original: dict[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of ``consensus_ta`` and ``consensus_ties``."""
    percent = 20 if original["use_ties"] else original["k"]
    return {
        "density": percent / 100 if percent > 1 else percent,
        "mask_lambda": original["tall_mask_lambda"],
        "k": original["prun_thre_k"],
        "lambda": original["scaling_coef"],
        "scope": "model",
    }


def _pcb_parameters(original: dict[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    if case["variant"] == "original":
        return {"ratio": original["pcb_ratio"], "lambda": original["lamda"]}
    return {
        "ratio": original["att_ratio"],
        "weight": original["lams"],
        "clamp": original["clamp_ratio"],
        "rivals": "normalized",
    }


WORDS = {  # method -> its parameters in a case, as ours
    "iso_c": _spectral_parameters,
    "iso_cts": _spectral_parameters,
    "tsvm": _spectral_parameters,
    "opcm": _opcm_parameters,
    "cabs": _cabs_parameters,
    "compeft": _compeft_parameters,
    "ties_original": _ties_parameters,
    "magmax": _magmax_parameters,
    "consensus_ta": _consensus_parameters,
    "pcb": _pcb_parameters,
}


def _read_tensors(path: Path, case: str) -> Tensors:
    with safe_open(path, framework="pt") as file:
        return {
            key.removeprefix(f"{case}/"): file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118 (not a dict)
            if key.startswith(f"{case}/")
        }


def _values_given_as_tensors(tensors: Tensors) -> dict[str, Any]:
    """Parameters that a case gives among its tensors, which lose them."""
    values: dict[str, Any] = {}
    if (losses := tensors.pop("losses", None)) is not None:
        values["loss"] = losses.tolist()
    if (logits := tensors.pop("router-logits", None)) is not None:
        values["weight"] = logits.double().softmax(0).tolist()
    return values


def _make_models_of_deltas(tensors: Tensors) -> None:
    """``delta``, or ``delta-0``, ``delta-1``, ..., become models of a base of zeros."""
    for name in [name for name in tensors if re.fullmatch(r"delta(-\d+)?", name)]:
        delta = tensors.pop(name)
        tensors[f"model{name.removeprefix('delta') or '-0'}"] = delta
        tensors["base"] = torch.zeros_like(delta)


def _require_inputs(method: Method, tensors: Tensors) -> None:
    """Refuse a case that gives data the method does not take."""
    for name in tensors:
        head = name.split("/")[0]
        owned = BELONGINGS.fullmatch(head)
        needed = owned[1].replace("drop-mask", "mask").replace("mask", "noise") if owned else head
        if head.startswith(("model-", "expected")) or head == "base":
            continue
        if needed in ("left", "right") and method.of_adapters:
            continue
        if needed not in method.inputs and not (needed == "noise" and "operands" in method.inputs):
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
        base = tensors.get(f"base{suffix}")
        if problem := _difference(case, out, tensors[f"expected{suffix}"].float(), base, suffix):
            return problem
    return ""


def _difference(
    case: dict[str, Any],
    out: Tensor,
    expected: Tensor,
    base: Tensor | None = None,
    suffix: str = "",
) -> str:
    """How a result differs from what a case expects; empty if it does not."""
    compare = case["compare"]
    if out.shape != expected.shape:
        return f"{suffix} has shape {list(out.shape)}, expected {list(expected.shape)}"
    if compare == "tie-multiset":
        out, expected = (x.abs().flatten().sort().values for x in (out, expected))
    elif compare == "singular-values" and base is not None:
        out, expected = (torch.linalg.svdvals(x - base.float()) for x in (out, expected))
    elif compare != "allclose":
        raise _NotImplemented(f"comparison {compare!r}")
    excess = (out - expected).abs() - (case["atol"] + case["rtol"] * expected.abs())
    if not (excess <= 0).all():
        worst = float((out - expected).abs().max())
        return f"{suffix or 'the result'} is off by {worst:.3g}".lstrip("/")
    return ""


def _compare_sparsified(case: dict[str, Any], tensors: Tensors) -> str:
    """What is wrong with one delta made sparse; empty if nothing."""
    parameters, mask = dict(case["parameters"]), tensors.get("mask-0")
    out = sparsify(
        tensors["delta"],
        parameters.pop("method"),
        norm=parameters.pop("rescale_norm"),
        noise=None if mask is None else 1 - mask.float(),
        **parameters,
    )
    return _difference(case, out, tensors["expected"].float())


def _compare_lines(case: dict[str, Any], tensors: Tensors) -> str:
    """What is wrong with a merge scaled by depth; empty if nothing."""
    parameters = case["parameters"]
    name = LINES.get(parameters["merge"], "")
    if name not in methods.names():
        raise _NotImplemented(f"no method for {parameters['merge']!r}")
    states: dict[str, Tensors] = {}
    for key, tensor in tensors.items():
        model, _, parameter = key.partition("/")
        states.setdefault(model, {})[parameter] = tensor
    base, expected = states.pop("base"), states.pop("expected")
    expected_alpha = states.pop("expected-alpha", None)

    def merge(name: str, parameter: str, scale: float = 1.0) -> Tensor:
        method = methods.get(name)
        inputs = Inputs(
            models={model: state[parameter] for model, state in states.items()},
            values=method.check({}, tuple(states)),
            base=base[parameter],
            name=parameter,
        )
        return method.run(inputs, scale=scale)[0]

    def length(name: str) -> float:
        return sum(float((merge(name, p) - base[p]).double().abs().sum()) for p in base)

    alpha = parameters["alpha"]
    if isinstance(alpha, str):
        alpha = auto_alpha(length("task_arithmetic"), length(name), len(states))
    if expected_alpha is not None:
        wanted = float(expected_alpha[""])
        if abs(alpha - wanted) > case["rtol"] * abs(wanted):
            return f"alpha is {alpha:.6g}, expected {wanted:.6g}"
    line = Lines(alpha, parameters["beta"], head="shallow")  # as the authors' code
    places = usual(parameters["num_blocks"]).places
    for parameter, tensor in expected.items():
        factor = line_factor(line, places[parameter])
        error = (merge(name, parameter, factor) - tensor).abs()
        if not (error <= case["atol"] + case["rtol"] * tensor.abs()).all():
            return f"{parameter} is off by {float(error.max()):.3g}"
    return ""


def _compare_sparse(
    case: dict[str, Any], tensors: Tensors, method: Method, parameters: Mapping[str, Any]
) -> str:
    """What is wrong with the sparse deltas of a case, which weights of 1 and 0 single out."""
    for name, expected in tensors.items():
        if not (match := re.fullmatch(r"expected-sparse-(\d+)", name)):
            continue
        models = sum(key.startswith("model-") for key in tensors)
        alone = {**parameters, "weight": [float(i == int(match[1])) for i in range(models)]}
        out = _merge(case, tensors, method, alone) - tensors["base"].float()
        if problem := _difference(case, out, expected.float()):
            return f"{name.removeprefix('expected-')}: {problem}"
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
    if suffix and method.surveys:
        return _merge_whole(case, tensors, method, parameters)[suffix.removeprefix("/")]
    names = [name for name in tensors if re.fullmatch(rf"model-\d+{re.escape(suffix)}", name)]
    models = {f"model-{i}": tensors[f"model-{i}{suffix}"] for i in range(len(names))}
    owned: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(rf"{BELONGINGS.pattern}{re.escape(suffix)}", name):
            owned.setdefault(match[1], {})[f"model-{match[2]}"] = tensor.float()
    left, right = owned.pop("left", {}), owned.pop("right", {})
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
        factors={model: (left[model], right[model]) for model in left} or None,
    )


def _merge_whole(
    case: dict[str, Any], tensors: Tensors, method: Method, parameters: Mapping[str, Any]
) -> Tensors:
    """Merge the models whose tensors are named ``base/<tensor>``, ``model-0/<tensor>``, ..."""
    states: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        owner, _, parameter = name.partition("/")
        if parameter and not owner.startswith("expected"):
            states.setdefault(owner, {})[parameter] = tensor
    base = states.pop("base", None)
    stats: dict[str, dict[str, Tensors]] = {}
    for owner, state in states.items():
        if (match := BELONGINGS.fullmatch(owner)) and match[1] in method.statistics:
            for parameter, tensor in state.items():
                named = stats.setdefault(parameter, {}).setdefault(match[1], {})
                named[f"model-{match[2]}"] = tensor
    places = {}
    if linear := case["parameters"].get("linear_weights"):  # only these are projected
        places = {name: Place(None, "mlp" if name in linear else "embed") for name in base or ()}
    return merge_states(
        method,
        {f"model-{i}": states[f"model-{i}"] for i in range(case["n_models"])},
        base=base,
        parameters=parameters,
        stats=stats,
        places=places,
    )


def count(outcomes: Sequence[Checked]) -> dict[str, Counter[str]]:
    """Method -> status -> number of cases."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.method, Counter(dict.fromkeys(STATUSES, 0)))[outcome.status] += 1
    return counts


def table(outcomes: Sequence[Checked]) -> str:
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
