"""The tokenizer of merged models: that of the donor."""

from __future__ import annotations

from typing import Any

from evomerge.checkpoint import Checkpoint


def load_tokenizer(donor: Checkpoint, trust_remote_code: bool = False) -> Any:
    """The tokenizer beside ``donor``, with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(donor.folder, trust_remote_code=trust_remote_code)
