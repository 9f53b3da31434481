"""Laws that every registered method obeys, whatever its parameters, and those of some."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge import methods
from evomerge.methods import Method, merge_tensors
from evomerge.testing.methods import MethodContract, laws, merges


class TestEveryMethod(MethodContract):
    @pytest.fixture(scope="class", params=methods.names())
    def subject(self, request: pytest.FixtureRequest) -> Method:
        return methods.get(request.param)


@pytest.mark.parametrize("name", ["linear", "passthrough"])
@given(data=st.data())
@laws
def test_equal_sources_merge_to_themselves(name: str, data: st.DataObject) -> None:
    merge = data.draw(merges(methods.get(name)))
    merge["parameters"].pop("scale", None)
    merge["parameters"]["normalize"] = True
    if name == "passthrough":
        del merge["parameters"]["normalize"]
    source = next(iter(merge["models"].values()))
    merge["models"] = dict.fromkeys(merge["models"], source)
    torch.testing.assert_close(merge_tensors(**merge), source.float())


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
@given(data=st.data())
@laws
def test_zero_weights_give_the_base(name: str, data: st.DataObject) -> None:
    merge = data.draw(merges(methods.get(name)))
    merge["parameters"]["weight"] = 0
    assert torch.equal(merge_tensors(**merge), merge["base"].float())


@given(data=st.data())
@laws
def test_density_1_is_no_trim_and_no_drop(data: st.DataObject) -> None:
    merge = data.draw(merges(methods.get("task_arithmetic")))
    plain = merge_tensors(**merge)
    full = {**merge["parameters"], "density": 1}
    rescale = data.draw(st.sampled_from([True, False, "density"]))
    dropped = {**merge, "method": "dare_linear", "parameters": {**full, "rescale": rescale}}
    assert torch.equal(merge_tensors(**dropped), plain)
    elected = merge_tensors(**{**merge, "method": "ties", "parameters": full})
    drawn = {**merge, "method": "dare_ties", "parameters": {**full, "rescale": rescale}}
    assert torch.equal(merge_tensors(**drawn), elected)


@given(data=st.data())
@laws
def test_density_0_keeps_nothing(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["ties", "dare_linear", "dare_ties"]))
    merge = data.draw(merges(methods.get(name)))
    merge["parameters"]["density"] = 0
    assert torch.equal(merge_tensors(**merge), merge["base"].float())


@given(data=st.data())
@laws
def test_ends_of_the_arc(data: st.DataObject) -> None:
    merge = data.draw(merges(methods.get("slerp")))
    for t, end in ((0, merge["base"]), (1, merge["models"]["m0"])):
        merge["parameters"]["t"] = t
        torch.testing.assert_close(merge_tensors(**merge), end.float())
