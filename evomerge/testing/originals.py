"""The words of the authors' own code for the trimming methods, as those of methods here.

Each function takes a case's parameters and the case, and returns the method that runs it and the
parameters in its words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Words = tuple[str, dict[str, Any]]


def _dare(original: dict[str, Any], case: Mapping[str, Any]) -> Words:
    average = original["mask_apply_method"] == "average_merging"
    weight = 1 / case["n_models"] if average else original["scaling_coefficient"]
    rates, rescale = original["weight_mask_rates"], original["use_weight_rescale"]
    if original.get("mask_strategy", "random") == "random":
        density = [1 - rate for rate in rates]
        rule = "density" if rescale else False
        return "dare_linear", {"weight": weight, "density": density, "rescale": rule}
    size = math.prod(case["shape"])
    return "breadcrumbs", {
        "weight": [weight / (1 - rate) if rescale and rate < 1 else weight for rate in rates],
        "density": [_share(size - int(rate * size), size) for rate in rates],
        "gamma": 0,
    }


def _breadcrumbs(original: dict[str, Any], case: Mapping[str, Any]) -> Words:
    length = case["shape"][-1]
    keep, top = (int(original[f"top_k_{what}"] * length) for what in ("keep", "remove"))
    rest = min(keep, length - top) if original["remove_first"] else max(keep - top, 0)
    return "breadcrumbs", {
        "weight": original["scaling_coef"],
        "density": _share(rest, length),
        "gamma": _share(top, length),
        "scope": "row",
    }


def _della(original: dict[str, Any], case: Mapping[str, Any]) -> Words:
    if original["function"] == "magnitude_row_wise":
        density = original["density"]
        return "breadcrumbs", {"density": density, "gamma": 0, "scope": "row"}
    by = {
        "rank_magnitude": "row",
        "rank_magnitude_layer": "tensor",
        "magnitude_sample": "magnitude",
    }
    return "della_linear", {
        "density": original["density"],
        "epsilon": original["epsilon"],
        "by": by[original["function"]],
        "rescale": "probability" if original["rescale"] else False,
    }


def _sce(original: dict[str, Any], case: Mapping[str, Any]) -> Words:
    return "sce", original | {"guard": "absolute"}


def _sce_of_its_authors(original: dict[str, Any], case: Mapping[str, Any]) -> Words:
    return "sce", original | {"fuse": "all"}


def _model_stock(original: dict[str, Any], case: Mapping[str, Any]) -> Words:
    return "model_stock", original | {"clip": False, "guard": "absolute"}


def _fisher(original: dict[str, Any], case: Mapping[str, Any]) -> Words:
    """The four flavours of Fisher merging: see ``fisher``."""
    parameters: dict[str, Any] = {"guard": "absolute", "flooring": "add"}
    if case["variant"] == "mergelm":
        weight, norm = original["fisher_scaling_coefficients"], original["normalize_fisher_weight"]
        parameters |= {"normalize": "model" if norm else False}
        parameters |= {"floor": original["minimal_fisher_weight"]}
    elif case["variant"] == "original":
        weight = original["coefficients"]
        parameters |= {"normalize": "model" if original["normalize_fishers"] else False}
        parameters |= {"flooring": "clamp_first" if original["favor_target_model"] else "clamp"}
        parameters |= {"floor": original["fisher_floor"]}
    elif case["variant"] == "regmean-repo":
        weight, norm = original["model_coeffs"], original["fisher_normalize"]
        parameters |= {"normalize": {"param": "tensor", None: False}.get(norm, norm)}
        parameters |= {"floor": original["fisher_smooth"]}
    else:
        share = original["model_lambda"]
        weight = [share, 1 - share] if case["n_models"] == 2 else None
        parameters |= {"normalize": False, "flooring": "clamp", "floor": original["floor"]}
    return "fisher", parameters | ({} if weight is None else {"weight": weight})


def _share(count: int, size: int) -> float:
    """A fraction of ``size`` that is cut down to ``count``, in spite of rounding."""
    return min((count + 0.5) / size, 1.0)


ORIGINALS: dict[str, Callable[[dict[str, Any], Mapping[str, Any]], Words]] = {
    "dare_original": _dare,
    "breadcrumbs_original": _breadcrumbs,
    "della_original": _della,
    "sce": _sce,
    "sce_original": _sce_of_its_authors,
    "model_stock": _model_stock,
    "fisher": _fisher,
}
