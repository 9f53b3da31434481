from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from evomerge import methods
from evomerge.errors import NotMeasured
from evomerge.methods import Inputs, merge_method, merge_tensors, optional, required
from evomerge.params import Parameter, PerModel, Real, Shared

pytestmark = pytest.mark.usefixtures("registry")

PAPER = "https://example.org"
SCALE = Shared(Real(0, 2, default=1))
SHARE = PerModel(Real(0, 1, default=0.5))


def test_everything_is_read_from_the_kernel() -> None:
    def blend(
        deltas: Tensor,
        role: str,
        share: Annotated[Tensor, SHARE],
        lambda_: Annotated[float, SCALE],
    ) -> Tensor:
        """Blend the deltas.

        And more.

        Args:
            deltas: sources minus base.
            share: how much of a model
                is taken: all of it at 1.
            lambda_: scale.

        Returns:
            The merged delta.
        """
        return (deltas * share[:, None]).sum(0).float() * lambda_

    same = merge_method(base="required", paper=PAPER, min_models=2)(blend)
    assert same is blend
    method = methods.get("blend")
    assert method.kernel is blend
    assert method.parameters == (
        Parameter("share", SHARE, "how much of a model is taken: all of it at 1."),
        Parameter("lambda", SCALE, "scale."),
    )
    assert method.inputs == {"deltas", "role"}
    assert method.summary == "Blend the deltas."
    assert (method.base, method.min_models) == ("required", 2)
    models = {"a": torch.ones(3), "b": torch.full((3,), 2.0)}
    out = merge_tensors(
        "blend", models, base=torch.ones(3), parameters={"share": [1, 0.25], "lambda": 2}
    )
    assert out.tolist() == [1.5, 1.5, 1.5]


def test_a_method_informed_by_data_takes_statistics_by_name() -> None:
    @merge_method(base="none", paper=PAPER, name="precise", statistics={"fisher": optional})
    def by_fisher(tensors: Tensor, fisher: Tensor | None) -> Tensor:
        """Average by precision."""
        return tensors.mean(0) if fisher is None else (fisher * tensors).sum(0) / fisher.sum(0)

    models = {"a": torch.zeros(2), "b": torch.ones(2)}
    assert merge_tensors("precise", models).tolist() == [0.5, 0.5]
    fisher = {"b": torch.tensor([3, 1]), "a": torch.tensor([1, 3])}
    assert merge_tensors("precise", models, stats={"fisher": fisher}).tolist() == [0.75, 0.25]


def test_a_kernel_never_runs_without_what_it_requires() -> None:
    ran = []

    @merge_method(base="none", paper=PAPER, name="careful", statistics={"fisher": required})
    def by_fisher(tensors: Tensor, fisher: Tensor | None) -> Tensor:
        """Average by precision."""
        ran.append(fisher)
        return tensors.mean(0)

    method, models = methods.get("careful"), {"a": torch.zeros(2), "b": torch.ones(2)}
    assert (method.statistics, method.required) == ({"fisher": "required"}, ("fisher",))
    refused = (
        r"careful requires the statistic 'fisher', and there is none of b; `evomerge measure MODEL"
    )
    with pytest.raises(NotMeasured, match=refused):
        method.run(Inputs(models, {}, stats={"fisher": {"a": torch.ones(2)}}))
    with pytest.raises(NotMeasured, match="none of a, b"):
        merge_tensors("careful", models)
    assert ran == []
    assert merge_tensors("careful", models, stats={"fisher": None}).tolist() == [0.5, 0.5]
    assert ran == [None], "a tensor that has no such statistic"


def test_a_declaration_names_its_statistics() -> None:
    def by_gram(tensors: Tensor, gram: Tensor) -> Tensor:
        """Average."""
        return tensors.mean(0)

    with pytest.raises(TypeError, match=r"argument 'gram'.*or a statistic that the declaration"):
        merge_method(base="none", paper=PAPER)(by_gram)
    with pytest.raises(TypeError, match="takes no argument for the statistic 'fisher'"):
        merge_method(base="none", paper=PAPER, statistics={"gram": required, "fisher": optional})(
            by_gram
        )
    with pytest.raises(TypeError, match="statistic 'gram' is one of"):
        merge_method(base="none", paper=PAPER, statistics={"gram": "maybe"})(by_gram)  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_broken_in_a_source_is_nan_whatever_a_kernel_makes_of_it(
    value: float, dtype: torch.dtype
) -> None:
    @merge_method(base="none", paper=PAPER, name="mended")
    def mend(tensors: Tensor) -> Tensor:
        """Average what is a number."""
        return tensors.nan_to_num_(0, 0, 0).mean(0)

    models = {"a": torch.ones(2, 3, dtype=dtype), "b": torch.zeros(2, 3, dtype=dtype)}
    models["b"][1, 2] = value
    merged = merge_tensors("mended", models)
    assert merged.isnan().nonzero().tolist() == [[1, 2]] and float(merged[0, 0]) == 0.5


def test_numbers_whose_sum_overflows_are_not_broken() -> None:
    @merge_method(base="none", paper=PAPER, name="largest")
    def largest(tensors: Tensor) -> Tensor:
        """Take the largest."""
        return tensors.amax(0)

    models = {"a": torch.full((9,), 3e38), "b": torch.zeros(9)}
    assert torch.equal(merge_tensors("largest", models), models["a"])


def bare(tensors: Tensor, scale: float) -> Tensor:
    """Scale.

    Args:
        scale: factor.
    """
    return tensors[0] * scale


def undocumented(tensors: Tensor, scale: Annotated[float, SCALE]) -> Tensor:
    """Scale.

    Args:
        tensors: the models.
    """
    return tensors[0] * scale


def second_default(tensors: Tensor, scale: Annotated[float, SCALE] = 1) -> Tensor:
    """Scale.

    Args:
        scale: factor.
    """
    return tensors[0] * scale


def loose(tensors: Tensor, *scales: float) -> Tensor:
    """Scale."""
    return tensors[0]


def blind(role: str) -> Tensor:
    """Make something up."""
    return torch.zeros(())


def greedy(tensors: Tensor, deltas: Tensor) -> Tensor:
    """Take both."""
    return deltas[0]


def baseless(deltas: Tensor) -> Tensor:
    """Take a delta."""
    return deltas[0]


def ties(tensors: Tensor) -> Tensor:
    """Take a name that is taken."""
    return tensors[0]


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        (bare, TypeError, "argument 'scale': expected Annotated"),
        (undocumented, ValueError, "'scale': has no line 'scale: ...' under 'Args:'"),
        (second_default, TypeError, "'scale': the default belongs into the declared domain"),
        (loose, TypeError, "a kernel names each of its arguments"),
        (blind, TypeError, "exactly one of 'deltas', 'tensors' and"),
        (greedy, TypeError, "exactly one of 'deltas', 'tensors' and"),
        (baseless, TypeError, "'deltas' need base=\"required\""),
        (ties, ValueError, "two merge methods are named 'ties': one in evomerge.methods.ties"),
    ],
)
def test_mistakes_fail_at_import(
    kernel: Callable[..., Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        merge_method(base="none", paper=PAPER)(kernel)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", methods.names())
def test_built_in_methods_say_what_they_are(name: str) -> None:
    method = methods.get(name)
    assert method.summary.endswith(".") and "\n" not in method.summary
    assert method.paper.startswith("https://")
    assert all(section in method.doc for section in ("Args:", "Returns:", "Paper:", "Deviations:"))
    assert all(parameter.doc.endswith(".") for parameter in method.parameters)
    for parameter in method.parameters:
        assert parameter.domain.problem(parameter.default) is None
