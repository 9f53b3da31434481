"""Regular expressions that are given up."""

from __future__ import annotations

import pytest

from evomerge import patterns
from evomerge.errors import InputError


def test_a_pattern_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.patterns.PATIENCE", 0.2)
    name = "model.layers.12.self_attn.q_proj.weight"
    with pytest.raises(InputError, match=r"is not matched with model\.layers"):
        patterns.found(r"(.+)(.+)(.+)(.+)(.+)(.+)(.+)\7\6\5", name)
    assert patterns.found(r"q_proj\.weight$", name)


def test_what_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="expected a regular expression, found "):
        patterns.check("(")
    patterns.check(r"[[a]")
