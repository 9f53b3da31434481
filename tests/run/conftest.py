"""A job that takes statistics."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def by_fisher(small: dict[str, Any]) -> dict[str, Any]:
    """A search over the embedded family, by a method that requires a statistic and one that does not."""
    return {
        **small,
        "models": {
            "base": "embedded:base",
            "sources": {"chat": "embedded:chat", "sea": "embedded:sea"},
            "tokenizer": "chat",
        },
        "space": {"methods": ["fisher", "linear"], "start": ["uniform", "fisher"]},
        "optimizer": {"name": "random", "population": 3},
    }
