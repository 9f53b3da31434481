"""What a merged model takes over whole: tokenizer, chat template, generation config, special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Donor(Protocol):
    """A checkpoint, or one in the place of whose tokenizer there is another."""

    @property
    def name(self) -> str:
        """As messages call it."""
        ...

    @property
    def folder(self) -> Path:
        """A model of the architecture, with its generation config; it may have other rows of tokens."""
        ...

    @property
    def tokenizer_folder(self) -> Path:
        """The tokenizer's files, and the chat template."""
        ...

    def check_unchanged(self) -> None:
        """Refuse to go on with weights that are not those that were opened."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's ``config.json``, for its special tokens."""
        ...
